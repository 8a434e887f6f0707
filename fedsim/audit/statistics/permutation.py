"""A test of membership that is exact for any statistic: membership permuted within classes.

    p = (1 + #{b: T_b ≥ T}) / (1 + B)                              T_b: the statistic with the b-th permuted membership
    p̂ = (#{T_b > T} + U (1 + #{T_b = T})) / (1 + B)                U ~ U(0, 1): exactly uniform where nothing leaks

Members and non-members of a class were told apart by a draw, so without a leak every relabelling within the classes is
as likely as the true one; nothing is assumed of scores or of how they depend on each other. p is never below
1/(1 + B), and with 1 + B a multiple of 20 the level .05 is met exactly.

Source  Phipson, Smyth, "Permutation p-values should never be zero", SAGMB 9, 2010; ties as in any randomised test.
Code    none read.
Differs values of T less than a relative 10⁻⁹ apart count as equal: a sum taken in another order is no evidence.
Cost    B evaluations of the statistic, `AT_ONCE` membership bits at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from fedsim.audit.statistics.inputs import check_scores
from fedsim.types import UserError

Statistic = Callable[[Bool[np.ndarray, "_b _n"]], Float64[np.ndarray, "_b"]]
"""From rows of memberships (True: member) to one value each; more is more like a leak."""

AT_ONCE = 2**22
"""Membership bits handed to the statistic in one call."""


@dataclass(frozen=True)
class PermutationTest:
    """What the statistic is, and what it would be without a leak."""

    value: float
    """T."""
    p: float
    """Valid, and conservative where values tie."""
    p_randomised: float
    """p̂: for tests of uniformity; it depends on U."""
    null: Float64[np.ndarray, "_permutations"]
    """T_b."""


def permutation_test(
    statistic: Statistic,
    members: Bool[np.ndarray, "n"],
    classes: Int[np.ndarray, "n"],
    rng: np.random.Generator,
    permutations: int = 999,
) -> PermutationTest:
    """One-sided: T large against its values with membership permuted within classes."""
    if permutations < 1:
        raise UserError(f"permutations: got {permutations}; valid: at least 1, such as 999")
    value = float(statistic(members[None, :])[0])
    rows = max(1, AT_ONCE // len(members))
    null = np.concatenate([
        statistic(permuted_members(members, classes, min(rows, permutations - start), rng))
        for start in range(0, permutations, rows)
    ])  # fmt: skip
    if not bool(np.isfinite(null).all() and np.isfinite(value)):
        raise UserError(f"statistic: got {value} and {int((~np.isfinite(null)).sum())} permuted values that are not "
                        "finite; valid: finite ones; are there members and non-members in every class?")  # fmt: skip
    margin = 1e-9 * max(abs(value), float(np.abs(null).max()))
    above, equal = int((null > value + margin).sum()), int((np.abs(null - value) <= margin).sum())
    p = (1 + above + equal) / (1 + permutations)
    return PermutationTest(value, p, (above + float(rng.random()) * (1 + equal)) / (1 + permutations), null)


def permuted_members(
    members: Bool[np.ndarray, "n"], classes: Int[np.ndarray, "n"], number: int, rng: np.random.Generator
) -> Bool[np.ndarray, "number n"]:
    """So many memberships, each with as many members in every class as the true one."""
    if len(classes) != len(members) or len(members) == 0:
        raise UserError(f"classes: got {len(classes)} for {len(members)} records; valid: one for each of at least one")
    rows = np.empty((number, len(members)), dtype=bool)
    for label in np.unique(classes):
        places = np.flatnonzero(classes == label)
        rows[:, places] = rng.permuted(np.tile(members[places], (number, 1)), axis=1)
    return rows


def mean_difference(scores: Float[np.ndarray, "n"]) -> Statistic:
    """Mean score of members − mean score of non-members."""
    check_scores("scores", scores)
    return partial(_mean_difference, scores.astype(np.float64))


def area(scores: Float[np.ndarray, "n"]) -> Statistic:
    """AUC of members' scores against non-members', ties ½, by the sum of ranks (Mann-Whitney)."""
    check_scores("scores", scores)
    ordered = np.sort(scores)
    return partial(
        _area, (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right") + 1) / 2
    )


def nearest_gap(distances: Float[np.ndarray, "m n"]) -> Statistic:
    """mean_s [ min over non-members − min over members ] of the distance of synthetic image s to a record.

    Infinite where s and the record are of different classes. Members and non-members of a class must be equally many:
    the nearest of more records is nearer.
    """
    order = np.argsort(distances, axis=1, kind="stable")
    return partial(_nearest_gap, order, np.take_along_axis(distances.astype(np.float64), order, axis=1))


def _mean_difference(scores: Float64[np.ndarray, "n"], rows: Bool[np.ndarray, "b n"]) -> Float64[np.ndarray, "b"]:
    inside, number = rows @ scores, rows.sum(1)
    return inside / number - (scores.sum() - inside) / (len(scores) - number)


def _area(ranks: Float64[np.ndarray, "n"], rows: Bool[np.ndarray, "b n"]) -> Float64[np.ndarray, "b"]:
    number = rows.sum(1)
    return (rows @ ranks - number * (number + 1) / 2) / (number * (len(ranks) - number))


def _nearest_gap(
    order: Int[np.ndarray, "m n"], nearest: Float64[np.ndarray, "m n"], rows: Bool[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b"]:
    """`nearest`: distances rising along each row, of the records in `order`."""
    total = np.zeros(len(rows))
    for places, distances in zip(order, nearest, strict=True):  # one image at a time: b × n bits
        members = rows[:, places]
        total += distances[members.argmin(1)] - distances[members.argmax(1)]
    return total / len(order)
