"""Without workers the same messages are answered in this process, with the same result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.algorithms import feddm
from fedsim.federated.engines import local
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError
from tests.reference.tiny_run import TINY


def run(out: Path, workers: int) -> dict:
    config = resolve(FederatedRun, merge(parse_yaml(TINY, "test"), {"compute": {"workers": workers}}))
    return json.loads((execute(config, out) / "result.json").read_text())


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_workers_and_one_give_the_same_model_and_bytes(tmp_path, monkeypatch, workers):
    """With a worker in the slow test; that a run with two is the same, test_experiment.py says."""
    found = run(tmp_path / "one", workers)
    where, own = set(), feddm.FedDM.client
    monkeypatch.setattr(feddm.FedDM, "client", lambda *a: (where.add(os.getpid()), own(*a))[1])
    monkeypatch.setattr(local, "Worker", None)  # no process may be started
    inline = run(tmp_path / "none", 0)
    assert where == {os.getpid()}
    for name in ("model_sha256", "uplink_bytes", "downlink_bytes", "accuracy"):
        assert inline[name] == found[name]


def test_a_silent_client_is_refused_where_nobody_could_end_it():
    changes = {"compute": {"workers": 0}, "faults": [{"name": "silent", "client": 0}]}
    config = resolve(FederatedRun, merge(parse_yaml(TINY, "test"), changes))
    with pytest.raises(UserError, match="would hang a run without workers"):
        execute(config, Path("unused"))
