"""The page of a sweep: attackers against defences, all means and intervals over seeds, pictures of what was sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import Trigger
from fedsim.federated.attackers import TRIGGER
from fedsim.report.html import png
from fedsim.report.sweep_cells import Cell, without_attackers
from fedsim.report.sweep_matrix import matrix_of
from fedsim.report.sweep_numbers import calibrations, heading, shown, table_of, used
from fedsim.runs import write_atomic
from fedsim.types import UserError

PICTURED = 5
"""Synthetic images of the target class shown."""


def write_sweep(target: Path, name: str, cells: Sequence[Cell], failures: Sequence[str]) -> None:
    """Write the page, whole or not at all."""
    lines = table_of(cells)
    titles = {one: heading(one, lines) for one in used(lines)}
    shown = {"name": name, "lines": lines, "titles": titles, "failures": failures, "pictures": pictures(cells)}
    counts = [line["seeds"] for line in lines]
    many = {
        "columns": any(cell.column for cell in cells),
        "seeds": max(counts, default=0),
        "equal": len(set(counts)) < 2,
    }
    many |= {"calibrations": calibrations(lines), "matrix": matrix_of(lines), "runs": runs(target.parent, cells)}
    write_atomic(target, _environment().get_template("sweep.html.j2").render(**shown, **many))


def pictures(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of the first seed of every attacked row: trigger, and the attacker's images of the target class, as they are and
    as the same client's are in the run without attackers; a note where files of the run are gone or damaged."""
    found: list[dict[str, Any]] = []
    for cell in cells:
        triggers = cell.result.get("backdoor", {}).get("triggers", ())
        if not triggers or cell.column != cells[0].column or any(one["row"] == cell.row for one in found):
            continue
        what = {"row": cell.row} | {name: triggers[0][name] for name in ("client", "round", "target")}
        try:
            found.append(what | _pictured(cell, cells, triggers[0]))
        except UserError as error:  # the numbers stand in result.json whatever became of these files
            found.append(what | {"note": str(error)})
    return found


def runs(folder: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Where each run's own page lies, from the folder of the sweep."""
    return [
        {"row": cell.row, "column": cell.column, "seed": cell.seed, "name": cell.path.name,
         "link": os.path.relpath(cell.path / "report.html", folder)}
        for cell in cells
    ]  # fmt: skip


def _pictured(cell: Cell, cells: Sequence[Cell], row: dict[str, Any]) -> dict[str, Any]:
    """The trigger on grey, and the images; `UserError` where a file is damaged or gone."""
    folder = cell.path / f"clients/client_{row['client']:04d}/round_{row['round']:03d}"
    trigger = Trigger.load(folder / TRIGGER)
    before = next((one for one in without_attackers(cell, cells) if one.seed == cell.seed), None)
    return {
        "trigger": png(trigger.stamp(torch.full_like(trigger.values, 96)[None])),
        "after": _uploaded(cell, row), "before": _uploaded(before, row) if before else None,
    }  # fmt: skip


def _uploaded(cell: Cell, row: dict[str, Any]) -> list[str]:
    """Images of the target class in the client's upload of that round; none where it sent weights."""
    path = cell.path / f"synthetic/round_{row['round']:03d}/client_{row['client']:04d}.safetensors"
    if not path.is_file():
        return []
    synthetic = SyntheticSet.load(path)
    return [png(one[None]) for one in synthetic.images[synthetic.labels == row["target"]][:PICTURED]]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedsim", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown}
    return environment
