"""Which runs of a sweep stand beside one another."""

from __future__ import annotations

from pathlib import Path

from fedsim.report.sweep_cells import without_attackers, without_defences
from tests.report.sweep_runs import cell


def test_runs_are_held_against_those_that_differ_in_attackers_or_defences_alone(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, row, column, seed, rounds=rounds)
        for rounds in (1, 2)
        for row in ("clean", "naive")
        for column in ("none", "checks")
        for seed in (0, 1)
    ]
    attacked = next(one for one in cells if (one.row, one.column, one.seed) == ("naive", "checks", 1))
    found = [(one.row, one.column, one.seed, one.config["rounds"]) for one in without_attackers(attacked, cells)]
    assert found == [("clean", "checks", 0, 1), ("clean", "checks", 1, 1)]
    bare = without_defences(attacked, cells)
    assert bare is not None
    assert (bare.row, bare.column, bare.seed, bare.config["rounds"]) == ("naive", "none", 1, 1)
    assert without_defences(attacked, [attacked]) is None


def test_a_distillation_has_neither(tmp_path: Path) -> None:
    one = cell(tmp_path)
    (one.path / "config.yaml").write_text("seed: 0\nmethod: {name: dm}\n")
    assert one.clean
    assert without_attackers(one, [one]) == [one]
