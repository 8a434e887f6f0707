"""Online likelihood-ratio attack on a release: is what it shows of a record nearer to runs with it or without it?

    Λ_i = Σ_s [ log t(x_s | runs with i) − log t(x_s | runs without i) ]        s  statistic (membership_statistics.py)

    t  predictive of a further value from few runs of either kind (membership_likelihoods.py): J/2 − 1 with a record and
       as many without it, of all runs but the target and its complement

p-value. Nothing released depends on who was a member: then every draw of the rows was as likely as the true one, so
all scores are made again for `permutations` drawn rows. Student's t over pairs will not do here: a pair is target once
and shadow otherwise, so what pairs j and k have in common stands in the AUC of both. Normal values, no leak, 5, 8 and
16 pairs of 100 records, 200 audits each: t rejects .09, .13, .11 of them at .05, and its interval of .95 covers .89,
.85, .82. Intervals are therefore a jackknife over pairs, which covers .99 there, and .91 to .99 where there is a leak.

Source  Carlini, Chien, Nasr, Song, Terzis, Tramèr, "Membership Inference Attacks From First Principles", IEEE S&P 2022,
        arXiv 2112.03570, Algorithm 1.
Code    tensorflow/privacy `research/mi_lira_2021` (Apache-2.0), read; with one variance for all records it takes both
        from the runs with the record. Here each world has its own.
Differs Student-t in the place of a normal law with a median and a plug-in variance; no augmented queries.
Reduces κ → 0 and ν₀ → ∞: the normal likelihood ratio with one variance per world.
Cost    statistics of J runs; for the findings `permutations` + J/2 passes over J × N numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from attacks.alone import alone
from attacks.membership_findings import Case, findings_of, rows_of, stacked
from attacks.membership_likelihoods import leave_pairs_out, scored
from attacks.membership_networks import check_release, threat_of
from attacks.membership_randomisation import null_areas, without_each_pair
from attacks.membership_statistics import Laboratory, StatisticsConfig, memberships
from fedsim.audit.types import Finding, Knowledge, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError


class Config(StatisticsConfig):
    """Settings of LiRA."""

    name: Literal["lira"] = "lira"
    prior_degrees: float | None = Field(default=None, gt=0)
    """ν₀: how many runs the pooled variance counts for beside a record's own; null: as its equation says."""
    permutations: int = Field(default=999, ge=19)
    """Membership rows drawn for the p-value."""


class LiRA:
    """The attack; one score per statistic, and `combo`, their sum."""

    Config = Config
    statistic: ClassVar[str] = "score.combo"
    """Name of its main score."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """Who reads the release, and can run the protocol on records of his choice."""
        return threat_of(self.config, Knowledge.SHADOWS, *self.config.knowledge)

    def check(self, run: Any) -> None:
        """Refuse a run whose clients do not send what is attacked."""
        check_release(self.config.release, run)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score.<statistic>` (N), Λ; `value.<statistic>` (N), what it was made of; `shadow_runs` ().

        With `align` also `exact_mean.*`, by class: the ceiling, from runs whose members the adversary knows.
        """
        laboratory = Laboratory.of(view, self.config, streams)
        members = memberships(view.shadows, len(view.candidates))
        found: dict[str, np.ndarray] = {"shadow_runs": np.array(len(members))}
        for statistic in self.config.statistics:
            values = np.stack([laboratory.measure(statistic, shadow.released) for shadow in view.shadows])
            target = laboratory.measure(statistic, view.released)
            found[f"value.{statistic}"] = target
            found[f"score.{statistic}"] = scored(target, values, members, self.config.prior_degrees)
        found["score.combo"] = np.sum([found[f"score.{name}"] for name in self.config.statistics], axis=0)
        if "align" in self.config.statistics:
            found |= laboratory.embeddings.ceiling(members)
        return found

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """AUC, TPR at small FPR and advantage of every statistic and of `combo`, whose AUC is the confirmatory one."""
        members, labels = rows_of(truths)
        rows = int(scores[0]["shadow_runs"]) + 2
        if len(scores) != rows:
            raise UserError(f"lira: got {len(scores)} targets of {rows} rows; valid: every row as target once")
        values = {name: stacked(scores, f"value.{name}") for name in self.config.statistics}

        def again(kept: Int[np.ndarray, "rows"], members: Bool[np.ndarray, "rows records"]) -> dict[str, np.ndarray]:
            found = {
                name: leave_pairs_out(all_[kept], members, self.config.prior_degrees) for name, all_ in values.items()
            }
            return found | {"combo": np.sum(list(found.values()), axis=0)}

        rng = numpy_stream(0, "lira", "membership rows")
        null = null_areas(again, members, labels, self.config.permutations, rng)
        left_out = without_each_pair(again, members)
        findings: list[Finding] = []
        for name in (*self.config.statistics, "combo"):
            case = Case(
                "lira", name, self.threat, Release(self.config.release), stacked(scores, f"score.{name}"), members,
                labels, np.zeros(rows), null[name], left_out[name],
            )  # fmt: skip
            details = {"exact_mean": _ceiling(scores)} if name == "align" else {}
            findings += findings_of(case, "auc" if name == "combo" else None, details)
        return findings


def _ceiling(scores: Sequence[Scores]) -> dict[str, list[float]]:
    """The exact mean's AUC by class, averaged over targets, beside what is predicted of it."""
    names = [name for name in scores[0] if name.startswith("exact_mean.")]
    return {name.removeprefix("exact_mean."): stacked(scores, name).mean(0).tolist() for name in names}


if __name__ == "__main__":
    alone(__file__)
