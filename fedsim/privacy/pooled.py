"""One noisy sum over all records, with the noisy count of every class beside it: where the classes are not told apart.

    v = Σ_i [ clip_C(ψ(x_i) − a), κ e_{y_i} ]        ṽ = v + σ Δ · N(0, I)        n̂_c = ṽ[d + c] / (κ q)

    e_y   unit vector of class y        the other symbols, the grid and the clipping are those of mechanism.py

Sensitivity. A record adds one vector of norm at most √(C² + κ²) = Δ.
        add or remove a record: ‖v − v′‖ ≤ Δ.
        replace, same class:    [r − r′, 0], ‖v − v′‖ ≤ 2C.
        replace, other class:   [r − r′, κ (e_y − e_y′)], ‖v − v′‖ ≤ √(4C² + 2κ²), within 2Δ.
So it costs what a release of class sums costs. Where only the total of those is wanted, the noise in it is less by √k.

Source  as mechanism.py.        Code    none read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fedsim.privacy.mechanism import Mechanism, contributions, noised
from fedsim.privacy.noise import Noise
from fedsim.types import UserError


@dataclass(frozen=True)
class PooledSum:
    """What such a release leaves behind. It holds no exact number."""

    values: Float64[Tensor, "e"]
    """ṽ, e = d + k."""
    classes: int
    """k."""
    kappa: float
    """κ."""
    rate: float
    """q."""
    simulated: bool
    """Whether the noise can be repeated from a seed."""

    @property
    def counts(self) -> Float64[Tensor, "k"]:
        """n̂: records of each class, estimated; may be negative."""
        return self.values[len(self.values) - self.classes :] / (self.kappa * self.rate)

    @property
    def total(self) -> Float64[Tensor, "d"]:
        """Σ (ψ − a) over all records, estimated."""
        return self.values[: len(self.values) - self.classes] / self.rate

    def mean(self, counts: Float64[Tensor, "k"], least: float) -> Float64[Tensor, "d"]:
        """The total over the records of all classes, by `counts`; `least` is n_min."""
        if not least > 0:
            raise UserError(f"least: got {least}; valid: more than 0")
        return self.total / counts.clamp(min=0).sum().clamp(min=least)


def release_pooled(
    pieces: Iterable[tuple[Float[Tensor, "n d"], Int64[Tensor, "n"]]],
    centre: Float[Tensor, "d"],
    num_classes: int,
    mechanism: Mechanism,
    noise: Noise,
) -> PooledSum:
    """ṽ of the records in all pieces, (ψ(x), y); the exact sum lives in this call only."""
    width = len(centre)
    total = torch.zeros((1, width + num_classes), dtype=torch.int64)
    for vectors, labels in pieces:
        rows = contributions(vectors, centre, mechanism)
        total[0, :width] += rows[:, :-1].sum(0)
        total[0, width:].index_add_(0, labels.cpu(), rows[:, -1])
    found = noised(total, mechanism, noise)
    return PooledSum(found.values[0], num_classes, found.kappa, found.rate, found.simulated)
