"""What an attack's AUC would be, had the membership rows been drawn otherwise, or had one pair of runs been left out.

Rows are drawn before anything is computed: of every class half, row 2j + 1 the complement of row 2j. Where releases do
not depend on them, all draws are as likely, whatever else the numbers do; so with B of them

    p = (1 + #{ T_b ≥ T })/(1 + B)          T  mean AUC over targets, scores made again under each draw

is exact. It serves attacks whose score of one run uses the members of others; membership_thresholds.py has the same for
thresholds that do.

Source  randomisation tests: Fisher, "The Design of Experiments", 1935.
Cost    B times all scores and J sorts of N numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int

from fedsim.audit.statistics.permutation import permuted_members

Rescore = Callable[[Int[np.ndarray, "rows"], Bool[np.ndarray, "rows n"]], Mapping[str, np.ndarray]]
"""(runs, their members) → scores of these runs under each name, made from nothing else."""


def areas(scores: Float64[np.ndarray, "rows n"], members: Bool[np.ndarray, "rows n"]) -> Float64[np.ndarray, "rows"]:
    """AUC of every row, ties ½, by the sum of ranks."""
    found = np.empty(len(scores))
    for row, (line, own, inside) in enumerate(zip(np.sort(scores, axis=1), scores, members, strict=True)):
        mine, size = own[inside], int(inside.sum())
        ranks = (np.searchsorted(line, mine, "left") + np.searchsorted(line, mine, "right") + 1) / 2
        found[row] = (ranks.sum() - size * (size + 1) / 2) / (size * (len(own) - size))
    return found


def drawn_rows(
    members: Bool[np.ndarray, "rows n"], labels: Int[np.ndarray, "n"], rng: np.random.Generator
) -> Bool[np.ndarray, "rows n"]:
    """As many rows as `members`, drawn as those were."""
    even = permuted_members(members[0], labels, len(members) // 2, rng)
    return np.stack([even, ~even], axis=1).reshape(members.shape)


def null_areas(
    rescore: Rescore,
    members: Bool[np.ndarray, "rows n"],
    labels: Int[np.ndarray, "n"],
    draws: int,
    rng: np.random.Generator,
) -> dict[str, Float64[np.ndarray, "draws"]]:
    """Mean AUC over targets under each draw, for every name of `rescore`."""
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        drawn = drawn_rows(members, labels, rng)
        for name, scores in rescore(np.arange(len(members)), drawn).items():
            found.setdefault(name, []).append(float(areas(scores, drawn).mean()))
    return {name: np.array(values) for name, values in found.items()}


def without_each_pair(
    rescore: Rescore, members: Bool[np.ndarray, "rows n"]
) -> dict[str, list[Float64[np.ndarray, "kept n"]]]:
    """For every name, scores of the other runs with pair 0, 1, … left out of everything."""
    found: dict[str, list[np.ndarray]] = {}
    for pair in range(len(members) // 2):
        kept = np.flatnonzero(np.arange(len(members)) // 2 != pair)
        for name, scores in rescore(kept, members[kept]).items():
            found.setdefault(name, []).append(scores)
    return found
