"""A sweep: what its file may say, which runs it stands for, and that finished ones are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedsim.cli import app, main
from fedsim.config import parse_yaml
from fedsim.data.digits import Digits
from fedsim.sweep import admit, listed, load_sweep, run_sweep
from fedsim.types import UserError
from tests.reference.tiny_run import TINY, InlineGrid

ROWS: dict[str, Any] = {"clean": {}, "naive": {"attackers": [{"name": "naive", "clients": [1], "size": 2}]}}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def written(path: Path, **changes: Any) -> Path:
    run = {key: value for key, value in parse_yaml(TINY, "test").items() if key != "name"} | {"rounds": 1}
    content = {"name": "tiny_sweep", "run": run, "rows": ROWS} | changes
    path.write_text(json.dumps(content))
    return path


def test_rows_columns_and_seeds_are_laid_over_the_run(tmp_path: Path) -> None:
    columns = {"one": {}, "more": {"method": {"ipc": 2}}}
    _, plans = load_sweep(written(tmp_path / "s.yaml", columns=columns, seeds=[0, 3]), ["server.epochs=2"])
    first = [(one.row, one.column, one.seed) for one in plans[:3]]
    assert first == [("clean", "one", 0), ("clean", "one", 3), ("clean", "more", 0)]
    assert len(plans) == 8
    last: Any = plans[-1].config
    assert (last.method.ipc, last.server.epochs, last.seed, last.name) == (2, 2, 3, "tiny_sweep")
    assert last.attackers[0].name == "naive"


def test_a_run_named_by_file_is_found_from_the_sweeps_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    _, plans = load_sweep(written(tmp_path / "s.yaml", run="tiny.yaml"), ["seeds=[1, 2]"])
    assert [one.seed for one in plans] == [1, 2, 1, 2]


BAD = [
    ({"rows": {"one": {"methd": {}}}}, r"rows\.one: methd: unknown key .did you mean 'method'"),
    ({"rows": {}}, "rows: got {}"),
    ({"rows": {"clean": None}}, r"^rows\.clean: got null; should be a mapping, {} where nothing is meant$"),
    ({"seeds": [1, 1]}, r"^seeds: got \[1, 1\]; valid: seeds from 0, each once$"),
    ({"run": "none.yaml"}, "none.yaml does not exist"),
    ({"seeds": []}, r"^seeds: got \[\] \(list\); should have at least 1 item$"),
    ({"row": {}}, "row: unknown key .did you mean 'rows'"),
]


OWN = [
    ({}, ["seed=3"], r"seed=3: the seeds of a sweep are one list; use seeds=\[3\]"),
    ({"rows": {"one": {"seed": 3}}}, [], r"rows\.one\.seed: .*; use seeds: \[3\] beside rows"),
    ({"columns": {"two": {"name": "mine"}}}, [], r"columns\.two\.name: all runs of a sweep have its name"),
    ({"run": {"seed": 3}}, [], r"run\.seed: .*; use seeds: \[3\] beside rows"),
]


@pytest.mark.parametrize(("changes", "words", "line"), OWN)
def test_what_the_sweep_itself_would_lay_over_is_refused(
    changes: dict[str, Any], words: list[str], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line):
        load_sweep(written(tmp_path / "s.yaml", **changes), words)


def test_seed_and_name_of_a_runs_file_are_those_of_the_run_by_itself(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY + "seed: 7\n")
    _, plans = load_sweep(written(tmp_path / "s.yaml", run="tiny.yaml"))
    assert [(one.seed, one.config.seed, one.config.name) for one in plans] == [(0, 0, "tiny_sweep")] * 2


@pytest.mark.parametrize(("changes", "line"), BAD)
def test_a_wrong_file_is_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        load_sweep(written(tmp_path / "s.yaml", **changes))


def test_finished_runs_are_found_and_the_page_shows_the_attack(tmp_path: Path) -> None:
    sweep, plans = load_sweep(written(tmp_path / "s.yaml"))
    folder, failures = run_sweep(sweep, plans, tmp_path / "out", lambda _: None)
    assert not failures
    assert len(list(folder.glob("*/result.json"))) == 2  # the clean row is the run that the attack is compared with
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    run_sweep(sweep, plans, tmp_path / "out", lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")} == kept
    found = json.loads((folder / "sweep.json").read_text())
    clean, naive = found["table"]
    assert clean["lift"] is None
    assert naive["lift"]["over"] == "images"
    assert naive["lift"]["mean"] == pytest.approx(naive["attack_success"]["mean"] - naive["without_attackers"]["mean"])
    page = (folder / "sweep.html").read_text()
    assert page.count("data:image/png") == 3
    assert "naive: client 1, round 1" in page


def test_a_run_that_fails_leaves_the_others_and_exits_1(tmp_path: Path) -> None:
    faults = {"faults": [{"name": "raise", "client": client, "round": 1} for client in (0, 1)]}
    file = written(tmp_path / "s.yaml", rows={"broken": faults, "clean": {}})
    sweep, plans = load_sweep(file)
    folder, failures = run_sweep(sweep, plans, tmp_path / "out", lambda _: None)
    assert len(failures) == 1
    assert failures[0].startswith("broken · seed 0: round 1: 0 of 2 uploads were usable")
    assert "broken" in (folder / "sweep.html").read_text()


def test_data_that_are_not_there_stop_the_sweep_before_its_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {key: value for key, value in parse_yaml(TINY, "test").items() if key != "name"}
    file = written(tmp_path / "s.yaml", run=run | {"data": {"name": "mnist", "path": str(tmp_path)}})
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data mnist is not (or not intact)" in line
    assert not (tmp_path / "out").exists()


UNFIT = {
    "client_that_is_not_there": ({"clients": [2], "size": 2}, "client 2"),
    "trigger_that_is_too_large": ({"clients": [1], "size": 8}, "trigger: a square of 8 pixels"),
}


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize(("attacker", "told"), UNFIT.values(), ids=UNFIT)
def test_what_the_data_tell_is_refused_before_the_first_run(
    attacker: dict[str, Any], told: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"clean": {}, "unfit": {"attackers": [{"name": "naive"} | attacker]}}
    file = written(tmp_path / "s.yaml", rows=rows, seeds=[3])
    assert main(["sweep", str(file), "--out", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rows.unfit, seed 3: " in line
    assert told in line
    assert not (tmp_path / "out").exists()


def test_images_are_read_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: reads.append(1) or load(self))
    _, plans = load_sweep(written(tmp_path / "s.yaml", seeds=[0, 1]))
    admit(plans, tmp_path / "out")
    assert len(reads) == 1


def test_a_folder_in_use_fails_its_cell_alone(tmp_path: Path) -> None:
    sweep, plans = load_sweep(written(tmp_path / "s.yaml", rows={"clean": {}, "other": {"server": {"epochs": 2}}}))
    _, (used,) = admit(plans, tmp_path / "out")
    used.path.mkdir(parents=True)
    with used.lock():
        folder, failures = run_sweep(sweep, plans, tmp_path / "out", lambda _: None)
    assert len(failures) == 1
    assert "other · seed 0: another process is working on" in failures[0]
    assert failures[0] in json.loads((folder / "sweep.json").read_text())["failed"]


def test_the_command_lists_its_runs_and_what_is_finished(tmp_path: Path) -> None:
    file, out = written(tmp_path / "s.yaml", rows={"naive": ROWS["naive"], "other": {"server": {"epochs": 2}}}), "out"
    sweep, plans = load_sweep(file)
    words = ["sweep", str(file), "--out", str(tmp_path / out), "--dry-run"]
    told = CliRunner().invoke(app, words)
    assert told.output.splitlines() == [
        "naive · seed 0",
        "other · seed 0",
        "runs: 2, of which 0 finished",
        "runs without their attackers, made before them: 1, of which 0 finished",
        f"folder: {tmp_path / out / 'tiny_sweep'}",
    ]
    assert not (tmp_path / out).exists()
    run_sweep(sweep, plans[:1], tmp_path / out, lambda _: None)
    lines = CliRunner().invoke(app, words).output.splitlines()
    assert lines[:2] == ["naive · seed 0, finished", "other · seed 0"]
    assert lines[2:4] == [
        "runs: 2, of which 1 finished",
        "runs without their attackers, made before them: 1, of which 1 finished",
    ]


def test_a_row_without_attackers_is_the_run_beside_the_others(tmp_path: Path) -> None:
    sweep, plans = load_sweep(written(tmp_path / "s.yaml"))
    assert listed(sweep, plans, tmp_path).splitlines()[2:] == [
        "runs: 2, of which 0 finished",
        f"folder: {tmp_path}/tiny_sweep",
    ]


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize("out", ["s.yaml", "s.yaml/below", "taken"])
def test_a_file_in_the_place_of_the_folder_is_one_line(
    out: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "s.yaml")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "tiny_sweep").write_text("")
    assert main(["sweep", str(file), "--out", str(tmp_path / out), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fedsim: --out {tmp_path / out}: ")
    assert line.endswith("is a file, not a folder; give a folder or a new name")


@pytest.mark.parametrize(("name", "content"), [("result.json", "{"), ("config.yaml", "name: other\n")])
@pytest.mark.parametrize("row", ["naive", "other"])
def test_what_is_damaged_is_refused_before_the_first_run(
    name: str, content: str, row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's own folder, and that of the run without attackers beside it, are what `fedsim run` would refuse too."""
    rows = {"first": {"server": {"epochs": 3}}, row: ROWS.get(row, {"server": {"epochs": 2}})}
    file, out = written(tmp_path / "s.yaml", rows=rows), tmp_path / "out"
    _, plans = load_sweep(file)
    damaged = admit(plans, out)[1][-1].path
    damaged.mkdir(parents=True)
    (damaged / name).write_text(content)
    assert main(["sweep", str(file), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fedsim: rows.{row}, seed 0: {damaged / name} ")
    assert list((out / "tiny_sweep").iterdir()) == [damaged]
