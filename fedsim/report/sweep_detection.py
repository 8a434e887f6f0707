"""What filters made of the clients that attacked: scores against honest ones, and who was flagged at which threshold.

    AUROC                the attacker's score against those of the honest clients of its round, ties ½
    flagged              share of the attackers' uploads that a filter left out at the threshold in its config
    flagged, calibrated  the same at thresholds from the clean runs of the same defences: of all judged scores there the
                         one that 5 % of further clean uploads exceed at most (fedsim/training/calibration.py), or the
                         largest where there are too few for that

A filter that flags its attacker changes the rounds that follow, and calibrated flags are read off the run as it was.
Scores of one round share a median and a scale, so that uploads are not independent pieces. Clean scores of all
seeds are taken together, those of the attacked run's own seed among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsim.report.sweep_cells import Cell
from fedsim.training.calibration import least, threshold

RATE = 0.05
"""Share of clean uploads that a calibrated threshold may flag."""
Said = Mapping[str, Mapping[str, Any]]
"""By filter and client: score, flagged, judged."""
Count = tuple[int, int]
"""So many of so many."""


@dataclass(frozen=True)
class Calibrated:
    """A filter's threshold."""

    value: float
    scores: int
    """Clean scores it is from."""

    @property
    def kept(self) -> bool:
        """Whether there were enough for `RATE`; else it is the largest."""
        return self.scores >= least(RATE)


def rounds(cell: Cell) -> Iterator[tuple[Said, Sequence[int]]]:
    """What the filters said in each round, and the clients that attacked in it."""
    said = cell.result.get("defenses") or [{} for _ in cell.result.get("backdoor", {}).get("acted", ())]
    acted = cell.result.get("backdoor", {}).get("acted") or [[] for _ in said]
    return zip(said, acted, strict=True)


def detection(cell: Cell) -> float | None:
    """AUROC over all rounds and filters. None without a filter or an attack.

    Whom a filter could not judge it did not suspect: below all scores.
    """
    wins, pairs = 0.0, 0
    for verdicts, attackers in rounds(cell):
        for said in verdicts.values():
            scores = {int(client): score if judged else -math.inf for client, (score, _, judged) in said.items()}
            bad = [score for client, score in scores.items() if client in attackers]
            good = [score for client, score in scores.items() if client not in attackers]
            wins += sum((one > score) + 0.5 * (one == score) for one in bad for score in good)
            pairs += len(bad) * len(good)
    return wins / pairs if pairs else None


def flagged(cell: Cell, *, honest: bool = False) -> Count | None:
    """Uploads of clients that attacked, or of the honest ones, that a filter flagged, of those that one looked at."""
    return _counted(cell, honest, lambda name, score, flag, judged: flag)


def flagged_calibrated(cell: Cell, thresholds: Mapping[str, Calibrated]) -> Count | None:
    """The same of clients that attacked, at these thresholds; None where a filter of the run has none."""
    if any(name not in thresholds for verdicts, _ in rounds(cell) for name in verdicts):
        return None
    return _counted(cell, False, lambda name, score, flag, judged: judged and score > thresholds[name].value)


def calibrated(clean: Sequence[Cell]) -> dict[str, Calibrated]:
    """A threshold of every filter that judged an upload in these runs without attackers."""
    scores: dict[str, list[float]] = {}
    for cell in clean:
        for verdicts, _ in rounds(cell):
            for name, said in verdicts.items():
                scores.setdefault(name, []).extend(score for score, _, judged in said.values() if judged)
    found = {name: np.array(one, dtype=np.float64) for name, one in scores.items() if one}
    return {
        name: Calibrated(threshold(one, RATE) if len(one) >= least(RATE) else float(one.max()), len(one))
        for name, one in found.items()
    }


def _counted(cell: Cell, honest: bool, hit: Callable[[str, float, bool, bool], bool]) -> Count | None:
    hits, looked = 0, 0
    for verdicts, attackers in rounds(cell):
        clients = {client for said in verdicts.values() for client in said if (int(client) in attackers) != honest}
        looked += len(clients)
        hits += sum(
            any(hit(name, *said[client]) for name, said in verdicts.items() if client in said) for client in clients
        )
    return (hits, looked) if looked else None
