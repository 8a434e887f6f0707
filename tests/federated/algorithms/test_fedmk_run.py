"""Whole runs of FedMK in one process: killed anywhere it ends the same, and what clients lack or send is minded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main
from fedsim.federated.algorithms.fedmk import FedMK

CONFIG: dict[str, Any] = {
    "name": "tiny", "rounds": 2, "data": {"name": "digits"}, "model": {"name": "convnet", "depth": 1, "width": 4},
    "partition": {"name": "classes_per_client", "clients": 3, "classes": 4}, "algorithm":
    {"name": "fedmk", "generator": {"width": 4, "steps": 3, "batch": 8, "pseudo": 1}},
    "method": {"name": "meta_knowledge", "ipc": 1, "iterations": 3, "batch_real": 4, "inner_steps": 2},
    "server": {"epochs": 1}, "controls": {"upload_real_subset": False}, "compute": {"chunk": 0, "workers": 0},
}  # fmt: skip


class Killed(BaseException):
    """Stands for `kill -9`."""


def run(folder: Path, *words: str) -> dict[str, Any]:
    """result.json of the tiny run."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "runs"), *words]) == 0
    (result,) = (folder / "runs").rglob("result.json")
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """result.json of the tiny run, left alone."""
    return run(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("half", "at"),
    [
        ("client", 4),
        ("server", 2),
        pytest.param("client", 1, marks=pytest.mark.slow),
        pytest.param("broadcast", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_anywhere_ends_the_same(
    half: str, at: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`at`: the call of that half before which it is killed, from 1."""
    plain, calls = getattr(FedMK, half), []

    def killed(*words: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return plain(*words, **named)

    with monkeypatch.context() as patched:
        patched.setattr(FedMK, half, killed)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    found = run(tmp_path / "cut", "--resume")
    for key in ("model_sha256", "accuracy_by_round", "uplink_bytes", "downlink_bytes"):
        assert found[key] == whole[key], key


def test_every_switch_changes_the_result_and_none_the_number_of_images(tmp_path: Path) -> None:
    words = ["", "algorithm.conditional=false", "algorithm.generator=null", "method.weights=equal"]
    large = "method.lr=2"  # steps that bytes show
    found = [run(tmp_path / str(place), large, *[word] * bool(word)) for place, word in enumerate(words)]
    assert len({one["model_sha256"] for one in found}) == len(words)
    assert {(one["synthetic_images"], one["uploads_rejected"], one["clients_failed"]) for one in found} == {(12, 0, 0)}
    assert found[1]["downlink_bytes"] < found[0]["downlink_bytes"]


def test_clients_chosen_at_random_share_with_one_another_and_a_bad_upload_is_not_passed_on(tmp_path: Path) -> None:
    faults = json.dumps([{"name": "nan", "client": 1, "round": 1}])
    found = run(tmp_path / "faulty", f"faults={faults}")
    assert found["uploads_rejected"] == 1
    some = run(tmp_path / "some", "participation.fraction=0.6")
    assert (some["clients_failed"], some["synthetic_images"]) == (0, 8)


@pytest.mark.slow
def test_one_hash_however_many_workers(whole: dict[str, Any], tmp_path: Path) -> None:
    for count in (1, 2):
        found = run(tmp_path / f"{count}", f"compute.workers={count}")
        assert found["model_sha256"] == whole["model_sha256"]
        assert found["downlink_bytes"] == whole["downlink_bytes"]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("algorithm.generator.steps=0", "algorithm.generator.steps"),
        ("algorithm.conditonal=true", "conditional"),
        ("method.networks={name: pool, around: server}", "a pool holds class means"),
        ("model.norm=batch", "choose another model.norm"),
    ],
)
def test_bad_settings_are_one_line(word: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(CONFIG))
    assert main(["run", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), word]) == 2
    assert line in capsys.readouterr().err.strip().splitlines()[-1]
