"""Which records can be read off a client's synthetic images, against what held-out records look like in other runs.

    extracted    share of members with  min_s d(s, x) < τ_α                  τ_α   α-quantile of the same distance of
                                                                                   held-out records in shadow runs
    near copy    d(s, x₁)/mean(d(s, x₂), …, d(s, x₅₀)) < ρ                   x_i   i-th nearest candidate of s's class
    drawn        X = #{ members among the distinct x₁ of all s }             a record each synthetic image points to

In runs whose rows were drawn apart from each other, X is a sum of hypergeometric counts over classes where nothing
leaks. Rows 2j are; row 2j + 1 is the complement of row 2j. So the registered test is exact over the runs 2j together;
what it says of the first run alone is in the details. Interval and estimate are over all runs, in pairs.

τ_α is never chosen on the target or its complement. Every target is a shadow of the others, so a t test of `extracted`
against α would take dependent numbers for independent: there is an interval and no p-value. What makes a near copy is
its ratio alone; those of which x₁ is a member are counted.

Source  near copies by the ratio to further neighbours: Carlini, Hayes, Nasr, Jagielski, Sehwag, Tramèr, Balle,
        Ippolito, Wallace, "Extracting Training Data from Diffusion Models", USENIX Security 2023, arXiv 2301.13188.
        The hypergeometric test: Fisher's exact test.
Code    none read.
Differs the ratio is to the mean distance of real records to the synthetic image; theirs compares generated images.
Cost    distances of m images to the pool in every run, once for all targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Integer
from pydantic import Field
from scipy.special import betaincinv

from attacks.alone import alone
from attacks.membership_findings import rows_of, stacked
from attacks.membership_statistics import memberships
from attacks.record_distances import Distance, Neighbours, least_of_release, of_release
from attacks.record_findings import LEVEL, SHARED, curious_server
from fedsim.audit.statistics.hypergeometric import drawn_members, members_law
from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.statistics.power import POWER
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.statistics.roc import LEAST_FALSE
from fedsim.audit.types import Estimate, Finding, Knowledge, Release, Scores, Status, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.seeding import Streams


class Config(Section):
    """Settings of extraction."""

    name: Literal["extraction"] = "extraction"
    distance: Distance = "standardised"
    """How images are compared."""
    alpha: float = Field(default=0.01, gt=0, le=0.5)
    """α: share of held-out records of other runs that would count as extracted."""
    ratio: float = Field(default=0.5, gt=0, lt=1)
    """ρ: a nearest record that is nearer than this share of the mean of the next ones is a near copy."""
    neighbours: int = Field(default=50, ge=2)
    """Rank of the last of the next ones; fewer where a class has fewer candidates."""


class Extraction:
    """The attack."""

    Config = Config
    statistic: ClassVar[str] = "score.distance"
    """Name of its score of candidates: minus the distance to the nearest synthetic image."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """The server, which holds candidates and can run the protocol on records of its choice."""
        return curious_server(Knowledge.SHADOWS)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score.distance` (N), −∞ where nothing of the class was released; of every synthetic image `nearest` (m), −1
        where no candidate is of its class, and `ratio` (m); `threshold` (), τ_α, and `calibration` (), how many
        held-out distances it is of: NaN where they are too few."""
        seen = of_release(view, view.released, self.config.distance)
        members = memberships(view.shadows, len(view.candidates))
        least = np.stack([least_of_release(view, one.released, self.config.distance) for one in view.shadows])
        held_out = least[~members]
        return {
            "score.distance": -seen.least(len(view.candidates)),
            "nearest": seen.nearest(),
            "ratio": ratios(seen, self.config.neighbours),
            "threshold": np.array(threshold(held_out, self.config.alpha)),
            "calibration": np.array(len(held_out)),
        }

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Members among the nearest records, which is the confirmatory one; the share extracted; near copies."""
        members, labels = rows_of(truths)
        return [self._drawn(scores, members, labels), self._extracted(scores, members), self._copies(scores, members)]

    def _drawn(
        self, scores: Sequence[Scores], members: Bool[np.ndarray, "rows n"], labels: Int[np.ndarray, "n"]
    ) -> Finding:
        records = [distinct(one["nearest"]) for one in scores]
        blank = replace(self._blank("members_among_nearest", 0.5), confirmatory=True)
        if not all(map(len, records)):
            return replace(blank, note="a run released no image of a class that is asked about")
        shares = np.array([row[one].mean() for row, one in zip(members, records, strict=True)])
        first = counts(records[:1], members[:1], labels)
        apart = counts(records[::2], members[::2], labels)
        found, alone = drawn_members(*apart), drawn_members(*first)
        details = {
            "targets": shares.tolist(), "members_drawn": apart[0], "drawn": sum(apart[1]), "expected": found.expected,
            "first_run": {"members_drawn": first[0], "drawn": sum(first[1]), "expected": alone.expected, "p": alone.p},
        }  # fmt: skip
        estimate, note = self._interval(shares, found.share)
        return replace(
            blank, estimate=estimate, null=found.expected / sum(apart[1]), p=found.p, note=note, details=details,
            minimum_detectable=detectable(*apart[1:]), status=Status.MEASURED,
        )  # fmt: skip

    def _extracted(self, scores: Sequence[Scores], members: Bool[np.ndarray, "rows n"]) -> Finding:
        thresholds = np.array([float(one["threshold"]) for one in scores])
        blank = self._blank(f"extracted_at_{self.config.alpha:g}", self.config.alpha)
        if np.isnan(thresholds).any():
            number = int(min(one["calibration"] for one in scores))
            few = TooFew("held-out records of shadow runs", number, math.ceil(LEAST_FALSE / self.config.alpha - 1e-9))
            return replace(blank, note=str(few))
        below = -stacked(scores, "score.distance") < thresholds[:, None]
        inside, outside = ((below & row).sum(1) for row in (members, ~members))
        rates = inside / members.sum(1)
        details = {
            "targets": rates.tolist(), "held_out_rate": float((outside / (~members).sum(1)).mean()),
            "threshold": float(thresholds.mean()),
        }  # fmt: skip
        estimate, note = self._interval(rates, clopper_pearson(int(inside.sum()), int(members.sum()), LEVEL))
        return replace(blank, estimate=estimate, note=note, details=details, status=Status.MEASURED)

    def _copies(self, scores: Sequence[Scores], members: Bool[np.ndarray, "rows n"]) -> Finding:
        flagged = [one["ratio"] < self.config.ratio for one in scores]
        of_members = [
            flags & row[one["nearest"]] for flags, row, one in zip(flagged, members, scores, strict=True)
        ]  # nearest is −1 only where the ratio is infinite
        blank = replace(self._blank("near_copies", 0.0), null=None)
        if not all(map(len, flagged)):
            return replace(blank, note="a run released no synthetic image")
        shares = np.array([one.mean() for one in of_members])
        all_, copies = sum(map(len, flagged)), int(sum(one.sum() for one in of_members))
        details = {"targets": shares.tolist(), "flagged": int(sum(one.sum() for one in flagged)), "of_members": copies}
        estimate, note = self._interval(shares, clopper_pearson(copies, all_, LEVEL))
        return replace(blank, estimate=estimate, note=note, details=details, status=Status.MEASURED)

    def _blank(self, metric: str, null: float) -> Finding:
        distance = self.config.distance
        return Finding(
            id=f"extraction.{distance}.{Release.CLIENT_SETS}.{metric}", attack="extraction", threat=self.threat.name,
            release=Release.CLIENT_SETS, metric=metric, estimate=None, null=null, status=Status.INCONCLUSIVE,
        )  # fmt: skip

    @staticmethod
    def _interval(values: Float64[np.ndarray, "targets"], pooled: Estimate) -> tuple[Estimate, str]:
        """Over pairs; with too few of them all pieces at once."""
        found = over_pairs(values, LEVEL, (0.0, 1.0))
        if isinstance(found, TooFew):
            return pooled, f"{found}; the interval takes all pieces as independent; {SHARED}"
        return found, SHARED


def threshold(held_out: Float[np.ndarray, "n"], alpha: float) -> float:
    """τ_α: the largest with at most α of `held_out` below it; NaN where α n < `LEAST_FALSE`."""
    if len(held_out) * alpha < LEAST_FALSE - 1e-9:
        return math.nan
    allowed = min(math.floor(len(held_out) * alpha + 1e-9), len(held_out) - 1)
    return float(np.partition(held_out, allowed)[allowed])


def ratios(seen: Neighbours, last: int) -> Float64[np.ndarray, "m"]:
    """d(s, x₁)/mean(d(s, x₂) … d(s, x_last)); infinite where the class has one candidate or none, 1 where all are 0."""
    found = np.full(len(seen.classes), np.inf)
    for place, (order, distances) in enumerate(zip(seen.order, seen.distances.astype(np.float64), strict=True)):
        own = distances[order >= 0][:last]
        if len(own) > 1:
            others = float(own[1:].mean())
            found[place] = float(own[0]) / others if others > 0 else 1.0
    return found


def distinct(nearest: Integer[np.ndarray, "m"]) -> Integer[np.ndarray, "s"]:
    """The records that some synthetic image points to, each once."""
    return np.unique(nearest[nearest >= 0])


def counts(
    records: Sequence[Integer[np.ndarray, "_s"]], members: Bool[np.ndarray, "runs n"], labels: Int[np.ndarray, "n"]
) -> tuple[int, list[int], list[int], list[int]]:
    """Members drawn, and by run and class how many were drawn, are members, are in the pool."""
    hits, by_class = 0, ([], [], [])
    for drawn, row in zip(records, members, strict=True):
        hits += int(row[drawn].sum())
        for label in np.unique(labels):
            for values, some in zip(by_class, (labels[drawn], labels[row], labels), strict=True):
                values.append(int((some == label).sum()))
    return hits, *by_class


def detectable(drawn: Sequence[int], members: Sequence[int], pool: Sequence[int]) -> float | None:
    """Smallest share of members among the drawn that the test finds in four of five, were each one so by itself."""
    total = sum(drawn)
    tail = np.cumsum(members_law(drawn, members, pool)[::-1])[::-1]  # P[X ≥ c]
    enough = np.flatnonzero(tail <= 1 - LEVEL)
    return None if len(enough) == 0 else float(betaincinv(enough[0], total - enough[0] + 1, POWER))


if __name__ == "__main__":
    alone(__file__)
