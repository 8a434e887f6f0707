"""The tables of docs/results.md, each from the kept cells of one group."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.report.table import model_label
from fedsim.training.intervals import FEWEST, Interval, difference_ci, mean_ci

ROOT = Path(__file__).parent


def cells(group: str) -> dict[str, dict[str, Any]]:
    """result.json of every kept cell of a group, by name, with its manifest."""
    found = {}
    for folder in sorted((ROOT / "results" / group).glob("*")):
        if (folder / "result.json").is_file():
            found[folder.name] = json.loads((folder / "result.json").read_text())
            found[folder.name]["manifest"] = json.loads((folder / "manifest.json").read_text())
    return found


def percent(value: float) -> str:
    """An accuracy as printed in papers."""
    return f"{100 * value:.2f}"


def spread(points: Sequence[float]) -> Interval | None:
    """95% t interval over seeds; none of fewer than three, and none where all agree, which is no proof that the next does."""
    agree = max(points) - min(points) < 1e-9
    return None if agree or len(points) < FEWEST else mean_ci(points)[1]


def interval(points: Sequence[float], show: Callable[[float], str] = percent) -> str:
    """Mean and interval over seeds, in percent; where there is none, what the seeds say of it: all equal, or two ends."""
    mean, ends = show(sum(points) / len(points)), spread(points)
    if ends is not None:
        return f"{mean} [{show(ends[0])}, {show(ends[1])}]"
    if len(points) == 1:
        return mean
    low, high = min(points), max(points)
    return f"{mean} (all equal)" if high - low < 1e-9 else f"{mean} ({show(low)} to {show(high)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def not_run(title: str, group: str, note: str) -> str:
    """The place of a table without cells."""
    return f"## {title}\n\n{note}\n\nNot run yet: `python benchmarks/cells.py {group}`.\n"


def federated(title: str, group: str, note: str) -> str:
    """FedDM cells: one row per seed, beside the control, and the paired difference."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    rows, ours, theirs = [], [], []
    for name, cell in found.items():
        control = cell["controls"]["upload_real_subset"]
        ours.append(cell["accuracy"])
        theirs.append(control["accuracy"])
        rows.append([
            name, percent(cell["accuracy"]), percent(control["accuracy"]),
            " ".join(percent(value) for value in cell["accuracy_by_round"]),
            f"{cell['synthetic_images']} / {cell['real_images']} = {cell['synthetic_images'] / cell['real_images']:.3f}",
            f"{cell['uplink_bytes'] / 1e6:.2f}", f"{cell['downlink_bytes'] / 1e6:.2f}", f"{cell['wall_seconds']:.0f}",
        ])  # fmt: skip
    header = [
        "cell",
        "test %",
        "upload_real_subset %",
        "val % by round",
        "images per real image",
        "up MB",
        "down MB",
        "s",
    ]
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    summary = f"Mean {interval(ours)}; control {interval(theirs)}; paired difference {interval(differences)} points."
    return "\n\n".join([f"## {title}", note, table(header, rows), summary, source(group, found)]) + "\n"


def fedavg(title: str, group: str, note: str) -> str:
    """FedAvg's grid: chosen on val, test of the chosen cell only."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    best = max(found, key=lambda name: found[name]["accuracy_by_round"][-1])
    rows = [
        [
            f"**{name}**" if name == best else name,
            " ".join(percent(value) for value in cell["accuracy_by_round"]),
            percent(cell["accuracy"]) if name == best else "",
            f"{cell['uplink_bytes'] / 1e6:.2f}", f"{cell['downlink_bytes'] / 1e6:.2f}", f"{cell['wall_seconds']:.0f}",
        ]
        for name, cell in found.items()
    ]  # fmt: skip
    header = ["cell (local lr, epochs)", "val % by round", "test % of the choice", "up MB", "down MB", "s"]
    return "\n\n".join([f"## {title}", note, table(header, rows), source(group, found)]) + "\n"


def distillation(title: str, group: str, note: str) -> str:
    """Central condensations beside random subsets."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    rows = []
    for name, cell in found.items():
        control = cell["controls"]["random_subset"]
        spread = cell["accuracy_ci"]
        rows.append([
            name, percent(cell["accuracy"]) + (f" [{percent(spread[0])}, {percent(spread[1])}]" if spread else ""),
            cell["accuracy_over"], percent(control["accuracy"]), str(cell["synthetic_images"]), f"{cell['wall_seconds']:.0f}",
        ])  # fmt: skip
    header = ["cell", "test %", "over", "random subset %", "images", "s"]
    return "\n\n".join([f"## {title}", note, table(header, rows), source(group, found)]) + "\n"


