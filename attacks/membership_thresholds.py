"""A threshold for every target from the other rows, and what its advantage is worth.

    τ_j = argmax_τ Σ_{k ≠ j, j̄} TPR_k(τ) − FPR_k(τ)          advantage = mean over j of TPR_j(τ_j) − FPR_j(τ_j)

    j̄   complement of row j

The members of a pair are in the thresholds of all others, so that advantages of pairs are not independent and
Student's t over pairs is not valid. Records whose difficulties spread by 3 and whose values by 1, no leak, 100 of them
in 5, 8 and 16 pairs, 200 audits each: for the loss threshold t rejects .12, .17, .17 at .05, and its interval of .95
covers .83, .79, .76; for RMIA with 5 and 8 pairs .10, .10 and .91, .88. The p of drawn rows rejects .04, .04, .03, and
the jackknife's interval covers .99. The AUC has no threshold, and no score of these two uses members: there t holds
(.04 to .07, and .91 to .97).

Source  the randomisation test of membership_randomisation.py; the figures: benchmarks/pairs_of_targets.py.
Code    none read.
Cost    for each draw a gather and a running sum of all scores per pair.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int

from attacks.membership_findings import Case, advantages
from attacks.membership_randomisation import drawn_rows
from fedsim.audit.statistics.pairs import LEAST_PAIRS
from fedsim.seeding import numpy_stream


def with_thresholds(case: Case, draws: int, name: str) -> Case:
    """The case with the best threshold of the other rows for every target, and what tests its advantage."""
    thresholds = OtherThresholds(case.scores)(case.members)
    if len(case.members) < 2 * LEAST_PAIRS:
        return replace(case, thresholds=thresholds)
    rng = numpy_stream(0, name, "membership rows")
    return replace(
        case,
        thresholds=thresholds,
        null_advantage=null_advantages(case.scores, case.members, case.labels, draws, rng),
        left_thresholds=thresholds_without_each_pair(case.scores, case.members),
    )


class OtherThresholds:
    """τ of every row: the best one of all rows but itself and its complement, for any members of the rows.

    `best_threshold` (membership_statistics.py) of the others' scores; they are sorted once.
    """

    def __init__(self, scores: Float64[np.ndarray, "rows n"]) -> None:
        pair = np.repeat(np.arange(len(scores)) // 2, scores.shape[1])
        everything, self._others = scores.ravel(), []
        order = np.argsort(everything, kind="stable")
        for own in range(len(scores) // 2):
            mine = order[pair[order] != own]
            levels, counts = np.unique(everything[mine], return_counts=True)
            self._others.append((mine, np.cumsum(counts) - 1, levels))

    def __call__(self, members: Bool[np.ndarray, "rows n"]) -> Float64[np.ndarray, "rows"]:
        """Of these members; half of every row are some."""
        lost_each = np.where(members, -1, 1).ravel()
        found = []
        for order, ends, levels in self._others:
            lost = np.concatenate([[0], np.cumsum(lost_each[order])[ends]])  # at or below each level: false − true ones
            place = int(np.argmax(lost))
            if place == 0:
                found.append(levels[0] - 1)
            else:
                found.append(levels[-1] if place == len(levels) else (levels[place - 1] + levels[place]) / 2)
        return np.repeat(np.array(found, dtype=np.float64), 2)


def null_advantages(
    scores: Float64[np.ndarray, "rows n"],
    members: Bool[np.ndarray, "rows n"],
    labels: Int[np.ndarray, "n"],
    draws: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "draws"]:
    """Mean advantage over targets under each draw, thresholds chosen again from the other rows."""
    thresholds, found = OtherThresholds(scores), []
    for _ in range(draws):
        drawn = drawn_rows(members, labels, rng)
        found.append(float(advantages(scores, drawn, thresholds(drawn)).mean()))
    return np.array(found)


def thresholds_without_each_pair(
    scores: Float64[np.ndarray, "rows n"], members: Bool[np.ndarray, "rows n"]
) -> list[Float64[np.ndarray, "kept"]]:
    """Thresholds of the other rows with pair 0, 1, … left out of everything; at least three pairs."""
    pair, found = np.arange(len(members)) // 2, []
    for own in range(len(members) // 2):
        kept = pair != own
        found.append(OtherThresholds(scores[kept])(members[kept]))
    return found
