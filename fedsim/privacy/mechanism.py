"""Per-class sums of clipped vectors with Gaussian noise, and the clipping, grid and noise that every release shares.

Real data enter a private run in no other way than such sums: per class here, one over all classes in pooled.py, one of
gradients in dp_sgd.py.

    r_i  = clip_C(ψ(x_i) − a)               clip_C(u) = u · min(1, C/‖u‖)
    v_c  = Σ_{i: y_i = c} [r_i, κ]          for all k classes, held or not; the last entry is κ n_c
    ṽ_c  = v_c + σ Δ · N(0, I)              Δ = √(C² + κ²)
    n̂_c  = ṽ_c[last] / κ                    target_c = ṽ_c[rest] / max(n̂_c, n_min)

    ψ  vector of an image, [embedding, logits] as one      a  public centre      q  public rate of Poisson sampling
    C  clipping norm     κ  size of the count's entry      σ  noise multiplier; deviation σΔ in every coordinate

Sensitivity. A record adds one vector [r, κ] of norm at most √(C² + κ²) = Δ to one class.
        add or remove a record: one class moves by that vector, ‖v − v′‖ ≤ Δ.
        replace, same class:    [r, κ] − [r′, κ] = [r − r′, 0], ‖v − v′‖ ≤ 2C.
        replace, other class:   two classes move by at most Δ each, ‖v − v′‖ ≤ √2 Δ.
        Both replacements are within 2Δ, hence the accountant's z = σ/2 (conservative by up to √2). Every record is in
        one class, so all k sums together are one release.
Exactly so in floating point: clipping is in float64 to a norm 2⁻⁴⁰ below C, coordinates are cut towards zero to whole
        multiples of a power of two of about 2⁻³⁰Δ, and sums are of integers. No order of summation, no chunk and no
        rounding changes them. The noise is rounded to the same grid: as the sum lies on it, that is rounding what is
        released, and its last bits say nothing of the sum. What is left of the known weakness of floating-point noise
        (Mironov, "On Significance of the Least Significant Bits for Differential Privacy", CCS 2012) is that float64
        normals are finitely many; the proof is of ideal ones.
A vector that is not finite counts as the centre, its record as any other: nothing is skipped for what the data are.

Source  Gaussian mechanism: Dwork and Roth, "The Algorithmic Foundations of Differential Privacy" (2014), appendix A.
        Random features summed and noised once, then training as long as one likes: Harder, Adamczewski, Park,
        "DP-MERF", AISTATS 2021, arXiv 2002.11603. The appended count and the centre are choices made here.
Code    none read.
Cost    a forward pass; no per-record gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fedsim.privacy.accountant import Releases
from fedsim.privacy.noise import Noise
from fedsim.types import UserError

BITS = 30
"""Bits of the grid beneath the sensitivity."""
MOST_SIGMA = 2.0**20
"""Largest σ: noise of 2⁵ deviations then takes 2⁵⁵ steps of the grid, and 64-bit sums of it do not overflow."""


@dataclass(frozen=True)
class Mechanism:
    """C, κ, σ, q: public numbers, the same for all classes."""

    clip: float
    """C."""
    kappa: float
    """κ; its choice splits the noise between the sums and the counts. 0: no count is released (dp_sgd.py)."""
    sigma: float
    """σ."""
    rate: float = 1.0
    """q; 1: every record is in every release."""

    def __post_init__(self) -> None:
        for name in ("clip", "kappa", "sigma", "rate"):
            value = getattr(self, name)
            low = name == "kappa" and value == 0
            if type(value) not in (int, float) or not (0 < value < math.inf or low) or (name == "rate" and value > 1):
                most = "at most 1" if name == "rate" else "finite"
                raise UserError(f"{name}: got {value!r}; valid: one number for all classes, more than 0 and {most}")

        if self.sigma > MOST_SIGMA:
            raise UserError(f"sigma: got {self.sigma:g}; valid: at most {MOST_SIGMA:.0f}, beyond which noise and sums "
                            "do not fit 64 bits; give a smaller sigma or a larger target_epsilon")  # fmt: skip
        if not 2.0**-900 < self.sensitivity < 2.0**900:
            raise UserError(f"clip: got {self.clip:g} with kappa {self.kappa:g}; valid: numbers whose grid is one too")

    @property
    def sensitivity(self) -> float:
        """Δ: how far neighbours' sums lie apart at most under `add_remove`; under `replace` 2Δ."""
        return math.hypot(self.clip, self.kappa)

    @property
    def deviation(self) -> float:
        """σΔ: of the noise in every coordinate."""
        return self.sigma * self.sensitivity

    @property
    def grid(self) -> float:
        """Everything released is a multiple of this power of two."""
        return 2.0 ** (math.ceil(math.log2(self.sensitivity)) - BITS)

    def releases(self, number: int) -> Releases:
        """What so many of its releases are to the accountant."""
        return Releases(float(self.sigma), number, float(self.rate))


