"""Are the synthetic images of a client nearer to its own records than to as many held-out ones of the same class?

    T = 1/J Σ_r 1/m Σ_s [ min_{x ∉ D_r} d(s, x) − min_{x ∈ D_r} d(s, x) ]              s, x of one class
    p = (1 + #{ T_b ≥ T })/(1 + B)

    D_r   members of run r, half of the pool in every class      m   synthetic images of run r, of classes in the pool
    T_b   the same with the rows drawn anew as they were: row 2j class by class, row 2j + 1 its complement

All J runs are one statistic. Where releases do not depend on the rows every draw was as likely as the true one, so p is
exact however runs, records and images depend on each other. Members and held-out records are equally many in every
class: the nearest of more records is nearer, whatever leaks.

The share of images that are nearer to a member than to any held-out record, ½ without a leak, says the same without a
unit. It has less power: an image counts as much for a hair as for a copy.

Small mixing weights are invisible. In a Gaussian toy of 200 + 200 records, ten images that are means with an extra
weight of one member, a single run is found at weight .6 and seldom at .15: the smallest T that would have been found
stands beside T.

Source  randomisation tests: Fisher, "The Design of Experiments", 1935; p never 0: Phipson, Smyth, SAGMB 9, 2010.
Code    none read.
Differs distances are those of record_distances.py; LPIPS is NOT_RUN where its weights were not on disk.
Reduces one run: `fedsim.audit.statistics.permutation.nearest_gap`.
Cost    distances of m images to the pool per run; for the findings B × m × J × 64 look-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from pydantic import Field, field_validator

from attacks.alone import alone
from attacks.membership_findings import rows_of
from attacks.record_distances import Distance, Neighbours, lacking, of_release
from attacks.record_findings import curious_server, over_targets
from fedsim.audit.statistics.permutation import permuted_members
from fedsim.audit.types import Finding, Release, Scores, Status, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError

DEPTH = 64
"""Nearest candidates looked at first; further ones only where all of these are on one side."""
ABSENT = "its weights were not on disk when the attack ran: see fedsim/audit/perceptual.py for where they go"
METRICS = {"nearest_gap": 0.0, "nearer_to_member": 0.5}
"""What is reported, and what it is without a leak; the first is tested."""


class Config(Section):
    """Settings of the nearest-neighbour attack."""

    name: Literal["nearest_neighbour"] = "nearest_neighbour"
    distances: tuple[Distance, ...] = Field(
        default=("standardised", "pixels", "ssim", "lpips"), strict=False, min_length=1
    )
    """How images are compared; the first is the registered one, the others are exploratory. lpips is not run where its
    weights are not on disk."""
    permutations: int = Field(default=999, ge=19)
    """B: membership rows drawn for the p-value."""
    panels: int = Field(default=0, ge=0, le=24)
    """Synthetic images shown on the card's page beside the records nearest to them; private records are then on the
    page. 0: none."""

    @field_validator("distances")
    @classmethod
    def _once(cls, distances: tuple[Distance, ...]) -> tuple[Distance, ...]:
        if len(set(distances)) < len(distances):
            raise ValueError(f"got {', '.join(distances)}; valid: each one once")
        return distances


class NearestNeighbour:
    """The attack."""

    Config = Config
    statistic: ClassVar[str] = "score.nearest"
    """Name of its score of candidates: minus the distance to the nearest synthetic image."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """The server, which holds records of which it asks whether they are the client's."""
        return curious_server()

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`class` (m); `order.<distance>` (m, w) and `sorted.<distance>` (m, w), as `Neighbours` has them.

        `score.nearest` (N) under the first distance, −∞ where nothing of the class was released.
        """
        found: dict[str, np.ndarray] = {}
        for place, name in enumerate(self.config.distances):
            if (reason := lacking(name)) and place == 0:
                raise UserError(f"nearest_neighbour: {name} is the registered distance, and {reason}")
            if reason:
                continue
            seen = of_release(view, view.released, name)
            found |= {"class": seen.classes, f"order.{name}": seen.order, f"sorted.{name}": seen.distances}
            if place == 0:
                found["score.nearest"] = -seen.least(len(view.candidates))
        return found

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Gap and share of every distance; the gap of the first one is the confirmatory one."""
        members, labels = rows_of(truths)
        balanced(members, labels)
        found: list[Finding] = []
        for name in self.config.distances:
            if not all(f"order.{name}" in one for one in scores):
                found += [self._blank(name, metric, Status.NOT_RUN, ABSENT) for metric in METRICS]
                continue
            seen = [Neighbours(one["class"], one[f"order.{name}"], one[f"sorted.{name}"]) for one in scores]
            found += self._findings(name, seen, members, labels)
        return found

    def _findings(
        self,
        distance: Distance,
        seen: Sequence[Neighbours],
        members: Bool[np.ndarray, "rows n"],
        labels: Int[np.ndarray, "n"],
    ) -> list[Finding]:
        values = np.concatenate([compared(one, row[None]) for one, row in zip(seen, members, strict=True)])
        null = drawn(seen, members, labels, self.config.permutations) if np.isfinite(values).all() else None
        found = []
        for column, metric in enumerate(METRICS):
            note = "a run released no image of a class that is asked about"
            details = {"statistic": distance, "synthetic_images": [len(one.classes) for one in seen]}
            first = replace(self._blank(distance, metric, Status.INCONCLUSIVE, note), details=details)
            bounds = (0.0, 1.0) if metric == "nearer_to_member" else None
            if null is not None:
                first = over_targets(first, values[:, column], null[:, column], bounds)
            found.append(first)
        return found

    def _blank(self, distance: Distance, metric: str, status: Status, note: str) -> Finding:
        """Without a number; the gap by the first distance is the confirmatory one."""
        return Finding(
            id=f"nearest_neighbour.{distance}.{Release.CLIENT_SETS}.{metric}", attack="nearest_neighbour",
            threat=self.threat.name, release=Release.CLIENT_SETS, metric=metric, estimate=None, null=METRICS[metric],
            confirmatory=metric == "nearest_gap" and distance == self.config.distances[0], status=status, note=note,
            details={"statistic": distance},
        )  # fmt: skip


