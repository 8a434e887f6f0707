"""`privacy: gradients`: noisy sums of gradients that were clipped record by record, one release for every step.

    row_i = clip_C(∇_w ℓ(w; x_i, y_i))      a record's own gradient, as a vector      ṽ = Σ_i [row_i, κ] + σΔ · N(0, I)

It is the way of DP-SGD, for methods whose real side is a gradient: the weights at which it is asked for depend on the
releases before, so that nothing can be released ahead, and R rounds of T steps pay R·T releases (mechanism.py,
pooled.py). Served are `dc`, `dsa`, `idc`, `meta_knowledge` and, for comparison, `dm`, under `feddm`, `one_shot` and
`fedmk`; what a row is for each is told by gradient/private_gradients.py and distribution/private_pixels.py.

Source  Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133, for clipping record by
        record, sampling and noise. Its use for distillation is derived here from the sensitivity of mechanism.py.
Code    none read.
Cost    a gradient for every record that takes part (`rate`), and noise in as many dimensions as weights are matched.
        Each release is kept with its ledger: 8 bytes per entry and step.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsim.privacy.agreement import Agreement, Terms
from fedsim.privacy.mechanism import Mechanism


class Config(Terms):
    """Noisy sums of clipped gradients: every step on the synthetic images is a release."""

    name: Literal["gradients"] = "gradients"
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """C: norm that a record's gradient is clipped to."""
    kappa: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    """κ: size of the entry that a record adds to the noisy count of its class; the sensitivity is √(C² + κ²)."""
    least: float = Field(default=10.0, gt=0)
    """n_min: records under which a noisy count, mean over the steps, is not believed; such a class is not uploaded."""


class Gradients(Agreement):
    """The agreement of a run whose clients release sums of gradients."""

    Config = Config

    def __init__(self, config: Config, releases: int) -> None:
        super().__init__(config, releases)
        self.mechanism = Mechanism(config.clip, config.kappa, self.sigma, config.rate)
