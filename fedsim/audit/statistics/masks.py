"""How alike two pruning masks are, beside what masks of their sizes would be by chance.

    Hamming   share of equal bits                chance  κ_a κ_b + (1 − κ_a)(1 − κ_b)
    IoU       |a ∧ b| / |a ∨ b|                  chance  κ_a κ_b / (κ_a + κ_b − κ_a κ_b)
    corrected  (value − chance)/(1 − chance)     0 by chance, 1 for equal masks

    κ_a, κ_b  share kept, of each mask its own

Over several layers the expected numbers of equal bits, of common and of all kept bits are added up, each from the
layer's own shares: pruning over all layers keeps little of one and much of another, and the shares of the whole would
call that likeness. The chance of IoU is the ratio of the expectations; the expectation of the ratio differs by O(1/n).

Chance is what independent masks would have. Masks of networks that grew from the same weights are not independent
whatever they were trained on: hold such against `changed`, the bits that training turned over, and against pairs
that are known to be honest. Between different first weights likeness means nothing, as channels can change places.

Source  the similarity of tickets as a defence: arXiv 2109.10512, whose Hamming similarity has no chance level; the
        correction: Cohen, "A coefficient of agreement for nominal scales", 1960 (for Hamming it is his κ).
Code    none read.
Differs as above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.training.tickets import Masks
from fedsim.types import UserError

Measure = Literal["hamming", "iou"]
"""How likeness is measured."""


@dataclass(frozen=True)
class Likeness:
    """Of two masks."""

    value: float
    """0..1; the IoU of two masks that keep nothing is 1."""
    chance: float
    """The same of independent masks that keep as much of every layer, 0..1."""

    @property
    def corrected(self) -> float | None:
        """0 by chance, 1 where the masks are equal, negative below chance; None where chance is 1."""
        return None if self.chance >= 1 else (self.value - self.chance) / (1 - self.chance)


def likeness(left: Masks, right: Masks, measure: Measure) -> Likeness:
    """Of all layers together. Raises `UserError` where names or shapes differ."""
    return _likeness([_counted(left[name], right[name]) for name in _layers(left, right)], measure)


def by_layer(left: Masks, right: Masks, measure: Measure) -> dict[str, Likeness]:
    """Of each layer by itself. Raises `UserError` where names or shapes differ."""
    return {name: _likeness([_counted(left[name], right[name])], measure) for name in _layers(left, right)}


def changed(masks: Masks, start: Masks) -> dict[str, Tensor]:
    """masks XOR start: the bits that training turned over. Raises `UserError` where names or shapes differ."""
    return {name: masks[name] ^ start[name] for name in _layers(masks, start)}


@dataclass(frozen=True)
class _Counts:
    """Of one layer."""

    bits: int
    left: int
    right: int
    both: int


def _likeness(layers: list[_Counts], measure: Measure) -> Likeness:
    bits = sum(one.bits for one in layers)
    both = sum(one.both for one in layers)
    kept = sum(one.left + one.right for one in layers)
    expected = sum(one.left * one.right / one.bits for one in layers)  # of `both`
    if measure == "hamming":
        return Likeness((bits - kept + 2 * both) / bits, (bits - kept + 2 * expected) / bits)
    return Likeness(both / (kept - both), expected / (kept - expected)) if kept else Likeness(1.0, 1.0)


def _counted(left: Tensor, right: Tensor) -> _Counts:
    return _Counts(left.numel(), int(left.sum()), int(right.sum()), int((left & right).sum()))


def _layers(left: Masks, right: Masks) -> list[str]:
    odd = sorted(left.keys() ^ right.keys())
    odd += sorted(name for name in left.keys() & right.keys() if left[name].shape != right[name].shape)
    if odd or not left:
        raise UserError(f"masks: got {len(left)} and {len(right)} layers, of which {', '.join(odd[:3]) or 'none'} "
                        "fit; valid: the same names and shapes in both, at least one")  # fmt: skip
    return sorted(left)
