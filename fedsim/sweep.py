"""A sweep: one run varied by rows and columns, for several seeds; finished runs are found, not made again.

A cell is the run with its row, its column and its seed laid over it, section by section as `extends` does. Where cells
differ in what only the server does, what their clients answered is shared (`fedsim.sibling_uploads`). The file is that
of `sweep_schema.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fedsim.admission import check
from fedsim.build import Parts
from fedsim.config import Raw, digest, merge, override, read, validate
from fedsim.experiment import execute
from fedsim.report.sweep_cells import Cell
from fedsim.report.sweep_numbers import facts, table_of
from fedsim.report.sweep_page import write_sweep
from fedsim.runs import RunDirectory, write_atomic
from fedsim.schema import WHAT, Distillation, Experiment, FederatedRun, kind_of, resolve
from fedsim.sweep_schema import Sweep
from fedsim.types import RunFailed, UserError
from fedsim.workload import settled


@dataclass(frozen=True)
class Plan:
    """One run of a sweep."""

    row: str
    column: str
    seed: int
    config: Experiment

    @property
    def named(self) -> str:
        """As it is said while the sweep is made."""
        return " · ".join(part for part in (self.row, self.column, f"seed {self.seed}") if part)


def _place(row: str, column: str) -> str:
    """Where the settings of a cell are in the sweep's file."""
    return f"rows.{row}" + (f", columns.{column}" if column else "")


def load_sweep(path: Path, assignments: Sequence[str] = ()) -> tuple[Sweep, list[Plan]]:
    """The sweep and its runs, row by row; every run's settings are checked, its data are not read (`admit` does)."""
    raw = read(path)
    if (found := kind_of(raw)) not in {"sweep", ""}:
        varied = f", or vary it in a sweep with run: {path.name} and rows" if found != "audit run" else ""
        raise UserError(f"{path} is {WHAT[found]}, and not for fedsim sweep; use fedsim {found} {path}{varied}")
    sweep = validate(Sweep, override(raw, [word for word in assignments if word.startswith(("seeds=", "name="))]))
    of_the_run = [word for word in assignments if not word.startswith(("seeds=", "name="))]
    _refuse_own(sweep, of_the_run)
    base = override(read(path.parent / sweep.run) if isinstance(sweep.run, str) else sweep.run, of_the_run)
    plans = []
    for (row, over), (column, more), seed in product(sweep.rows.items(), sweep.columns.items(), sweep.seeds):
        laid: Raw = merge(merge(merge(base, over), more), {"seed": seed, "name": sweep.name})
        try:
            plans.append(Plan(row, column, seed, resolve(FederatedRun if "algorithm" in laid else Distillation, laid)))
        except UserError as error:
            raise UserError(f"{_place(row, column)}: {error}") from error
    return sweep, plans


def _refuse_own(sweep: Sweep, assignments: Sequence[str]) -> None:
    """Refuse what is laid on the run and would be lost, as the sweep's own name and seeds are laid over it.

    The file of a run has both; they are those of the run by itself.
    """
    if given := next((word for word in assignments if word.startswith("seed=")), None):
        raise UserError(f"{given}: the seeds of a sweep are one list; use seeds=[{given[5:]}]")
    places = {"run": sweep.run} if isinstance(sweep.run, dict) else {}
    for kind in ("rows", "columns"):
        places |= {f"{kind}.{name}": over for name, over in getattr(sweep, kind).items()}
    for place, over in places.items():
        if "seed" in over:
            raise UserError(f"{place}.seed: the seeds of a sweep are one list; use seeds: [{over['seed']}] beside rows")
        if "name" in over:
            raise UserError(f"{place}.name: all runs of a sweep have its name; give it beside rows, and none here")


def admit(plans: Sequence[Plan], out: Path) -> list[list[RunDirectory]]:
    """Of every run its folder, then that of the same run without attackers where it is made beside; nothing is written.

    `UserError` for the first run that `execute` would refuse. Images are read once for all runs that read the same.
    """
    loaded: dict[str, Parts] = {}
    found = []
    for plan in plans:
        read_as = plan.config.data.model_dump_json()
        parts = loaded[read_as].beside(plan.config) if read_as in loaded else Parts(plan.config)
        _ = parts.dataset  # data that are not there are no one row's fault
        loaded.setdefault(read_as, parts)
        try:
            check(parts)
            found.append([_folder(one, out) for one in _with_control(settled(parts).config)])
        except UserError as error:
            raise UserError(f"{_place(plan.row, plan.column)}, seed {plan.seed}: {error}") from error
    return found


def _with_control(config: Experiment) -> list[Experiment]:
    """The run, and the one that `execute` makes or finds before it."""
    attacked = isinstance(config, FederatedRun) and config.attackers and config.controls.without_attackers
    return [config, config.model_copy(update={"attackers": ()})] if attacked else [config]


def _folder(config: Experiment, out: Path) -> RunDirectory:
    """Where the run is or will be; what is there already has to be whole, and of this config."""
    run = RunDirectory(out / config.name / f"{digest(config)}-s{config.seed}")
    if (run.path / "config.yaml").is_file():
        RunDirectory.open(out, config, config.name, config.seed)
    _ = run.finished  # a damaged result is refused
    return run


def listed(sweep: Sweep, plans: Sequence[Plan], out: Path) -> str:
    """The runs of a sweep, which are finished, how many and where; `UserError` as `admit`."""
    found = admit(plans, _usable(out, sweep))
    lines = [plan.named + (", finished" if own[0].finished else "") for plan, own in zip(plans, found, strict=True)]
    runs = {own[0].path: own[0] for own in found}
    beside = {one.path: one for own in found for one in own[1:] if one.path not in runs}
    for what, some in (("runs", runs), ("runs without their attackers, made before them", beside)):
        if some:
            lines.append(f"{what}: {len(some)}, of which {sum(one.finished for one in some.values())} finished")
    return "\n".join([*lines, f"folder: {out / sweep.name}"])


def _usable(out: Path, sweep: Sweep) -> Path:
    """`out`, where the sweep's folder can be made in it."""
    folder = out / sweep.name
    if taken := next((one for one in (folder, *folder.parents) if one.exists() and not one.is_dir()), None):
        raise UserError(f"--out {out}: {taken} is a file, not a folder; give a folder or a new name")
    return out


def run_sweep(sweep: Sweep, plans: Sequence[Plan], out: Path, say: Callable[[str], None]) -> tuple[Path, list[str]]:
    """Make what is missing; returns the folder and what failed. A run that fails does not stop the others.

    What can be told before any work is a `UserError` before the first run.
    """
    admit(plans, _usable(out, sweep))
    folder, failures = out / sweep.name, []
    done: list[Cell] = []
    for number, plan in enumerate(plans, 1):
        say(f"run {number} of {len(plans)}: {plan.named}")
        try:
            run = RunDirectory(
                execute(plan.config, out, siblings=[cell.path for cell in done if cell.seed == plan.seed])
            )
            done.append(Cell(plan.row, plan.column, plan.seed, run.path, run.read_json("result")))
        except (RunFailed, UserError) as error:  # the second: a folder that is in use, say
            failures.append(f"{plan.named}: {error}")
            say(f"failed: {error}")
        content = {"name": sweep.name, "cells": [facts(one, done, folder) for one in done], "failed": failures}
        write_atomic(folder / "sweep.json", json.dumps(content | {"table": table_of(done)}, indent=1) + "\n")
        write_sweep(folder / "sweep.html", sweep.name, done, failures)
    return folder, failures