@dataclass(frozen=True)
class NoisySum:
    """What a release leaves behind. It holds no exact number; whatever is computed from it costs nothing further."""

    values: Float64[Tensor, "k e"]
    """ṽ: sums of every class and, last, κ times the count, all with noise; e = d + 1."""
    kappa: float
    """κ."""
    rate: float
    """q."""
    simulated: bool
    """Whether the noise can be repeated from a seed: then this is a simulation."""

    @property
    def counts(self) -> Float64[Tensor, "k"]:
        """n̂: records of each class, estimated; may be negative."""
        return self.values[:, -1] / (self.kappa * self.rate)

    @property
    def weights(self) -> Float64[Tensor, "k"]:
        """n̂ where it is positive, else 0."""
        return self.counts.clamp(min=0)

    def targets(self, least: float) -> Float64[Tensor, "k d"]:
        """Estimated mean of ψ − a over each class; `least` is n_min, records under which a count is not believed."""
        if not least > 0:
            raise UserError(f"least: got {least}; valid: more than 0")
        return self.values[:, :-1] / (self.rate * self.counts.clamp(min=least)).unsqueeze(1)


def release(
    pieces: Iterable[tuple[Float[Tensor, "n d"], Int64[Tensor, "n"]]],
    centre: Float[Tensor, "d"],
    num_classes: int,
    mechanism: Mechanism,
    noise: Noise,
) -> NoisySum:
    """ṽ of the records in all pieces, (ψ(x), y); no piece at all is a client without records, which releases too.

    The exact sum lives in this call only: more noise on the same sum would be another release.
    """
    total = torch.zeros((num_classes, len(centre) + 1), dtype=torch.int64)
    for vectors, labels in pieces:
        total.index_add_(0, labels.cpu(), contributions(vectors, centre, mechanism))
    return noised(total, mechanism, noise)


def contributions(
    vectors: Float[Tensor, "n d"], centre: Float[Tensor, "d"], mechanism: Mechanism
) -> Int64[Tensor, "n e"]:
    """[clip_C(ψ(x) − a), κ] of every record, in units of the grid, cut towards zero."""
    rows = clipped(finite(vectors.double().cpu() - centre.double().cpu()), mechanism.clip)
    counted = torch.cat([rows, torch.full((len(rows), 1), float(mechanism.kappa), dtype=torch.float64)], dim=1)
    return (counted / mechanism.grid).trunc().long()


def finite(rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    """Rows as they are; zero in the place of one that holds an infinity or a NaN."""
    return torch.where(torch.isfinite(rows).all(1, keepdim=True), rows, 0.0)


def clipped(rows: Float[Tensor, "n d"], clip: float) -> Float[Tensor, "n d"]:
    """u · min(1, C/‖u‖), a hair below C so that rounding cannot leave the ball; differentiable, for any float type.

    In float64 the hair is 2⁻⁴⁰. ‖u‖ is taken of u/max|u|, which neither overflows nor vanishes.
    """
    largest = rows.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    unit = rows / largest
    norms = unit.square().sum(1, keepdim=True).clamp(min=1.0).sqrt()  # of a zero row 1, where the root has a slope
    return unit * torch.minimum(largest, clip * (1 - 2.0**-40) / norms)


def noised(total: Int64[Tensor, "k e"], mechanism: Mechanism, noise: Noise) -> NoisySum:
    """ṽ = v + σΔ · N(0, I)."""
    values = perturbed(total, mechanism, noise)
    return NoisySum(values, float(mechanism.kappa), float(mechanism.rate), noise.simulated)


def perturbed(total: Int64[Tensor, "*e"], mechanism: Mechanism, noise: Noise) -> Float64[Tensor, "*e"]:
    """A sum in units of the grid, with noise, on the grid; noise that is not float64 is refused."""
    normal = noise.normal(*total.shape)
    if normal.dtype != torch.float64 or normal.shape != total.shape:
        raise UserError(f"noise: got {normal.dtype} {tuple(normal.shape)}; valid: float64 {tuple(total.shape)}")
    steps = (normal * (mechanism.deviation / mechanism.grid)).round().long()
    return (total + steps).double() * mechanism.grid
