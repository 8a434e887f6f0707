"""Whole runs that go wrong: faults are survived and counted, an interrupt saves the state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fedsim.cli import main
from tests.test_experiment import CONFIG, HERE, fedsim, result


def test_five_kinds_of_fault_are_survived_and_counted(tmp_path, capsys):
    faults = [
        {"name": name, "client": client, "round": 1}
        for client, name in enumerate(["raise", "nan", "wrong_shape", "oversize", "silent"])
    ]
    run = fedsim(
        capsys, "run", str(CONFIG), *HERE, "rounds=1", "compute.workers=1", "method.iterations=30",
        "server.epochs=40", "participation.timeout=8", f"faults={json.dumps(faults)}", "--out", str(tmp_path),
    )  # fmt: skip
    found = result(run)
    assert found["clients_failed"] == 2
    assert found["uploads_rejected"] == 3
    assert 0.2 < found["accuracy"] <= 1


def test_too_few_replies_fail_the_run_with_exit_code_one_and_the_reasons(tmp_path, capsys):
    faults = json.dumps([{"name": "raise", "client": client, "round": 1} for client in range(3)])
    words = ["partition=iid", "partition.clients=3", "participation.min_replies=1", f"faults={faults}"]
    assert main(["run", str(CONFIG), *HERE, *words, "--out", str(tmp_path)]) == 1
    assert "0 of 3 uploads were usable" in capsys.readouterr().err
    (run,) = tmp_path.glob("*/*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("method=random", "method random selects: what clients upload are real training images"),
        ("method.init=real", "method.init=real: uploads start as real training images"),
    ],
)
def test_uploads_of_private_pixels_are_announced(method, line, tmp_path, capsys):
    words = ["rounds=1", "partition.clients=2", "participation.min_replies=1", "server.epochs=1", method]
    words += ["model.depth=1", "model.width=8", "compute.workers=0", "controls.upload_real_subset=false"]
    words += ["method.iterations=2", "method.networks.size=2"] if method != "method=random" else []
    assert main(["run", str(CONFIG), *words, "--out", str(tmp_path)]) == 0
    assert line in capsys.readouterr().err
    (run,) = tmp_path.glob("*/*")
    assert "<b>Real images.</b>" in (run / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupt_saves_the_state_and_exits_with_130(tmp_path):
    """By a signal of the system; test_cli.py says the same of an interrupt in this process."""
    words = ["run", str(CONFIG), *HERE, "rounds=200", "--out", str(tmp_path)]  # it is never over before the signal
    hearing = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler)"
    hearing += "; runpy.run_module('fedsim', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", hearing, *words]  # a shell's background jobs ignore SIGINT, and so would this one
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob("*/*/checkpoints/round_0001.safetensors")):
            assert time.monotonic() < deadline, "round 1 was never stored"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("interrupted; the state is saved")
    (run,) = tmp_path.glob("*/*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
