"""The table of a sweep: every number of its runs, its mean over seeds, and how far that is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.report.sweep_cells import Cell, without_attackers, without_defences
from fedsim.report.sweep_detection import RATE, Count, calibrated, detection, flagged, flagged_calibrated
from fedsim.training.intervals import FEWEST, Interval, bounded_ci, mean_ci, wilson

Number = Callable[[Cell, Sequence[Cell]], float | None]
"""Of a run, among all runs of the sweep; None where it has none."""


def _backdoor(name: str) -> Number:
    return lambda cell, cells: cell.result.get("backdoor", {}).get(name)


def _change(cell: Cell, cells: Sequence[Cell]) -> float | None:
    clean = cell.result.get("backdoor", {}).get("accuracy_clean")
    return None if clean is None else cell.result["accuracy"] - clean


def _change_unattacked(cell: Cell, cells: Sequence[Cell]) -> float | None:
    """Of a run that is defended against nobody: its accuracy less that of the same run without the defence.

    Above 0 where the defended run is the better one.
    """
    bare = without_defences(cell, cells) if cell.clean and cell.settings[1] != "[]" else None
    return None if bare is None else cell.result["accuracy"] - bare.result["accuracy"]


def _flagged(cell: Cell, cells: Sequence[Cell]) -> Count | None:
    return flagged(cell)


def _at_rate(cell: Cell, cells: Sequence[Cell]) -> Count | None:
    return flagged_calibrated(cell, calibrated(without_attackers(cell, cells))) if flagged(cell) else None


def _false(cell: Cell, cells: Sequence[Cell]) -> Count | None:
    return flagged(cell, honest=True)


COUNTS: dict[str, Callable[[Cell, Sequence[Cell]], Count | None]] = {
    "flagged": _flagged,
    "flagged_calibrated": _at_rate,
    "honest_flagged": _false,
}
"""Numbers that are shares of uploads: counts without an interval, since uploads of a round, and rounds, depend."""


def _share(name: str) -> Number:
    def share(cell: Cell, cells: Sequence[Cell]) -> float | None:
        found = COUNTS[name](cell, cells)
        return None if found is None else found[0] / found[1]

    return share


NUMBERS: dict[str, Number] = {
    "accuracy": lambda cell, cells: cell.result["accuracy"],
    "accuracy_change": _change,
    "change_unattacked": _change_unattacked,
    "attack_success": _backdoor("asr"),
    "without_attackers": _backdoor("asr_clean"),
    "random_patch": _backdoor("asr_random_patch"),
    "lift": _backdoor("lift"),
    "detection_auroc": lambda cell, cells: detection(cell),
    **{name: _share(name) for name in COUNTS},
}
"""Column of the table → its number in a run."""
SIGNED = {"lift", "accuracy_change", "change_unattacked"}
"""Numbers that are differences of two runs."""
STAMPED = {"attack_success", "without_attackers", "random_patch"}
"""Numbers that are shares of stamped test images."""


def facts(cell: Cell, cells: Sequence[Cell], folder: Path) -> dict[str, Any]:
    """Where a run lies below the sweep's folder, what made it, and the numbers of the table."""
    made = json.loads((cell.path / "manifest.json").read_text())
    found = {"row": cell.row, "column": cell.column, "seed": cell.seed, "run": str(cell.path.relative_to(folder))}
    found |= {name: made.get(name) for name in ("git", "device", "processor", "cores", "versions", "answers_of")}
    return found | {name: look(cell, cells) for name, look in NUMBERS.items()}


def table_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A line for each row and column: every number's mean over seeds, its interval, and how many seeds there are."""
    lines = []
    for row, column in dict.fromkeys((cell.row, cell.column) for cell in cells):
        own = [cell for cell in cells if (cell.row, cell.column) == (row, column)]
        numbers = {name: _over(own, cells, name) for name in NUMBERS}
        thresholds = calibrated(without_attackers(own[0], cells)) if numbers["flagged_calibrated"] else {}
        told = {
            name: {"threshold": one.value, "scores": one.scores, "rate": RATE if one.kept else None}
            for name, one in thresholds.items()
        }
        lines.append({"row": row, "column": column, "seeds": len(own)} | numbers | {"calibration": told})
    return lines


def _over(own: Sequence[Cell], cells: Sequence[Cell], name: str) -> dict[str, Any] | None:
    """Mean over seeds and what its interval is over: `seeds`, `images`, or none and counts of all seeds' `uploads`."""
    if name in COUNTS:
        counts = [found for cell in own if (found := COUNTS[name](cell, cells)) is not None]
        hits, looked = sum(one for one, _ in counts), sum(one for _, one in counts)
        return _told(hits / looked, None, "uploads", len(counts)) | {"hits": hits, "of": looked} if counts else None
    found = [(cell, value) for cell in own if (value := NUMBERS[name](cell, cells)) is not None]
    if not found:
        return None
    values = [value for _, value in found]
    mean, interval = bounded_ci(values) if name == "detection_auroc" else mean_ci(values)
    if name != "detection_auroc" and max(values) - min(values) < 1e-12:  # t has no width, or there is one seed
        return _told(mean, _within([cell for cell, _ in found], name, mean), "images", len(values))
    if len(values) >= FEWEST:
        return _told(mean, interval, "seeds", len(values))
    ends = {"ends": [min(values), max(values)]} if len(values) > 1 else {}
    return _told(mean, None, "seeds", len(values)) | ends


