"""What is said without a terminal: no line twice within ten seconds, and nothing of a search that was quick."""

from __future__ import annotations

import itertools

import pytest

from fedsim import console


def test_steps_are_summed_and_said_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=4)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))
    with console.Terminal() as terminal:
        more = terminal.steps("dlg")
        for _ in range(5):
            more(20)
    assert capsys.readouterr().err.splitlines() == ["  dlg: 60 steps"]
