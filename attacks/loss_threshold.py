"""The survey's membership attack: a record is called a member where the loss of networks trained on S is small.

    score(x) = − 1/K Σ_w ℓ_w(x)          advantage = 2 (balanced accuracy − ½) = TPR − FPR of  score > τ

    ℓ_w  cross-entropy of the w-th network trained on S          τ  never chosen on the target

`threshold: training_mean` takes τ from the loss on S itself, as of a network trained on its members. Synthetic images
are fitted far better than any record, so nearly all records are called non-members and the advantage is near 0 whatever
leaks; `shadows` takes the best τ of runs whose members the adversary chose.

An advantage near 0 is no evidence of privacy. Publishing a random 1 % of the members has advantage 1 %, which is the
standard error of an advantage over 10,000 records where nothing leaks. That the published evaluation carries no claim
of privacy over such a baseline is shown in: Carlini, Feldman, Nasr, "No Free Lunch in 'Privacy for Free': How does
Dataset Condensation Help Privacy", arXiv 2209.14987. The attack is here so that its numbers stand beside LiRA's.

Source  Dong, Zhao, Lyu, "Privacy for Free: How does Dataset Condensation Help Privacy?", ICML 2022, arXiv 2206.00240;
        after Yeom, Giacomelli, Fredrikson, Jha, CSF 2018, arXiv 1709.01604.
Code    none read.
Differs K networks' mean in the place of one network's loss.
Cost    K trainings of the target, and of every shadow under `threshold: shadows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64
from pydantic import Field, model_validator

from attacks.alone import alone
from attacks.membership_findings import Case, findings_of, rows_of, stacked
from attacks.membership_networks import MODELS, MembershipConfig, Reader, check_release, losses, threat_of
from attacks.membership_statistics import best_threshold, memberships
from attacks.membership_thresholds import with_thresholds
from fedsim.audit.types import Finding, Knowledge, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView, Released
from fedsim.seeding import Streams


class Config(MembershipConfig):
    """Settings of the loss threshold."""

    later: ClassVar[tuple[str, ...]] = ("permutations",)
    name: Literal["loss_threshold"] = "loss_threshold"
    threshold: Literal["shadows", "training_mean"] = "shadows"
    """τ: the best one of runs whose members the adversary chose, or minus the mean loss on S, for which he needs no
    further run."""
    permutations: int = Field(default=999, ge=19)
    """Membership rows drawn for the p-value of the advantage under `threshold: shadows`."""

    @model_validator(mode="after")
    def _training_set_seen(self) -> Config:
        if self.release in MODELS and self.threshold == "training_mean":
            raise ValueError(
                f"threshold: got training_mean with release: {self.release}; valid: shadows, what a released model "
                "was trained on is not released"
            )
        return self


class LossThreshold:
    """The attack; one score, `loss`."""

    Config = Config
    statistic: ClassVar[str] = "score.loss"
    """Name of its main score."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """Who reads the release."""
        return threat_of(self.config, *((Knowledge.SHADOWS,) if self.config.threshold == "shadows" else ()))

    def check(self, run: Any) -> None:
        """Refuse a run whose clients do not send what is attacked."""
        check_release(self.config.release, run)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score.loss` (N), minus the mean loss; `threshold.loss` (), τ."""
        reader = Reader.of(view, self.config, streams)
        if self.config.threshold == "training_mean":
            threshold = -float(reader.training_losses(view.released).mean())
        else:
            members = memberships(view.shadows, len(view.candidates))
            known = np.stack([_scores(reader, shadow.released) for shadow in view.shadows])
            threshold = best_threshold(known.ravel(), members.ravel())
        return {"score.loss": _scores(reader, view.released), "threshold.loss": np.array(threshold)}

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """AUC, TPR at small FPR, and the advantage, which is the confirmatory one."""
        members, labels = rows_of(truths)
        case = Case(
            "loss_threshold", "loss", self.threat, Release(self.config.release), stacked(scores, "score.loss"), members,
            labels, stacked(scores, "threshold.loss"),
        )  # fmt: skip
        if self.config.threshold == "shadows":
            case = with_thresholds(case, self.config.permutations, "loss_threshold")
        return findings_of(case, "advantage")


def _scores(reader: Reader, released: Released) -> Float64[np.ndarray, "n"]:
    return -losses(reader.confidences(released, reader.view.candidates)).mean(0)


if __name__ == "__main__":
    alone(__file__)
