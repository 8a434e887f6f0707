"""Attackers against defences, one number in each place: the lift of a sweep whose table is too long to see it in.

The first column is what the others are read against. A row that nobody attacks has no lift: in its place is by how much
each defence changed the accuracy, where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report.sweep_numbers import shown


@dataclass(frozen=True)
class Place:
    """What stands in one place of the matrix."""

    text: str
    """Mean and interval in points; empty where there is no run yet."""
    depth: int
    """How strong its colour is: a lift in per cent, 0 to 100."""


@dataclass(frozen=True)
class Matrix:
    """Rows are attackers, columns defences."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Place, ...]], ...]
    """A row's name, and what stands under each column."""


def matrix_of(lines: Sequence[Mapping[str, Any]]) -> Matrix | None:
    """Of the lines of a sweep's table; None where it has one column or nobody's lift was measured."""
    columns, rows = (tuple(dict.fromkeys(line[name] for line in lines)) for name in ("column", "row"))
    if len(columns) < 2 or not any(line.get("lift") for line in lines):
        return None
    found = {(line["row"], line["column"]): line for line in lines}
    return Matrix(columns, tuple((row, tuple(_place(found.get((row, one))) for one in columns)) for row in rows))


def _place(line: Mapping[str, Any] | None) -> Place:
    lift = line.get("lift") if line is not None else None
    if lift is not None:
        return Place(shown(lift, "lift"), round(100 * min(max(lift["mean"], 0.0), 1.0)))
    change = line.get("change_unattacked") if line is not None else None
    return Place(f"accuracy {shown(change, 'change_unattacked')}" if change is not None else "", 0)