def balanced(members: Bool[np.ndarray, "rows n"], labels: Int[np.ndarray, "n"]) -> None:
    """`UserError` unless every class has as many members as held-out records."""
    for label in np.unique(labels):
        inside, number = members[0][labels == label].sum(), (labels == label).sum()
        if 2 * inside != number:
            raise UserError(
                f"candidates of class {label}: got {inside} members among {number}; valid: as many held-out records as "
                "members, the nearest of more records is nearer whatever leaks"
            )


def compared(seen: Neighbours, rows: Bool[np.ndarray, "b n"]) -> Float64[np.ndarray, "b 2"]:
    """Gap and share of one run under each membership, over images of classes in the pool; NaN where there are none."""
    total, number = np.zeros((len(rows), 2)), 0
    for order, distances in zip(seen.order, seen.distances.astype(np.float64), strict=True):
        places = order[order >= 0]
        if not len(places):
            continue
        members = rows[:, places[:DEPTH]]
        if (members.all(1) | ~members.any(1)).any():
            members = rows[:, places]
        inside, outside = distances[members.argmax(1)], distances[members.argmin(1)]
        total[:, 0] += outside - inside
        total[:, 1] += (inside < outside) + 0.5 * (inside == outside)
        number += 1
    return total / number if number else np.full((len(rows), 2), np.nan)


def drawn(
    seen: Sequence[Neighbours], members: Bool[np.ndarray, "rows n"], labels: Int[np.ndarray, "n"], draws: int
) -> Float[np.ndarray, "draws 2"]:
    """Gap and share, mean over runs, with all rows drawn anew as they were, that often."""
    rng, total = numpy_stream(0, "nearest_neighbour", "membership rows"), np.zeros((draws, 2))
    for pair in range(0, len(seen), 2):
        even = permuted_members(members[pair], labels, draws, rng)
        total += compared(seen[pair], even) + compared(seen[pair + 1], ~even)
    return total / len(seen)


if __name__ == "__main__":
    alone(__file__)
