"""Exploratory bounds on ε from every kind of planted record on every rung; none of them contradicts an accountant.

    ε_LB of E bounds, each at significance .05/E (Bonferroni): all of them hold together in 95 of 100 audits

Source  Steinke, Nasr, Jagielski, NeurIPS 2023, arXiv 2305.08846, by fedsim/audit/statistics/one_run.py.
Cost    one sort and one bisection for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool

from attacks.canary_ladder import RELEASES, Rung, threats
from fedsim.audit.statistics.one_run import lower_bound
from fedsim.audit.statistics.one_run_guesses import fixed_guesses
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Finding, Status
from fedsim.seeding import numpy_stream

Kind = Literal["crafted", "mislabelled", "natural", "ood_noise"]
"""What a canary is."""
FAMILY = 0.05
"""Chance that any of the bounds is too large."""


def exploratory(
    looked: Mapping[str, np.ndarray],
    kinds: np.ndarray,
    included: Bool[np.ndarray, "m"],
    registered: str,
    delta: float,
    share: float,
) -> list[Finding]:
    """One finding for every kind and rung but the registered one; `looked` holds the scores (m) of the rungs."""
    rungs: list[Rung] = [rung for rung in RELEASES if rung in looked]
    others: list[tuple[str, Rung]] = [
        (str(kind), rung) for kind in np.unique(kinds) for rung in rungs if (kind, rung) != (registered, "transcript")
    ]
    pictures = [(kind, rung) for kind, rung in others if rung == "transcript" or kind != "crafted"]
    found = []
    for kind, rung in others:
        if (kind, rung) not in pictures:
            note = "crafted canaries are vectors, no images: a set or a model has nothing to compare them with"
            found.append(_unseen(kind, rung, Status.NOT_RUN, note))
            continue
        mine = (kinds == kind) & np.isfinite(looked[rung])
        found.append(_bound(kind, rung, looked[rung][mine], included[mine], delta, share, FAMILY / len(pictures)))
    return found


def _bound(
    kind: str, rung: Rung, scores: np.ndarray, included: np.ndarray, delta: float, share: float, level: float
) -> Finding:
    m = len(scores)
    if (k := int(share * m + 1e-9)) < 1:
        return _unseen(kind, rung, Status.INCONCLUSIVE, f"too few: {m} planted records have a score")
    guesses = fixed_guesses(scores, included, k, k, numpy_stream(0, "one run", kind, rung))
    least = lower_bound(guesses, delta, level)
    return Finding(
        id=f"one_run_canaries.{kind}.{rung}.right_guesses", attack="one_run_canaries", threat=threats()[rung].name,
        release=RELEASES[rung], metric="right_guesses", estimate=clopper_pearson(guesses.right, guesses.made), null=0.5,
        note=f"ε is at least {least:.2f}, at a significance of {level:.2g}, as one of several such bounds",
        details={"kind": kind, "canaries": m, "guesses": guesses.made, "right": guesses.right, "delta": delta,
                 "epsilon_lower": least, "significance": level},
    )  # fmt: skip


def _unseen(kind: str, rung: Rung, status: Status, note: str) -> Finding:
    return Finding(
        id=f"one_run_canaries.{kind}.{rung}.right_guesses", attack="one_run_canaries", threat=threats()[rung].name,
        release=RELEASES[rung], metric="right_guesses", estimate=None, null=0.5, status=status, note=note,
        details={"kind": kind},
    )  # fmt: skip
