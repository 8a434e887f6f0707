"""A threshold from clean cases that keeps its false-positive rate, whatever the scores' law.

    θ = s_(⌈(1 − r)(n + 1)⌉)        flagged where s > θ

    s_(i)  i-th smallest score of n clean cases, larger is more suspicious     r  false-positive rate that is allowed

A further clean case, exchangeable with those n, is above θ with probability at most r.

Source  Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005 (conformal prediction).
Code    none read.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from fedsim.types import UserError


def threshold(clean: Float[np.ndarray, "n"], rate: float) -> float:
    """θ at `rate` = r, 0 < r < 1.

    Raises `UserError` for a rate outside that, for scores that are not a number, and for too few clean cases.
    """
    if not 0 < rate < 1:
        raise UserError(f"rate: got {rate}; valid: 0 < rate < 1")
    if np.isnan(clean).any():
        raise UserError("scores of clean cases: got some that are not a number; leave these cases out or mend them")
    place = math.ceil((1 - rate) * (len(clean) + 1) - 1e-9)  # 0.9 · 10 is 9, whatever the rounding
    if place > len(clean):
        raise UserError(f"rate {rate}: got {len(clean)} clean cases; valid: at least {least(rate)}, or a larger rate")
    return float(np.sort(clean)[place - 1])


def least(rate: float) -> int:
    """The fewest clean cases that a threshold at `rate` can be taken from: the largest score then."""
    return math.ceil(1 / rate - 1e-9) - 1
