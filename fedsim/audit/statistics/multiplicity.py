"""Several tests on one card: p-values that hold for all of them together.

    Holm         p̃_(i) = max_{j ≤ i} min(1, (n − j + 1) p_(j))         p_(1) ≤ … ≤ p_(n)
    Bonferroni   p̃_i = min(1, n p_i)

Rejecting where p̃ ≤ α has a chance of at most α for any false rejection, however the tests depend on each other.

Source  Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
Code    none read.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from fedsim.types import UserError


def holm(p_values: Float[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Adjusted p-values in the order given; never above Bonferroni's."""
    _check(p_values)
    n = len(p_values)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(n)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, (n - np.arange(n)) * p_values[order]))
    return adjusted


def bonferroni(p_values: Float[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Adjusted p-values in the order given."""
    _check(p_values)
    return np.minimum(1.0, len(p_values) * p_values.astype(np.float64))


def _check(p_values: Float[np.ndarray, "n"]) -> None:
    if not bool(((p_values >= 0) & (p_values <= 1)).all()):
        raise UserError(f"p_values: got {p_values.tolist()}; valid: numbers in [0, 1]")