def _told(mean: float, interval: Interval | None, over: str, n: int) -> dict[str, Any]:
    return {"mean": mean, "interval": list(interval) if interval else None, "over": over, "n": n}


def _within(cells: Sequence[Cell], name: str, mean: float) -> Interval | None:
    """Of runs that agree: of a share of stamped images Wilson's of the run with the fewest; else the widest of a run's.

    The seeds share their test images: counted once for each, they would be surer than they are.
    """
    triggers = [row for cell in cells for row in cell.result.get("backdoor", {}).get("triggers", ())]
    if name in STAMPED and triggers:
        images = min(row["images"] for row in triggers)
        return wilson(round(mean * images), images)
    if name == "accuracy":
        ends = [cell.result["accuracy_ci"] for cell in cells if cell.result["accuracy_ci"]]
    else:
        ends = [row["lift_ci"] for row in triggers if name == "lift" and "lift_ci" in row]
        ends = ends if len(triggers) == len(cells) else []  # a mean over triggers has no interval of one of them
    return max(((one[0], one[1]) for one in ends), key=lambda one: one[1] - one[0], default=None)


def as_now(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a kept sweep.json as `table_of` makes it now: `cost` renamed, uploads counted.

    Two seeds lose their interval. Wilson's, which shares of uploads had, is that of one number of uploads alone.
    """
    found = {{"cost": "change_unattacked"}.get(name, name): one for name, one in line.items()}
    for name in found.keys() & NUMBERS.keys():
        one = found[name]
        if one is None or one["interval"] is None:
            continue
        if one["over"] == "seeds" and one["n"] < FEWEST:
            found[name] = one | {"interval": None}
        elif name in COUNTS:
            hits, looked = _counts_of(one["mean"], one["interval"])
            found[name] = one | {"interval": None, "hits": hits, "of": looked}
    return found


def _counts_of(mean: float, interval: Sequence[float]) -> Count:
    """Hits and number that a share and its Wilson interval are of; `ValueError` where none below 100,000 has it."""
    for looked in range(1, 100_000):
        ends = wilson(round(mean * looked), looked)
        near = max(abs(one - other) for one, other in zip(ends, interval, strict=True)) < 1e-9
        if near and abs(round(mean * looked) - mean * looked) < 1e-9:
            return round(mean * looked), looked
    raise ValueError(f"got a share of {mean:g} with the interval {list(interval)}; valid: Wilson's of some uploads")


def used(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns in which some line has a number."""
    return [name for name in NUMBERS if any(line.get(name) for line in lines)]


UNATTACKED = "accuracy change without an attacker"
"""What the change of accuracy by a defence that nobody attacks is called."""


def heading(name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """A column's title with its unit, and how thresholds were calibrated."""
    if name == "flagged_calibrated":
        rules = {one["rate"] for line in lines for one in line.get("calibration", {}).values()}
        if rules == {None}:
            return "flagged above the largest clean score"
        return f"flagged at {f'{100 * RATE:g} % false positives' if rules == {RATE} else 'calibrated thresholds'}"
    plain = name.replace("_", " ").replace("auroc", "AUROC")
    if name == "detection_auroc" or name in COUNTS:
        return plain
    plain = UNATTACKED if name == "change_unattacked" else plain
    return f"{plain}, {'points' if name in SIGNED else '%'}"


def calibrations(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """For every column with filters the rule of each and how many clean scores it had."""
    found: dict[str, None] = {}
    for line in lines:
        for name, one in line.get("calibration", {}).items():
            rule = f"{100 * one['rate']:g} % of" if one["rate"] else "the largest of"
            where = f"{line['column']}: " if line["column"] and line["column"] != name else ""
            found[f"{where}{name} {one['threshold']:.3g}, {rule} {one['scores']} clean scores"] = None
    return list(found)


def shown(found: Mapping[str, Any] | None, name: str) -> str:
    """A number of the table with its interval, or two seeds' ends, in per cent or points; uploads as counts."""
    if found is None:
        return ""
    if "of" in found:
        return f"{found['hits']}/{found['of']}"
    scale, places = (1, 3) if name == "detection_auroc" else (100, 1)
    sign = "+" if name in SIGNED else ""
    between = found["interval"] or found.get("ends") or ()
    text, *ends = [f"{scale * one:{sign}.{places}f}" for one in (found["mean"], *between)]
    if not ends:
        return text
    return f"{text} [{', '.join(ends)}]" if found["interval"] else f"{text} ({' to '.join(ends)})"
