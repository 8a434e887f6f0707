"""Whole runs: one hash per config, whatever the folder, the workers or the moment of a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.models.execution import has_bfloat16, has_compiler

CONFIG = Path(__file__).parent.parent / "configs/quickstart/feddm_digits.yaml"
QUICK = [
    "rounds=3", "method.iterations=3", "method.ipc=1", "method.networks.size=2", "server.epochs=2",
    "model.depth=1", "model.width=8",
]  # fmt: skip
HERE = [*QUICK, "compute.workers=0", "controls.upload_real_subset=false"]
"""The quick run without workers and without its control."""
SHORT = [*HERE, "rounds=1"]


def fedsim(capsys: pytest.CaptureFixture[str], *words: str) -> Path:
    """Run the command line; the last line of its output is the run directory."""
    assert main(list(words)) == 0
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The result of the quick run with two workers, nothing going wrong."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(["run", str(CONFIG), *QUICK, "compute.workers=2", "--out", str(out)]) == 0
    (run,) = out.glob("*/*")
    return result(run)


def test_one_hash_in_another_folder_with_another_number_of_workers(tmp_path, capsys, undisturbed):
    run = fedsim(capsys, "run", str(CONFIG), *QUICK, "compute.workers=0", "--out", str(tmp_path / "else where"))
    other = result(run)
    assert other["model_sha256"] == undisturbed["model_sha256"]
    for key in ("accuracy", "uplink_bytes", "downlink_bytes", "synthetic_images", "controls", "accuracy_by_round"):
        assert other[key] == undisturbed[key], key


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one round of the quick run, finished."""
    out = tmp_path_factory.mktemp("short")
    assert main(["run", str(CONFIG), *SHORT, "--out", str(out)]) == 0
    (run,) = out.glob("*/*")
    return run


@pytest.mark.parametrize("per_node", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_one_hash_however_many_clients_a_node_serves(tmp_path, capsys, undisturbed, per_node):
    run = fedsim(capsys, "run", str(CONFIG), *HERE, f"participation.per_node={per_node}", "--out", str(tmp_path))
    other = result(run)
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes", "synthetic_images", "accuracy_by_round"):
        assert other[key] == undisturbed[key], key
    assert (run / "clients/client_0007/round_003/upload.safetensors").is_file()


def test_another_seed_gives_another_hash(tmp_path, capsys, short):
    run = fedsim(capsys, "run", str(CONFIG), *SHORT, "seed=1", "--out", str(tmp_path))
    assert result(run)["model_sha256"] != result(short)["model_sha256"]


def test_a_finished_run_is_skipped(capsys, short):
    before = {path: path.stat().st_mtime_ns for path in short.rglob("*") if path.is_file() and path.name != ".lock"}
    assert fedsim(capsys, "run", str(CONFIG), *SHORT, "--out", str(short.parent.parent)) == short
    after = {path: path.stat().st_mtime_ns for path in short.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


DYING = """
import os, signal, sys, threading, time
from pathlib import Path
out, moment, *words = sys.argv[1:]
def watch():
    while not list(Path(out).glob(f"*/*/{moment}")):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
from fedsim.cli import main
main([*words, "--out", out])
"""
"""The command line in a process that is killed at a moment: when such a file is there."""


@pytest.mark.parametrize(
    ("moment", "workers"),
    [
        ("clients/*/round_002/upload*", 0),
        pytest.param("clients/*/round_002/upload*", 1, marks=pytest.mark.slow),
        pytest.param("checkpoints/round_0001.safetensors", 1, marks=pytest.mark.slow),
        pytest.param("clients/*/round_003/upload*", 1, marks=pytest.mark.slow),
    ],
)
def test_kill_minus_nine_after_round_one_and_resume_ends_with_the_same_hash(
    tmp_path, capsys, undisturbed, moment, workers
):
    words = ["run", str(CONFIG), *QUICK, f"compute.workers={workers}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), moment, *words],
        stderr=subprocess.DEVNULL, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, "it was not killed"
    (run,) = tmp_path.glob("*/*")
    assert json.loads((run / "manifest.json").read_text())["status"] == "running"
    assert not (run / "result.json").exists(), "killed too late to test anything"
    assert fedsim(capsys, *words, "--out", str(tmp_path), "--resume") == run
    assert result(run)["model_sha256"] == undisturbed["model_sha256"]
    assert result(run)["uplink_bytes"] == undisturbed["uplink_bytes"]


def test_partial_participation_asks_a_different_share_each_round(tmp_path, capsys):
    words = ["participation.fraction=0.3", "participation.min_replies=1"]
    run = fedsim(capsys, "run", str(CONFIG), *HERE, *words, "--out", str(tmp_path))
    answered = [sorted(path.stem for path in folder.iterdir()) for folder in sorted((run / "synthetic").iterdir())]
    assert [len(clients) for clients in answered] == [3, 3, 3]
    assert answered[0] != answered[1]


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler")
def test_a_compiled_run_has_one_hash_with_and_without_a_worker(tmp_path, capsys):
    """That a compiled network is the same is in models/test_execution.py, which always runs."""
    from torch._dynamo.utils import counters

    words = ["run", str(CONFIG), *HERE, "rounds=1", "method.iterations=3", "method.networks.size=1", "server.epochs=2"]
    words += ["partition={name: iid, clients: 2}", "participation.min_replies=2"]
    words += ["model={name: convnet, depth: 1, width: 4}", "compute.compile=true"]
    words += [f"compute.precision={'bfloat16' if has_bfloat16('cpu') else 'float32'}"]
    made, hashes = counters["stats"]["unique_graphs"], set()
    for workers in (0, 1):
        run = fedsim(capsys, *words, f"compute.workers={workers}", "--out", str(tmp_path / str(workers)))
        hashes.add(result(run)["model_sha256"])
    assert len(hashes) == 1
    assert counters["stats"]["unique_graphs"] > made
