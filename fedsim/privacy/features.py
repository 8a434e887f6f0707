"""`privacy: features`: noisy class sums of what networks see in a record (mechanism.py)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsim.privacy.agreement import Agreement, Terms
from fedsim.privacy.mechanism import Mechanism


class Config(Terms):
    """Noisy class sums of features: the network targets of a round are released once, steps cost nothing further."""

    name: Literal["features"] = "features"
    clip: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """C: norm that a record's centred features are clipped to."""
    kappa: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """κ: size of the entry that a record adds to the noisy count of its class; the sensitivity is √(C² + κ²)."""
    least: float = Field(default=10.0, gt=0)
    """n_min: records under which a noisy count is not believed; such a class is left out of the upload."""


class Features(Agreement):
    """The agreement of a run whose clients release class sums of features."""

    Config = Config

    def __init__(self, config: Config, releases: int) -> None:
        super().__init__(config, releases)
        self.mechanism = Mechanism(config.clip, config.kappa, self.sigma, config.rate)
