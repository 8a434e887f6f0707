"""The run directory of whole runs: what is damaged is refused and names itself, a full disk costs nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedsim import runs
from fedsim.cli import main
from fedsim.runs import RunDirectory, save_tensors
from tests.reference.tiny_run import TINY, InlineGrid


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    home = tmp_path_factory.mktemp("ein Lauf, fertig — ✓")
    (home / "tiny.yaml").write_text(TINY.replace("{chunk: 0}", "{chunk: 0, workers: 0}"))
    assert main(["run", str(home / "tiny.yaml"), "--out", str(home / "runs")]) == 0
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it whose second round was not stored; what follows is done without a worker process."""
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    copy = tmp_path / "home"
    shutil.copytree(finished, copy)
    run = folder(copy)
    for name in ("result.json", "report.html", "checkpoints/round_0002.safetensors"):
        (run / name).unlink()
    return copy


def folder(home: Path) -> Path:
    (run,) = (home / "runs/tiny").iterdir()
    return run


def go(home: Path, *words: str) -> int:
    return main(["run", str(home / "tiny.yaml"), "--out", str(home / "runs"), *words])


def model(home: Path) -> str:
    return json.loads((folder(home) / "result.json").read_text())["model_sha256"]


def contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != ".lock"}


def refused(home: Path, capsys: pytest.CaptureFixture[str], *mention: str, words: tuple[str, ...] = ()) -> None:
    """Exit code 2, one line that mentions all of that, every file as it was."""
    before = contents(home)
    capsys.readouterr()
    code, said = go(home, *words), capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.strip()]
    assert (code, len(lines)) == (2, 1), said
    assert len(lines[0]) < 400
    assert [fragment for fragment in mention if fragment not in lines[0]] == [], lines[0]
    assert contents(home) == before


# --- damaged, locked, foreign ---


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def half_condensed(run: Path) -> Path:
    (run / "clients/client_0000/round_002/upload.safetensors").unlink()
    path = run / "clients/client_0000/round_002/condensation.safetensors"
    save_tensors(path, {"pixels": torch.zeros(3)}, {"iteration": 1, "history": []})
    return cut(path)


def spoil(name: str, content: str) -> Callable[[Path], Path]:
    def damage(run: Path) -> Path:
        (run / name).write_text(content)
        return run / name

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "server_checkpoint": (lambda run: cut(run / "checkpoints/round_0001.safetensors"), ["round_0001", "delete it"]),
    "upload": (lambda run: cut(run / "clients/client_0001/round_002/upload.safetensors"), ["upload", "delete it"]),
    "condensation": (half_condensed, ["condensation.safetensors is damaged", "delete it"]),
    "manifest": (lambda run: cut(run / "manifest.json"), ["manifest.json is damaged", "delete it"]),
    "manifest_of_another_kind": (spoil("manifest.json", "[]"), ["manifest.json is damaged", "delete it"]),
    "result": (spoil("result.json", '{"accuracy": 0.'), ["result.json is damaged", "delete it"]),
    "metrics": (spoil("metrics.jsonl", "{\n{}\n"), ["metrics.jsonl is damaged", "delete it"]),
}


@pytest.mark.parametrize(("damage", "mention"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_and_once_deleted_the_run_goes_on(home, finished, capsys, damage, mention):
    damaged = damage(folder(home))
    refused(home, capsys, *mention)
    damaged.unlink()
    assert go(home) == 0
    assert model(home) == model(finished)


def test_damage_to_what_is_not_needed_any_more_is_no_obstacle(home, finished):
    cut(folder(home) / "clients/client_0001/round_001/upload.safetensors")
    assert go(home, "--resume") == 0
    assert model(home) == model(finished)
    assert (folder(home) / "report.html").is_file()


def test_changed_config(home, capsys):
    kept = folder(home) / "config.yaml"
    kept.write_text(kept.read_text().replace("ipc: 1", "ipc: 2"))
    refused(home, capsys, "config.yaml was changed after the run began", kept.parent.name[:12], "restore it")


def test_changed_seed(home, capsys):
    kept = folder(home) / "config.yaml"
    kept.write_text(kept.read_text().replace("seed: 0", "seed: 7"))
    refused(home, capsys, "config.yaml was changed after the run began", "-s7", "restore it")


@pytest.mark.parametrize("content", ["a: [", "rounds: two", ""])
def test_damaged_config(home, capsys, content):
    (folder(home) / "config.yaml").write_text(content)
    refused(home, capsys, "config.yaml cannot be used", "restore it, or give another --out")


def test_other_images(home, capsys):
    facts = RunDirectory(folder(home)).read_json("manifest")
    RunDirectory(folder(home)).write_json("manifest", facts | {"data": "0123456789ab"})
    refused(home, capsys, "begun on other images", "0123456789ab", "restore the data")


def test_locked(home, capsys):
    with (folder(home) / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(home, capsys, "another process is working on", "give another --out")
    assert go(home) == 0


def test_file_where_the_folder_belongs(home, capsys):
    run = folder(home)
    shutil.rmtree(run)
    run.write_text("")
    refused(home, capsys, str(run.name), "is a file", "move it away")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_without_permission(home, capsys):
    (home / "runs").chmod(0o500)
    refused(home, capsys, "Permission denied", words=("seed=1",))


# --- a full disk ---


@pytest.mark.parametrize("at", [1, 3, 5, 8, 10, 13, 16, 18])
def test_full_disk(finished, tmp_path, monkeypatch, capsys, at):
    """From the `at`-th file on nothing can be written; once there is room, the run ends as an undisturbed one."""
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    (tmp_path / "tiny.yaml").write_text(TINY)
    written, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "fsync", fsync)
        assert go(tmp_path) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedsim: ")]
    assert len(last) == 1
    assert "No space left on device" in last[0]
    assert "what was stored is intact" in last[0] or "cannot use its folder" in last[0]
    assert str(tmp_path) in last[0]
    assert not list(tmp_path.rglob("*.tmp"))
    assert go(tmp_path) == 0
    assert model(tmp_path) == model(finished)


def test_full_disk_at_one_client_stops_the_run_and_changes_nothing(finished, tmp_path, monkeypatch, capsys):
    """A client that cannot keep its answer is not counted as failed: that would let a disk decide the result."""
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("fedsim.federated.client.save_tensors", full)
        assert go(tmp_path) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fedsim: ")]
    assert len(last) == 1
    assert "client 0 cannot use its folder: [Errno 28] No space left on device" in last[0]
    assert go(tmp_path) == 0
    assert model(tmp_path) == model(finished)
