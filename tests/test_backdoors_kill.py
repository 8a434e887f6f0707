"""A federation that is killed while an attacker condenses goes on to the very model, trigger and all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attacks.restamping import Restamping
from fedsim.config import merge, parse_yaml, to_yaml
from fedsim.experiment import execute
from fedsim.schema import FederatedRun, resolve
from tests.reference.tiny_run import TINY, InlineGrid

STEPS = 5
DYING = f"""
import os, signal, sys
from pathlib import Path
from attacks.restamping import Restamping
from fedsim.config import parse_yaml
from fedsim.experiment import execute
from fedsim.federated.engines import local
from fedsim.schema import FederatedRun, resolve
from tests.reference.tiny_run import InlineGrid

plain, taken = Restamping.step, []
def step(*words):
    if len(taken) == {STEPS} + 3:
        os.kill(os.getpid(), signal.SIGKILL)
    taken.append(0)
    return plain(*words)

Restamping.step, local.LocalGrid = step, InlineGrid
execute(resolve(FederatedRun, parse_yaml(sys.stdin.read(), "test")), Path(sys.argv[1]))
"""
"""The run in a process that is killed by itself before the attacker's fourth step of round 2."""


def config() -> FederatedRun:
    """DOORPING in two rounds; the trigger is optimised before steps 1, 3 and 5, and every step is kept."""
    attacker: dict[str, Any] = {"name": "doorping", "clients": [1], "size": 2, "iterations": 5, "every": 2}
    changes = {"attackers": [attacker], "controls": {"without_attackers": False}, "checkpoint_every": 1e-9}
    return resolve(FederatedRun, merge(parse_yaml(TINY, "test"), changes | {"method": {"iterations": STEPS}}))


def test_kill_minus_nine_while_an_attacker_condenses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    whole = execute(config(), tmp_path / "whole")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DYING, str(tmp_path / "killed")]
    killed = subprocess.run(
        command, input=to_yaml(config()), text=True, capture_output=True, env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (run,) = (tmp_path / "killed").glob("*/*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "running"
    assert (run / "clients/client_0000/round_002/upload.safetensors").is_file()  # the honest one had finished
    assert not list(run.glob("clients/client_0001/round_002/*upload*"))
    plain, taken = Restamping.step, []

    def step(*words: Any) -> Any:
        taken.append(0)
        return plain(*words)

    monkeypatch.setattr(Restamping, "step", step)
    assert execute(config(), tmp_path / "killed", resume=True) == run
    assert len(taken) == STEPS - 3  # it went on from the state that was kept, with the trigger it had
    told, found = (json.loads((one / "result.json").read_text()) for one in (whole, run))
    for name in ("model_sha256", "accuracy_by_round", "backdoor", "uplink_bytes"):
        assert found[name] == told[name], name
    last = "clients/client_0001/round_002/trigger.safetensors"
    assert (run / last).read_bytes() == (whole / last).read_bytes()