PUBLISHED = {
    "mnist_shelf_ipc1": {
        "random": 64.9,
        "herding": 89.2,
        "dc": 91.7,
        "dsa": 88.7,
        "dm": 89.7,
        "cafe": 93.1,
        "idc": 94.2,
    },
    "mnist_shelf_ipc10": {
        "random": 95.1,
        "herding": 93.7,
        "dc": 97.4,
        "dsa": 97.8,
        "dm": 97.5,
        "cafe": 97.2,
        "idc": 98.4,
    },
    "cifar10_hour": {"dm": 48.9, "dsa": 52.1},
}
"""ConvNet-3, as the papers print them (random, herding, dm and cafe were taken from secondary tables)."""


def shelf(title: str, group: str, note: str) -> str:
    """Every method under one protocol, beside random subsets: those of its own cell, or the cell `random`."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    rows = []
    for name, cell in sorted(found.items(), key=lambda entry: -entry[1]["accuracy"]):
        ours = [sum(one) / len(one) for one in cell["accuracy_values"]]
        points = ours if len(ours) > 1 else cell["accuracy_values"][0]
        control = cell["controls"].get("random_subset") or (found.get("random") if name != "random" else None)
        apart = ""
        if control is not None:
            theirs = control["values"] if "values" in control else control["accuracy_values"]
            middle, ci = difference_ci(points, [value for one in theirs for value in one])
            apart = f"{100 * middle:+.2f}" + (f" [{100 * ci[0]:+.2f}, {100 * ci[1]:+.2f}]" if ci else "")
        published = PUBLISHED.get(group, {}).get(name)
        rows.append([
            name, interval(points), cell["accuracy_over"], apart, f"{published:.1f}" if published else "",
            f"{cell['storage_bits'] / 8000:.1f}", f"{cell['wall_seconds']:.0f}",
        ])  # fmt: skip
    header = ["method", "test %", "over", "less random subsets, points", "published %", "kB", "s"]
    note += " Seconds are of a machine with other work, some with pauses."
    return "\n\n".join([f"## {title}", note, table(header, rows), source(group, found)]) + "\n"


def curves(title: str, group: str, note: str) -> str:
    """Accuracy on the way: a row for each moment, a column for each method; the control below."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    parts = []
    for name, cell in found.items():
        random = cell["controls"]["random_subset"]
        rows = [[str(one["iteration"]), interval(one["values"][0])] for one in cell["curve"]["points"]]
        end = f"random real subsets of the size {percent(random['accuracy'])} [{', '.join(map(percent, random['accuracy_ci']))}]"
        published = PUBLISHED[group][name]
        parts += [
            f"`{name}`, published {published:.1f}, here {interval(cell['accuracy_values'][0])} after the last iteration; {end}; "
            f"{cell['wall_seconds'] / 60:.0f} minutes with all scores.",
            table(["iteration", f"{cell['curve']['on']} %"], rows),
        ]
    return "\n\n".join([f"## {title}", note, *parts, source(group, found)]) + "\n"


def architectures(title: str, group: str, note: str) -> str:
    """The sets of every cell under other networks, beside random subsets of their size."""
    found = cells(group)
    if not found:
        return not_run(title, group, note)
    header, rows = ["scored with"], {}
    for name, cell in found.items():
        header += [f"{name} %", f"less random subsets, {name}"]
        for one in ({"model": cell["protocol"]["model"]} | cell, *cell["architectures"]):
            points, theirs = one["accuracy_values"][0], one["controls"]["random_subset"]["values"]
            middle, ci = difference_ci(points, [value for row in theirs for value in row])
            apart = f"{100 * middle:+.2f}" + (f" [{100 * ci[0]:+.2f}, {100 * ci[1]:+.2f}]" if ci else "")
            rows.setdefault(model_label(one["model"]), []).extend([interval(points), apart])
    lines = table(header, [[model, *cells_] for model, cells_ in rows.items()])
    return "\n\n".join([f"## {title}", note, lines, source(group, found)]) + "\n"


def revisions(found: Iterable[Mapping[str, Any] | None]) -> str:
    """Commits of kept parts; `+ changes` where a checkout had some that were not committed, `unknown` where git was not there."""
    every = [one or {} for one in found]
    return ", ".join(sorted({
        (one.get("commit") or "unknown")[:10] + (" + changes" if one.get("dirty") else "") for one in every
    }))  # fmt: skip


def machine(cell: Mapping[str, Any]) -> str:
    """What a kept cell ran on."""
    facts = cell["manifest"]
    return f"{facts['cores']} cores, {facts['processor']}, {facts['device']}, torch {facts['versions']['torch']}"


def source(group: str, found: dict[str, dict[str, Any]]) -> str:
    """Command, commits and machines behind a table."""
    commits = revisions(cell["manifest"]["git"] for cell in found.values() if cell["manifest"]["git"])
    machines = sorted({machine(cell) for cell in found.values()})
    return f"`python benchmarks/cells.py {group}` · commit {commits} · {'; '.join(machines)}"
