"""What the tables of docs/results.md share: intervals over seeds, commits, settings that must agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import federated_cells
from federated_cells import chosen, grid_cells
from federated_tables import best_on_val, seconds
from kept_parts import alike
from result_tables import interval, revisions, source, spread

from fedsim.types import UserError


def test_no_interval_of_fewer_than_three_seeds_nor_of_seeds_that_agree() -> None:
    assert interval([0.5]) == "50.00"
    assert interval([0.5, 0.1]) == "30.00 (10.00 to 50.00)"
    assert interval([0.1, 0.1]) == interval([0.1, 0.1, 0.1]) == "10.00 (all equal)"
    assert interval([0.1 + 0.2, 0.3, 0.3]) == "30.00 (all equal)"  # to rounding
    assert interval([0.1, 0.2, 0.3]) == "20.00 [-4.84, 44.84]"
    assert interval([1.0, 2.0], "{:.1f}".format) == "1.5 (1.0 to 2.0)"
    assert spread([0.5, 0.1]) is None
    assert spread([0.1, 0.2, 0.3]) == pytest.approx((-0.0484, 0.4484), abs=1e-4)


def test_changes_that_were_not_committed_are_told() -> None:
    first, second = "0123456789abcdef", "fedcba9876543210"
    made = [
        {"commit": second, "dirty": True}, {"commit": first, "dirty": False}, {"commit": first, "dirty": None},
        {"commit": first}, {"commit": None}, None,
    ]  # fmt: skip
    assert revisions(made) == "0123456789, fedcba9876 + changes, unknown"
    assert revisions([made[1], {"commit": first, "dirty": True}]) == "0123456789, 0123456789 + changes"


def test_parts_of_one_table_are_made_under_the_same_settings() -> None:
    ours, other = {"epochs": 1, "seed": 0}, {"epochs": 1, "seed": 1, "bound": 9}
    assert alike("tickets", [ours, ours | {"seed": 5}], free=("seed",)) == ours
    with pytest.raises(UserError, match=r"tickets: kept parts of different settings \(bound, seed\)"):
        alike("tickets", [ours, ours, other])


def test_a_table_names_every_machine_and_means_no_seconds_of_two() -> None:
    facts = {"cores": 2, "processor": "x86_64", "device": "cpu", "versions": {"torch": "2.13"}, "git": None}
    here = {"manifest": facts, "wall_seconds": 900.0}
    there = {"manifest": facts | {"cores": 16, "device": "cuda"}, "wall_seconds": 80.0}
    said = source("group", {"a-s0": here, "a-s1": there, "a-s2": here})
    assert said.endswith("16 cores, x86_64, cuda, torch 2.13; 2 cores, x86_64, cpu, torch 2.13")
    assert (seconds([here, here]), seconds([here, there])) == ("900", "")


def test_equals_of_a_grid_are_decided_by_two_more_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federated_cells, "RESULTS", tmp_path)
    grids = {"clear": {"slow": ("lr=1",), "fast": ("lr=2",)}, "even": {"slow": ("lr=1",), "fast": ("lr=2",)}}

    def keep(cell: str, *by_round: float) -> None:
        (tmp_path / "grid" / cell).mkdir(parents=True)
        (tmp_path / "grid" / cell / "result.json").write_text(json.dumps({"accuracy_by_round": by_round}))

    def names() -> list[str]:
        return [cell.name for cell in grid_cells(grids, "file.yaml", "grid")]

    for cell, last in (("clear-slow", 0.8), ("clear-fast", 0.7), ("even-slow", 0.9)):
        keep(cell, 0.1, last)
    assert chosen(grids, "grid") == {"clear": "slow"}  # the other grid is not whole
    assert names() == ["clear-slow", "clear-fast", "even-slow", "even-fast"]
    keep("even-fast", 0.2, 0.9)
    assert chosen(grids, "grid") == {"clear": "slow"}  # and now it is even
    assert names()[4:] == ["even-slow-s1", "even-slow-s2", "even-fast-s1", "even-fast-s2"]
    for cell, last in (("even-slow-s1", 0.6), ("even-slow-s2", 0.8), ("even-fast-s1", 0.9), ("even-fast-s2", 0.6)):
        keep(cell, last)
    assert chosen(grids, "grid") == {"clear": "slow", "even": "fast"}


def test_of_every_number_of_rounds_one_trial_of_dp_fedavg_is_chosen_on_val() -> None:
    val = {"eps1_r1_lr0.5": 0.3, "eps1_r1_lr2": 0.5, "eps1_r3_lr0.5": 0.9, "eps9_r1_lr0.5": 0.7, "eps9_r1_lr2": 0.6}
    trials = {f"dp_fedavg_{name}-s0": {"accuracy_by_round": [0.99, last]} for name, last in val.items()}
    assert best_on_val(trials) == {"dp_fedavg_eps1_r1_lr2-s0", "dp_fedavg_eps9_r1_lr0.5-s0"}  # r3 is not whole
