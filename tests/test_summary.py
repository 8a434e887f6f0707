"""The last lines of a run: what was left out by a defence is said."""

from __future__ import annotations

from typing import Any

from fedsim.summary import summary

RESULT: dict[str, Any] = {
    "accuracy": 0.5, "accuracy_ci": None, "controls": {}, "synthetic_images": 0, "protocol": {"labels": "hard"},
}  # fmt: skip


def said(score: float, flagged: bool) -> list[Any]:
    return [score, flagged, True]


def test_who_was_left_out_is_said_for_every_round_and_defence() -> None:
    first = {"checks": {"0": said(0.1, False), "3": said(9.0, True)}, "other": {"0": said(0.0, False)}}
    second = {"checks": {"0": said(7.0, True), "3": said(9.0, True)}}
    lines = summary(RESULT | {"defenses": [first, second]})
    assert lines == [
        "test accuracy 0.5000",
        "  defence checks left out the uploads of clients (round 1: 3; round 2: 0, 3)",
        "  defence other left out nobody",
    ]


def test_without_defences_nothing_is_said_of_them() -> None:
    assert summary(RESULT) == ["test accuracy 0.5000"]
