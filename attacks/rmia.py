"""Relative membership inference: how often is a record likelier under the target, relatively, than a public one?

    score(x) = P_z[ (p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ ]

    p(x|θ)  probability of the label of x under networks of the target run, mean over K of them
    p(x)    its mean over other runs, half of them with x and half without: ½ (p_in + p_out)
    p(z)    the same of a public record z, which is in none          z  all public records

The other runs are all but the target and its complement. Every record is in half of them, so p(x) is their plain mean
and no score depends on which half.

Source  Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024, arXiv 2312.03262;
        the online form.
Code    privacytrustlab/ml_privacy_meter `modules/mia/attacks/rmia.py` (MIT), read: it compares with 1, as here.
Differs p(x) is the mean over runs with x and without in the place of the offline guess from those without; ≥ in the
        place of >.
Cost    K trainings per run; passes of candidates and public records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field
from scipy.special import expit

from attacks.alone import alone
from attacks.membership_findings import Case, findings_of, rows_of, stacked
from attacks.membership_networks import MembershipConfig, Reader, check_release, threat_of
from attacks.membership_statistics import memberships
from attacks.membership_thresholds import with_thresholds
from fedsim.audit.types import Finding, Knowledge, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView, Released
from fedsim.seeding import Streams

SMALLEST = np.finfo(np.float64).tiny
"""In the place of a probability of 0."""


class Config(MembershipConfig):
    """Settings of RMIA."""

    later: ClassVar[tuple[str, ...]] = ("permutations",)
    name: Literal["rmia"] = "rmia"
    gamma: float = Field(default=1.0, gt=0)
    """γ: how many times likelier a record must be than a public one. Runs of distilled sets differ little in any
    record, so that nothing is left above a much larger one."""
    permutations: int = Field(default=999, ge=19)
    """Membership rows drawn for the p-value of the advantage."""


def relative_scores(
    records: Float64[np.ndarray, "n"],
    records_elsewhere: Float64[np.ndarray, "runs n"],
    public: Float64[np.ndarray, "z"],
    public_elsewhere: Float64[np.ndarray, "runs z"],
    gamma: float,
) -> Float64[np.ndarray, "n"]:
    """The score from probabilities under the target and under other runs."""
    ratios = np.maximum(records, SMALLEST) / np.maximum(records_elsewhere.mean(0), SMALLEST)
    beside = np.sort(np.maximum(public, SMALLEST) / np.maximum(public_elsewhere.mean(0), SMALLEST))
    return np.searchsorted(beside * gamma, ratios, "right") / len(beside)


class RMIA:
    """The attack; one score, `relative`."""

    Config = Config
    statistic: ClassVar[str] = "score.relative"
    """Name of its main score."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """Who reads the release, has public records, and can run the protocol on records of his choice."""
        return threat_of(self.config, Knowledge.SHADOWS, Knowledge.AUXILIARY)

    def check(self, run: Any) -> None:
        """Refuse a run whose clients do not send what is attacked."""
        check_release(self.config.release, run)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score.relative` (N)."""
        reader = Reader.of(view, self.config, streams)
        memberships(view.shadows, len(view.candidates))  # refuses rows that would tell the target
        everywhere = [_probabilities(reader, one) for one in (view.released, *(s.released for s in view.shadows))]
        records, public = (np.stack(one) for one in zip(*everywhere, strict=True))
        score = relative_scores(records[0], records[1:], public[0], public[1:], self.config.gamma)
        return {"score.relative": score}

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """AUC, TPR at small FPR, advantage at the best threshold of the other pairs' scores; all exploratory."""
        members, labels = rows_of(truths)
        case = Case(
            "rmia", "relative", self.threat, Release(self.config.release), stacked(scores, "score.relative"), members,
            labels, np.zeros(len(members)),
        )  # fmt: skip
        return findings_of(with_thresholds(case, self.config.permutations, "rmia"), None)


def _probabilities(reader: Reader, released: Released) -> tuple[np.ndarray, np.ndarray]:
    """Of the label of every candidate and every public record, mean over the run's networks."""
    view = reader.view
    records, public = (expit(reader.confidences(released, one)).mean(0) for one in (view.candidates, view.auxiliary))
    return records, public


if __name__ == "__main__":
    alone(__file__)
