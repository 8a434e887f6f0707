"""What the tables of docs/results.md share: intervals over seeds, commits, settings that must agree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

from kept_parts import alike
from result_tables import interval, revisions, spread

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
