"""Statuses, the order of exit codes, and the stored form of a card."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fedsim.audit.card import Card, Control, from_json, judged, to_json
from fedsim.audit.types import Estimate, Finding, Knowledge, Release, Status, ThreatModel
from fedsim.types import UserError

SEEN = Estimate(0.6, 0.55, 0.65, 0.95, "t over pairs", 8)
PASSED = Control("overfit", "AUC above 0.5", True, SEEN, None, "")
FAILED = replace(PASSED, name="disjoint", passed=False)


def finding(name: str, p: float | None, confirmatory: bool = True, status: Status = Status.MEASURED) -> Finding:
    return Finding(
        name,
        "lira",
        "curious",
        Release.CLIENT_SETS,
        "auc",
        SEEN,
        0.5,
        p,
        0.56,
        confirmatory=confirmatory,
        status=status,
    )


def card(findings: list[Finding], controls: list[Control], contradicted: bool = False) -> Card:
    threat = ThreatModel(
        "curious", "server", "passive", frozenset({Release.CLIENT_SETS}), frozenset({Knowledge.CANDIDATES})
    )
    return Card(
        {"git": None}, {"runs": 16}, [threat], findings, controls, None, {}, ["a limit"], ["a source"], contradicted
    )


def test_holm_decides_over_confirmatory_findings_alone() -> None:
    found = judged([finding("a", 0.02), finding("b", 0.03), finding("c", 1e-9, confirmatory=False)], [PASSED])
    assert [one.status for one in found] == [Status.LEAK, Status.LEAK, Status.MEASURED]
    found = judged([finding("a", 0.02), finding("b", 0.04), finding("d", 0.9)], [PASSED])
    assert [one.status for one in found] == [Status.NOT_DETECTED] * 3  # 0.02 · 3 is above 5 %
    assert found[0].details["p_holm"] == pytest.approx(0.06)


def test_what_could_not_be_decided_stays_so_and_takes_no_part() -> None:
    few = finding("few", None, status=Status.INCONCLUSIVE)
    found = judged([few, finding("a", 0.04)], [PASSED])
    assert [one.status for one in found] == [Status.INCONCLUSIVE, Status.LEAK]


def test_a_failed_control_voids_every_number() -> None:
    left_out = finding("n", None, status=Status.NOT_RUN)
    found = judged([finding("a", 1e-9), finding("c", None, confirmatory=False), left_out], [PASSED, FAILED])
    assert [one.status for one in found] == [Status.INVALID, Status.INVALID, Status.NOT_RUN]


@pytest.mark.parametrize(
    ("p", "controls", "contradicted", "code", "first"),
    [
        (1e-9, [FAILED], True, 3, "INVALID: control failed: disjoint"),
        (1e-9, [PASSED], True, 4, "CONTRADICTED"),
        (1e-9, [PASSED], False, 5, "LEAK: a"),
        (None, [PASSED], False, 6, "INCONCLUSIVE"),
        (0.5, [PASSED], False, 0, "NOT_DETECTED"),
    ],
)
def test_the_first_that_applies_is_the_exit_code(
    p: float | None, controls: list[Control], contradicted: bool, code: int, first: str
) -> None:
    found = judged([finding("a", p)], controls)
    made = card(found, controls, contradicted)
    assert made.exit_code == code
    assert made.verdict.startswith(first)
    assert "private" not in made.verdict.lower()


def test_a_card_is_read_back_as_it_was_written() -> None:
    made = card(judged([finding("a", 0.01), finding("b", None, False)], [PASSED]), [PASSED])
    raw = json.loads(json.dumps(to_json(made)))
    again = from_json(raw)
    assert to_json(again) == to_json(made)
    assert again.findings == list(made.findings)
    assert again.threats == list(made.threats)


def test_what_is_not_finite_is_written_as_text() -> None:
    odd = replace(finding("a", 0.01), details={"ceiling": math.inf, "nested": [math.nan]})
    assert to_json(card([odd], []))["findings"][0]["details"] == {"ceiling": "inf", "nested": ["nan"]}


@pytest.mark.parametrize("harm", [{"schema_version": 2}, {"findings": [{"id": "a"}]}, {"controls": None}])
def test_another_version_and_a_damaged_card_are_refused(harm: dict[str, object]) -> None:
    raw = to_json(card([finding("a", 0.01)], [PASSED])) | harm
    with pytest.raises(UserError, match="card: "):
        from_json(raw)
