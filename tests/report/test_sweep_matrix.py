"""Attackers against defences on one page: every number in its place."""

from __future__ import annotations

from typing import Any

from fedsim.report.sweep_matrix import Place, matrix_of


def line(row: str, column: str, **numbers: float) -> dict[str, Any]:
    told = {name: {"mean": value, "interval": [value - 0.1, value + 0.1]} for name, value in numbers.items()}
    return {"row": row, "column": column, "lift": None, "change_unattacked": None} | told


LINES = [
    line("clean", "none"),
    line("clean", "median", change_unattacked=-0.02),
    line("naive", "none", lift=0.4),
    line("naive", "median", lift=-0.05),
    line("direct", "none", lift=1.0),
]


def test_rows_are_attackers_and_columns_defences() -> None:
    found = matrix_of(LINES)
    assert found is not None
    assert found.columns == ("none", "median")
    assert dict(found.rows) == {
        "clean": (Place("", 0), Place("accuracy -2.0 [-12.0, +8.0]", 0)),
        "naive": (Place("+40.0 [+30.0, +50.0]", 40), Place("-5.0 [-15.0, +5.0]", 0)),
        "direct": (Place("+100.0 [+90.0, +110.0]", 100), Place("", 0)),  # not run yet
    }


def test_there_is_none_of_one_column_or_without_an_attacker() -> None:
    assert matrix_of([one for one in LINES if one["column"] == "none"]) is None
    assert matrix_of(LINES[:2]) is None
    assert matrix_of([]) is None
