"""The page of a sweep: one table of means and intervals over seeds, and pictures of what the attackers sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsim.config import Raw, read
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import Trigger
from fedsim.federated.attackers import TRIGGER
from fedsim.report.html import png
from fedsim.report.numbers import percent
from fedsim.runs import write_atomic
from fedsim.training.intervals import Interval, mean_ci

PICTURED = 5
"""Synthetic images of the target class shown."""


@dataclass(frozen=True)
class Cell:
    """A finished run of a sweep."""

    row: str
    column: str
    seed: int
    path: Path
    result: dict[str, Any]

    @property
    def config(self) -> Raw:
        """The run's resolved config."""
        return read(self.path / "config.yaml")

    def plain(self, folder: Path) -> dict[str, Any]:
        """Where it lies below the sweep's folder, what made it, and the numbers of the table."""
        facts = json.loads((self.path / "manifest.json").read_text())
        found = {"row": self.row, "column": self.column, "seed": self.seed, "run": str(self.path.relative_to(folder))}
        found |= {name: facts.get(name) for name in ("git", "device", "processor", "cores", "versions")}
        return found | {name: look(self) for name, look in NUMBERS.items()}


def _backdoor(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: cell.result.get("backdoor", {}).get(name)


def _change(cell: Cell) -> float | None:
    clean = _backdoor("accuracy_clean")(cell)
    return None if clean is None else cell.result["accuracy"] - clean


def detection(cell: Cell) -> tuple[float, float] | None:
    """AUROC of the filters' scores, clients that attacked against those that did not, over all rounds and filters; and
    the share of honest uploads that were flagged. None without a filter; NaN where nobody attacks.

    Whom a filter could not judge it did not suspect: below all scores, and not flagged.
    """
    rounds = cell.result.get("defenses") or [{} for _ in cell.result.get("backdoor", {}).get("acted", ())]
    acted = cell.result.get("backdoor", {}).get("acted") or [[] for _ in rounds]
    wins, pairs, flagged, honest = 0.0, 0, 0, 0
    for verdicts, attackers in zip(rounds, acted, strict=True):
        for said in verdicts.values():
            scores = {int(client): score if judged else -math.inf for client, (score, _, judged) in said.items()}
            bad = [score for client, score in scores.items() if client in attackers]
            good = [score for client, score in scores.items() if client not in attackers]
            wins += sum((one > score) + 0.5 * (one == score) for one in bad for score in good)
            pairs += len(bad) * len(good)
            flagged += sum(flag for client, (_, flag, _) in said.items() if int(client) not in attackers)
            honest += len(good)
    if not honest:
        return None
    return (wins / pairs if pairs else float("nan")), flagged / honest


def _auroc(cell: Cell) -> float | None:
    found = detection(cell)
    return None if found is None or found[0] != found[0] else found[0]


def _false(cell: Cell) -> float | None:
    found = detection(cell)
    return None if found is None else found[1]


NUMBERS: dict[str, Callable[[Cell], float | None]] = {
    "accuracy": lambda cell: cell.result["accuracy"],
    "accuracy_change": _change,
    "attack_success": _backdoor("asr"),
    "without_attackers": _backdoor("asr_clean"),
    "random_patch": _backdoor("asr_random_patch"),
    "lift": _backdoor("lift"),
    "detection_auroc": _auroc,
    "honest_flagged": _false,
}
"""Column of the table → its number in a run; None where the run has none."""


def table_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A line for each row and column: every number's mean over seeds, its interval, and how many seeds there are."""
    lines = []
    for row, column in dict.fromkeys((cell.row, cell.column) for cell in cells):
        own = [cell for cell in cells if (cell.row, cell.column) == (row, column)]
        numbers = {name: _over(own, name) for name in NUMBERS}
        lines.append({"row": row, "column": column, "seeds": len(own)} | numbers)
    return lines


def _over(cells: Sequence[Cell], name: str) -> dict[str, Any] | None:
    """Mean and t interval over seeds; of one seed its own interval over test images, where it has one."""
    values = [value for cell in cells if (value := NUMBERS[name](cell)) is not None]
    if not values:
        return None
    mean, interval = mean_ci(values)
    over = "seeds"
    if name == "detection_auroc":  # few pairs in each seed, often all alike: t would say more, or less, than is known
        return {"mean": mean, "interval": None, "over": over, "n": len(values)}
    if interval is None:
        interval, over = _within(cells[0], name), "images"
    return {"mean": mean, "interval": list(interval) if interval else None, "over": over, "n": len(values)}


def _within(cell: Cell, name: str) -> Interval | None:
    if name == "accuracy":
        return tuple(cell.result["accuracy_ci"]) if cell.result["accuracy_ci"] else None
    rows, key = cell.result.get("backdoor", {}).get("triggers", ()), {
        "attack_success": "asr_ci", "without_attackers": "asr_clean_ci", "random_patch": "asr_random_patch_ci",
        "lift": "lift_ci",
    }.get(name)  # fmt: skip
    return tuple(rows[0][key]) if key and len(rows) == 1 and key in rows[0] else None


def write_sweep(target: Path, name: str, cells: Sequence[Cell], failures: Sequence[str]) -> None:
    """Write the page, whole or not at all."""
    lines = table_of(cells)
    used = [one for one in NUMBERS if any(line[one] for line in lines)]
    shown = {"name": name, "lines": lines, "used": used, "failures": failures, "pictures": pictures(cells)}
    many = {"columns": any(cell.column for cell in cells), "seeds": max((line["seeds"] for line in lines), default=0)}
    write_atomic(target, _environment().get_template("sweep.html.j2").render(**shown, **many))


def pictures(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of the first seed of every attacked row: trigger, and the attacker's images of the target class, as they are and
    as the same client's are in the run without attackers."""
    clean, found = {_key(cell): cell for cell in cells if not cell.config.get("attackers")}, []
    for cell in cells:
        triggers = cell.result.get("backdoor", {}).get("triggers", ())
        if not triggers or cell.column != cells[0].column or any(one["row"] == cell.row for one in found):
            continue
        row = triggers[0]
        folder = cell.path / f"clients/client_{row['client']:04d}/round_{row['round']:03d}"
        trigger = Trigger.load(folder / TRIGGER)
        shown = trigger.stamp(torch.full_like(trigger.values, 96)[None])
        before = clean.get(_key(cell))
        found.append({
            "row": cell.row, "client": row["client"], "round": row["round"], "target": row["target"],
            "trigger": png(shown), "after": _uploaded(cell, row), "before": _uploaded(before, row) if before else None,
        })  # fmt: skip
    return found


def _key(cell: Cell) -> tuple[str, int]:
    return cell.column, cell.seed


def _uploaded(cell: Cell, row: dict[str, Any]) -> list[str]:
    """Images of the target class in the client's upload of that round; none where it sent weights."""
    path = cell.path / f"synthetic/round_{row['round']:03d}/client_{row['client']:04d}.safetensors"
    if not path.is_file():
        return []
    synthetic = SyntheticSet.load(path)
    return [png(one[None]) for one in synthetic.images[synthetic.labels == row["target"]][:PICTURED]]


def shown(found: dict[str, Any] | None, name: str) -> str:
    """A number of the table with its interval, in per cent where it is a share."""
    if found is None:
        return ""
    scale, places = (1, 3) if name == "detection_auroc" else (100, 1)
    sign = "+" if name in {"lift", "accuracy_change"} else ""
    text, *ends = [f"{scale * one:{sign}.{places}f}" for one in (found["mean"], *(found["interval"] or ()))]
    return f"{text} [{', '.join(ends)}]" if ends else text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedsim", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "percent": percent}
    return environment
