"""The card of an audit: what was attacked, what was found, what that is worth. `card.json` is its stored form.

Statuses are given here, once, over all findings: Holm's correction at 5 % over the confirmatory ones; all are INVALID
where a control failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fedsim.audit.statistics.multiplicity import holm
from fedsim.audit.types import Estimate, Finding, Knowledge, Release, Status, ThreatModel
from fedsim.types import UserError

SCHEMA = 1
"""Version of card.json."""
FAMILY = 0.05
"""Chance that any confirmatory finding says LEAK where nothing leaks."""


@dataclass(frozen=True)
class Control:
    """Something whose outcome is known, and how it came out."""

    name: str
    expected: str
    """In words."""
    passed: bool
    estimate: Estimate | None
    p: float | None
    note: str


@dataclass(frozen=True)
class Card:
    """Everything that card.json holds."""

    provenance: dict[str, Any]
    """Commit, config hash, data fingerprint, versions, machine, seconds."""
    release: dict[str, Any]
    """What was released: kind, runs, rounds, bytes, images."""
    threats: Sequence[ThreatModel]
    findings: Sequence[Finding]
    controls: Sequence[Control]
    accounting: dict[str, Any] | None
    """ε, δ, ledger of the audited run; None: no differential privacy."""
    utility: dict[str, Any]
    limits: Sequence[str]
    """What this audit could not have seen."""
    citations: Sequence[str]
    contradicted: bool = False
    """Whether the pre-registered one-run test contradicts the accountant."""
    schema_version: int = SCHEMA
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """3 a control failed > 4 accountant contradicted > 5 leak found > 6 nothing conclusive > 0."""
        if any(not control.passed for control in self.controls):
            return 3
        if self.contradicted:
            return 4
        statuses = [one.status for one in self.findings]
        if Status.LEAK in statuses:
            return 5
        return 0 if Status.NOT_DETECTED in statuses else 6

    @property
    def verdict(self) -> str:
        """The first line of the card."""
        leaks = [one.id for one in self.findings if one.status is Status.LEAK]
        failed = [control.name for control in self.controls if not control.passed]
        return {
            3: f"INVALID: control failed: {', '.join(failed)}",
            4: "CONTRADICTED: the one-run test refutes the accountant's ε",
            5: f"LEAK: {', '.join(leaks)}",
            6: "INCONCLUSIVE: no confirmatory test could be decided"
            if any(one.confirmatory for one in self.findings)
            else "INCONCLUSIVE: all is exploratory, nothing was registered before the run",
            0: "NOT_DETECTED: no confirmatory test found a leak; see the smallest effects it could have found",
        }[self.exit_code]


def judged(findings: Sequence[Finding], controls: Sequence[Control]) -> list[Finding]:
    """The findings with their statuses; the adjusted p-value of a confirmatory one is in its details."""
    if any(not control.passed for control in controls):
        kept = (Status.NOT_RUN, Status.INCONCLUSIVE)
        return [one if one.status in kept else replace(one, status=Status.INVALID) for one in findings]
    tested = [one for one in findings if one.confirmatory and one.p is not None and one.status is Status.MEASURED]
    adjusted = holm(np.array([one.p for one in tested], dtype=np.float64)) if tested else []
    found = {one.id: float(p) for one, p in zip(tested, adjusted, strict=True)}
    return [
        replace(
            one,
            status=Status.LEAK if found[one.id] < FAMILY else Status.NOT_DETECTED,
            details={**one.details, "p_holm": found[one.id]},
        )
        if one.id in found
        else one
        for one in findings
    ]


def contradicted(findings: Sequence[Finding]) -> bool:
    """Whether the registered one-run test says that the accountant is wrong."""
    return any(one.confirmatory and bool(one.details.get("contradicted")) for one in findings)


def to_json(card: Card) -> dict[str, Any]:
    """Plain values; what is not finite is written as text, since JSON has no name for it."""
    plain = asdict(card) | {"verdict": card.verdict, "exit_code": card.exit_code}
    return _plain(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(one) for one in value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_json(raw: dict[str, Any]) -> Card:
    """What `to_json` wrote; another version, or a card that lacks something, is a `UserError`."""
    if raw.get("schema_version") != SCHEMA:
        raise UserError(f"card: got schema_version {raw.get('schema_version')!r}; valid: {SCHEMA}; run the audit again")
    try:
        findings = [
            Finding(**(one | {"release": Release(one["release"]), "status": Status(one["status"])}
                       | {"estimate": Estimate(**one["estimate"]) if one["estimate"] else None}))
            for one in raw["findings"]
        ]  # fmt: skip
        controls = [
            Control(**(one | {"estimate": Estimate(**one["estimate"]) if one["estimate"] else None}))
            for one in raw["controls"]
        ]
        threats = [
            ThreatModel(**(one | {"sees": frozenset(map(Release, one["sees"]))}
                           | {"knows": frozenset(map(Knowledge, one["knows"]))}))
            for one in raw["threats"]
        ]  # fmt: skip
        rest = {key: raw[key] for key in ("provenance", "release", "accounting", "utility", "limits", "citations")}
        rest |= {"contradicted": raw["contradicted"], "details": raw["details"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"card: it is damaged ({error}); restore it, or run the audit again") from error
    return Card(findings=findings, controls=controls, threats=threats, **rest)
