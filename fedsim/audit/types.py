"""The words of an audit: who attacks, what he is given, what a number is worth, what is said of it.

A finding is about one release, under one threat model, for one privacy unit. No status says "private": an attack that
finds nothing is `NOT_DETECTED`, with the smallest effect it could have found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from fedsim.types import UserError

Scores = Mapping[str, np.ndarray]
"""What an attack computed, by name: plain arrays, stored as they are; every number is recomputed from them."""

Truth = Mapping[str, np.ndarray]
"""What the attack did not know (who is a member, the true images …), by name; handed to `evaluate` alone."""


class Release(StrEnum):
    """Exactly what an adversary sees."""

    FINAL_SET = "final_set"
    """The union of the synthetic sets of the last round."""
    CLIENT_SETS = "client_sets"
    """The synthetic sets of one client, of all rounds."""
    TRANSCRIPT = "transcript"
    """Everything that one client sent, and every noisy sum behind it."""
    SERVER_MODEL = "server_model"
    """The server's model after the last round."""
    UPDATE = "update"
    """The weights that one client sent back, and those it was sent, of every round."""
    LOCAL_UPDATE = "local_update"
    """The weight change of a client's local training on few records, as FedAvg sends it."""
    GRADIENT = "gradient"
    """One gradient of the loss on a batch of a client's records, as FedSGD sends it."""


class Knowledge(StrEnum):
    """What an adversary knows beside the release."""

    ARCHITECTURE = "architecture"
    """The network, its normalisation, image shape and classes."""
    WEIGHTS = "weights"
    """The weights that the client was sent in every round."""
    HYPERPARAMETERS = "hyperparameters"
    """Learning rates, local steps, the method and its settings."""
    CANDIDATES = "candidates"
    """Records of which it is asked whether the client held them, with their labels."""
    AUXILIARY = "auxiliary"
    """Public records of the same distribution: the server's val."""
    SHADOWS = "shadows"
    """Runs of the same protocol in which it chose which candidates the client held."""
    LABELS = "labels"
    """The labels of the records attacked."""


class Subject(StrEnum):
    """What an attack is run on."""

    ROWS = "rows"
    """Every run of a row, one after another."""
    GRADIENTS = "gradients"
    """Gradients of the audited client's records, all at once."""
    UPDATES = "updates"
    """Weights after local training on the audited client's records, all at once."""
    CANARIES = "canaries"
    """The one run in which records were planted."""


class Status(StrEnum):
    """What a finding says."""

    LEAK = "LEAK"
    """The Holm-adjusted p-value of a confirmatory test is below 5 %."""
    NOT_DETECTED = "NOT_DETECTED"
    """It is not; the minimum detectable effect says what would have been."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Too few records, or a premise of the test fails."""
    NOT_RUN = "NOT_RUN"
    """Left out, for the reason in the note."""
    INVALID = "INVALID"
    """A control failed: the number means nothing."""
    MEASURED = "MEASURED"
    """Exploratory: a number and its interval, no test."""


@dataclass(frozen=True)
class ThreatModel:
    """Who attacks; declared by the attack, printed on the card."""

    name: str
    """One word, such as `curious_server`."""
    position: Literal["third_party", "server", "client"]
    behaviour: Literal["passive", "active"]
    sees: frozenset[Release]
    knows: frozenset[Knowledge]
    unit: Literal["record", "client"] = "record"
    """What is protected or not."""
    adjacency: Literal["add_remove", "replace"] = "add_remove"
    """What two neighbouring worlds differ by."""

    @property
    def subject(self) -> Subject:
        """What an attack of this threat is run on; the audit makes the runs that this takes."""
        which = {
            Release.TRANSCRIPT: Subject.CANARIES, Release.GRADIENT: Subject.GRADIENTS,
            Release.LOCAL_UPDATE: Subject.UPDATES,
        }  # fmt: skip
        return next((subject for release, subject in which.items() if release in self.sees), Subject.ROWS)


@dataclass(frozen=True)
class Estimate:
    """A number and how far it is known."""

    value: float
    low: float
    high: float
    level: float
    """Coverage of [low, high]."""
    method: str
    """How the interval is made, such as `Clopper-Pearson`."""
    n: int
    """Independent pieces behind it."""

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high)
        if any(math.isnan(number) for number in numbers) or not self.low <= self.value <= self.high:
            raise UserError(f"estimate: got {self.value} in [{self.low}, {self.high}]; valid: low ≤ value ≤ high")
        if not 0 < self.level < 1 or self.n < 1:
            raise UserError(f"estimate: got level {self.level} and n {self.n}; valid: 0 < level < 1, n ≥ 1")


@dataclass(frozen=True)
class Finding:
    """One line of the card."""

    id: str
    """Unique on a card, such as `lira.model.client_sets.auc`."""
    attack: str
    threat: str
    """Name of the threat model."""
    release: Release
    metric: str
    """Such as `auc`, `tpr_at_fpr_0.01`, `identification`."""
    estimate: Estimate | None
    """None where nothing was run."""
    null: float | None
    """What the metric is where nothing leaks."""
    p: float | None = None
    """p-value of the test against `null`; None: there is no test."""
    minimum_detectable: float | None = None
    """Smallest value that the test would find in four of five audits of this size."""
    confirmatory: bool = False
    """Whether it was registered before the run; Holm's correction is over all of these."""
    status: Status = Status.MEASURED
    note: str = ""
    """In words, what a reader has to know beside the number."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further numbers, plain values."""


@dataclass(frozen=True)
class Plan:
    """What an attack will take, said before it touches data."""

    cost: float
    """Estimated operations (multiply-adds count as two)."""
    n: int
    """Records, images or canaries that the main number is over."""
    minimum_detectable: float | None
    """As in `Finding`."""
    notes: tuple[str, ...] = ()


class NotGranted(RuntimeError):  # noqa: N818 - says what was refused
    """An attack asked for what its threat model does not give it."""


@runtime_checkable
class Attack(Protocol):
    """One threat. `run` sees what the threat model grants; the truth is for `evaluate` alone."""

    @property
    def threat(self) -> ThreatModel:
        """Who attacks."""
        ...

    def run(self, view: Any, streams: Any) -> Scores:
        """The attack on one target: `view` is a `fedsim.audit.view.AdversaryView`, `streams` a `seeding.Streams`."""
        ...

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Findings over all targets, from stored scores; does no more than count and compare."""
        ...
