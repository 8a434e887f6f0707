"""Runs as a table: a row per config, seeds together, paired with their controls; three formats say the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsim.cli import main
from fedsim.report.table import rows, runs_among, said, write_table
from fedsim.types import UserError

MODEL = {"name": "convnet", "depth": 2, "width": 8, "norm": "instance"}


def run(root: Path, seed: int, result: dict[str, Any], **sections: Any) -> Path:
    folder = root / f"{sections.get('name', 'one')}-s{seed}"
    folder.mkdir()
    config = {
        "name": "one",
        "seed": seed,
        "data": {"name": "digits"},
        "model": MODEL,
        "method": {"name": "dm", "ipc": 5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config | sections))
    base = {"rounds": 0, "uplink_bytes": 0, "protocol": {"labels": "hard"}, "controls": {}}
    (folder / "result.json").write_text(json.dumps(base | result))
    return folder


def federated(root: Path, seed: int, accuracy: float, control: float) -> Path:
    result = {
        "accuracy": accuracy, "accuracy_ci": [0.1, 0.9], "accuracy_over": "359 test images", "rounds": 3,
        "uplink_bytes": 2_000_000, "downlink_bytes": 4_500_000, "client_flops": 1e12 + 1e11 * seed,
        "wall_seconds": 1234.4, "controls": {"upload_real_subset": {"accuracy": control}},
    }  # fmt: skip
    return run(root, seed, result, algorithm={"name": "feddm"}, name="fed")


def test_seeds_of_a_config_are_one_row_paired_with_their_controls(tmp_path: Path) -> None:
    seeds = [federated(tmp_path, seed, accuracy, 0.95) for seed, accuracy in enumerate((0.90, 0.92, 0.91))]
    (row,) = rows(seeds)
    assert (row.n, row.over, row.method, row.ipc) == (3, "seeds", "feddm · dm", "5")
    assert row.accuracy == "91.00 [88.52, 93.48]"  # t₀.₉₇₅ with two degrees of freedom is 4.303
    assert row.control == "95.00"
    assert row.difference == "-4.00 [-6.48, -1.52]"
    (two,) = rows(seeds[:2])
    assert (two.accuracy, two.difference) == ("91.00", "-4.00")
    assert (row.uplink_mb, row.rounds, row.model) == ("2", "3", "convnet-2-8 instance")
    assert (row.downlink_mb, row.client_flops, row.seconds) == ("4.5", "1.1e+12", "1234")


def test_attacked_and_defended_runs_are_told_apart_by_words(tmp_path: Path) -> None:
    liar, guard = {"name": "naive", "clients": [1], "adaptive_to": "upload_checks"}, {"name": "upload_checks"}
    made = {"accuracy": 0.5, "accuracy_ci": None, "accuracy_over": "359 test images"}
    more: list[dict[str, Any]] = [{}, {"attackers": [liar]}, {"attackers": [liar], "defenses": [guard]}]
    paths = [run(tmp_path, 0, made, name=f"run{n}", **one) for n, one in enumerate(more)]
    attacked = "dm · naive in the place of client 1, adaptive to upload_checks"
    assert [row.method for row in rows(paths)] == ["dm", attacked, f"{attacked} · upload_checks"]


def test_a_single_run_keeps_its_own_interval(tmp_path: Path) -> None:
    central = {
        "accuracy": 0.6, "accuracy_ci": [0.5, 0.7], "accuracy_over": "2 sets",
        "accuracy_values": [[0.5, 0.7], [0.6, 0.6]],
        "controls": {"random_subset": {"accuracy": 0.5, "values": [[0.4], [0.5], [0.6]]}},
    }  # fmt: skip
    (first, second) = rows([federated(tmp_path, 0, 0.9, 0.95), run(tmp_path, 0, central)])
    assert (first.n, first.over, first.accuracy) == (359, "test images", "90.00 [10.00, 90.00]")
    assert first.difference == "-5.00"
    assert (second.n, second.over, second.accuracy) == (2, "sets", "60.00 [50.00, 70.00]")
    assert second.difference == "+10.00 [-14.84, +34.84]"  # Welch: s² of the sets is 0, so 2 degrees of freedom


def test_the_three_formats_hold_the_same_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = federated(tmp_path, 0, 0.9, 0.95)
    assert main(["report", "--table", str(path)]) == 0
    header, _, line = capsys.readouterr().out.strip().splitlines()
    cells = dict(zip(header.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    write_table([path], tmp_path / "t.csv")
    (row,) = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert {name: cell for name, cell in row.items() if cell} == cells
    latex = write_table([path], tmp_path / "t.tex")
    assert r"feddm $\cdot$ dm" in latex
    assert latex.count("&") == 2 * (len(cells) - 1)
    assert r"downlink\_mb & client\_flops & seconds \\" in latex


def test_further_architectures_are_rows_of_their_own(tmp_path: Path) -> None:
    other = {"accuracy": 0.4, "accuracy_ci": None, "accuracy_over": "1 networks", "accuracy_values": [[0.4]]}
    other["controls"] = {"random_subset": {"accuracy": 0.3, "values": [[0.2], [0.4]]}}
    main_result = other | {"accuracy": 0.7, "architectures": [other]}
    path = run(tmp_path, 0, main_result, architectures=[{"name": "mlp", "depth": 3, "width": 128}])
    first, second = rows([path])
    assert (first.model, first.accuracy) == ("convnet-2-8 instance", "70.00")
    assert (second.model, second.accuracy, second.control) == ("mlp-3-128", "40.00", "30.00")


def test_what_was_measured_beside_the_accuracy_is_averaged_over_seeds(tmp_path: Path) -> None:
    base = {"accuracy": 0.6, "accuracy_ci": None, "accuracy_over": "1 networks", "storage_bits": 8000}
    paths = []
    for seed, lrs in enumerate((0.2, 0.4)):
        found = {"ranking": {"lrs": lrs, "ars": 0.5}, "diversity": {"sets": [{"mean": 0.1}, {"mean": 0.3}]}}
        paths.append(run(tmp_path, seed, base | found))
    (row,) = rows(paths)
    assert (row.set_kb, row.uplink_mb, row.downlink_mb, row.client_flops) == ("1", "", "", "")
    assert (row.label_robust, row.augmentation_robust, row.cosine) == ("0.3000", "0.5000", "0.2000")
    header = write_table(paths, None).splitlines()[0]
    assert "label_robust" in header
    assert "uplink_mb" not in header
    (row,) = rows([*paths, run(tmp_path, 2, base | {"diversity": {"sets": [{"mean": None}]}})])
    assert (row.label_robust, row.cosine) == ("", "")


def test_what_is_no_finished_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        rows([tmp_path])
    path = federated(tmp_path, 0, 0.9, 0.95)
    with pytest.raises(UserError, match=r"\.md, \.csv, \.tex"):
        write_table([path], tmp_path / "t.xlsx")
    (path / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        rows([path])
    with pytest.raises(UserError, match=r"there are runs in it: give .*/\*"):
        rows([tmp_path])


def test_unfinished_runs_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, cut = federated(tmp_path, 0, 0.9, 0.95), federated(tmp_path, 1, 0.9, 0.95)
    (cut / "result.json").unlink()
    out = tmp_path / "new" / "t.csv"
    assert main(["report", str(done), str(cut), "--out", str(out)]) == 0  # the suffix says that it is a table
    assert capsys.readouterr().err == f"left out, not finished: {cut}\n"
    assert len(out.read_text().splitlines()) == 2


@pytest.fixture
def beside(tmp_path: Path) -> list[Path]:
    """A sweep's folder as `folder/*` names it: two runs, the sweep's files, and an audit that is finished."""
    done, cut = federated(tmp_path, 0, 0.9, 0.95), federated(tmp_path, 1, 0.9, 0.95)
    (cut / "result.json").unlink()
    files = [tmp_path / name for name in ("sweep.json", "sweep.html")]
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "config.yaml").write_text("name: audit\nrun: {}\nattacks: [{name: lira}]\n")
    (audit / "card.json").write_text("{}")
    for file in files:
        file.write_text("{}")
    return [audit, done, cut, *files]


def test_a_table_over_a_sweeps_folder_says_what_is_no_run(
    beside: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit, _, cut, first, second = beside
    assert main(["report", "--table", *map(str, beside), "--out", str(tmp_path / "t.csv")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"left out, no run but an audit, which has a card of its own: {audit}",
        f"left out, no run but what a sweep writes beside its runs: {first}, {second}",
        f"left out, not finished: {cut}",
    ]
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2


def test_long_lists_of_what_is_left_out_are_cut(tmp_path: Path) -> None:
    assert said({"not finished": [tmp_path / str(number) for number in range(5)]}) == [
        f"left out, not finished: {tmp_path}/0, {tmp_path}/1, {tmp_path}/2 and 2 more"
    ]


def test_no_run_among_what_was_given_is_told_truly(beside: list[Path]) -> None:
    with pytest.raises(UserError, match=r"audit is no run but an audit, which has a card of its own; give OUT"):
        rows(beside[:1])
    with pytest.raises(UserError, match=r"sweep\.json is no run but what a sweep writes beside its runs; give OUT"):
        runs_among(beside[3:])


def test_another_file_beside_runs_is_refused(beside: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes\.txt is no run's folder"):
        rows([*beside, tmp_path / "notes.txt"])
