"""An audit that is killed at any moment goes on to the card it would have had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.auditing import audit
from tests.test_auditing import QUICK, TINY, tiny

pytestmark = pytest.mark.slow


def killed_once(command: list[str], reached: Path, pattern: str, number: int) -> None:
    """Start it, and kill it when so many files are there."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(list(reached.glob(pattern))) < number and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_among_runs_and_among_attacks_the_card_is_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedsim", "audit", "run", str(QUICK), *TINY, "--out", str(tmp_path / "killed")]
    killed_once(command, tmp_path, "killed/quick/*/plan/*.done", 3)
    killed_once(command, tmp_path, "killed/quick/*/scores/lira/*.npz", 4)
    whole, _ = audit(tiny(), tmp_path / "whole")
    again, _ = audit(tiny(), tmp_path / "killed")
    told, found = (json.loads((folder / "card.json").read_text()) for folder in (whole, again))
    for part in ("findings", "controls", "details", "exit_code"):
        assert found[part] == told[part]
    assert not list(again.glob("**/*.tmp"))
