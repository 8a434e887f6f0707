"""`privacy: features`: noisy class sums of what networks see in a record (mechanism.py).

    precomputed   M networks of a pool, one release each, then any number of steps      M R releases in R rounds
    per_step      a new network and a release of its own for every one of T steps       T R releases

In either every release may take all records or a Poisson sample of them (`rate`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedsim.privacy.agreement import Agreement, Terms
from fedsim.privacy.mechanism import Mechanism


class Config(Terms):
    """Noisy class sums of features; whatever is done with them costs nothing further."""

    name: Literal["features"] = "features"
    clip: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """C: norm that a record's centred features are clipped to."""
    kappa: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """κ: size of the entry that a record adds to the noisy count of its class; the sensitivity is √(C² + κ²)."""
    least: float = Field(default=10.0, gt=0)
    """n_min: records under which a noisy count is not believed; such a class is left out of the upload."""
    mode: Literal["precomputed", "per_step"] = "precomputed"
    """`precomputed`: the networks of a pool are released once, before the first step; `per_step`: a new network (fresh,
    perturb) is released at every step, and paid for."""
    weighted: bool = True
    """Upload the noisy counts (they are paid for) as weights: an image then counts on the server for as many records as
    it stands for."""
    subspace: Literal["none", "random", "previous"] = "none"
    """Where vectors are projected before they are clipped: nowhere, onto random directions, or onto the main ones of
    what was uploaded in the round before (of noise images in round 1)."""
    dimension: int | None = Field(default=None, ge=1)
    """d': directions of the subspace."""

    centre: Literal["noise", "previous"] = "noise"
    """Public images whose mean vector is the centre a: noise, or from round 2 on what was uploaded in the round before,
    which lies nearer to real images, so that less of a vector is what all have in common."""

    @model_validator(mode="after")
    def _dimension_of_a_subspace(self) -> Config:
        if (self.subspace == "none") != (self.dimension is None):
            raise ValueError(
                f"dimension: got {self.dimension} with subspace: {self.subspace}; valid: a number of directions with "
                "random or previous, none without a subspace"
            )
        return self


class Features(Agreement):
    """The agreement of a run whose clients release class sums of features."""

    Config = Config

    def __init__(self, config: Config, releases: int) -> None:
        super().__init__(config, releases)
        self.mechanism = Mechanism(config.clip, config.kappa, self.sigma, config.rate)
        self.most_weight = float(config.public_bound) if config.weighted else None
        self.sends_previous = "previous" in (config.subspace, config.centre)
