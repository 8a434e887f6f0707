"""The page of one run, or of several side by side: one file, no network, every word from outside escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from jaxtyping import Int, UInt8
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from fedsim.data.synthetic import SyntheticSet
from fedsim.report.collect import SMALL, RunView, collect
from fedsim.report.plots import Axis, Interval, Series, forest, heat_map, line_chart, wide_range
from fedsim.runs import write_atomic

OPEN = 12
"""Clients whose pictures are in the open; the rest is folded away."""
PER_CLASS = 10
"""Synthetic images shown per class."""


@dataclass(frozen=True)
class Panel:
    """The pictures of one synthetic set."""

    title: str
    grid: Markup


def write_report(paths: Sequence[Path], target: Path) -> None:
    """Write the page of the runs in `paths` to `target`, whole or not at all; `UserError` for a folder that is no run."""
    write_atomic(target, render(collect(paths)))


def render(runs: Sequence[RunView]) -> str:
    """The page as text; the same runs give the same text."""
    return _environment().get_template("page.html.j2").render(runs=runs, many=len(runs) > 1)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedsim", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "points": points, "bytes": count_bytes, "short": short, "count": count}
    environment.globals |= {
        "OPEN": OPEN, "SMALL": SMALL, "PER_CLASS": PER_CLASS, "accuracy_chart": accuracy_chart,
        "forest_chart": forest_chart, "partition_map": partition_map, "panels": panels, "loss_charts": loss_charts,
        "step_charts": step_charts, "incomparable": incomparable,
    }  # fmt: skip
    return environment


# --- how numbers are written ---


def percent(value: float) -> str:
    """0.8997 → 90.0%."""
    return f"{100 * value:.1f}%"


def points(difference: float) -> str:
    """−0.081 → −8.1, percentage points with their sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def count(value: float) -> str:
    """1374090 → 1,374,090."""
    return f"{value:,.0f}"


def count_bytes(value: float) -> str:
    """1374090 → 1.37 MB, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5 or unit == "GB":
            return f"{value:.3g} {unit}" if unit != "B" else f"{value:.0f} B"
        value /= 1000
    raise AssertionError("unreachable: GB always returns")


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}".replace("-", "−")


# --- charts of several runs ---


def _label(run: RunView) -> str:
    return f"{run.key} {run.method.split(' · ')[0][:9]}".strip()


def _control(run: RunView) -> str:
    return f"{run.key} control".strip()


def accuracy_chart(runs: Sequence[RunView], over: str) -> Markup:
    """Accuracy on val by `over`: "round", or "bytes" sent up so far; the control of real uploads is dashed."""
    series: list[Series] = []
    for number, run in enumerate(runs):
        sent = np.cumsum([sum(record.uplink_bytes.values()) for record in run.records]).tolist()
        xs = [record.round for record in run.records] if over == "round" else sent
        scored = [(x, record.metrics["accuracy"]) for x, record in zip(xs, run.records, strict=True)]
        series.append(Series(_label(run), scored, number, title=f"{run.name} {_label(run)}"))
        control = ((run.result or {}).get("controls") or {}).get("upload_real_subset")
        if control:
            ys = control["accuracy_by_round"]
            title = f"{run.name} with random real images uploaded instead"
            series.append(Series(_control(run), list(zip(xs, ys, strict=False)), number, dashed=True, title=title))
    sizes = [x for one in series for x, _ in one.points]
    rounds = Axis("round", short, whole=True)
    x = rounds if over == "round" else Axis("cumulative uplink", count_bytes, log=wide_range(sizes))
    title = "Accuracy on val by " + ("round" if over == "round" else "cumulative uplink bytes")
    return line_chart(title, series, x, Axis("accuracy on val", percent, top=1.0))


def forest_chart(runs: Sequence[RunView]) -> Markup:
    """Test accuracy of every finished run and of its controls, with their intervals."""
    rows: list[Interval] = []
    for number, run in enumerate(runs):
        if run.result is None:
            continue
        dots = [value for row in run.result.get("accuracy_values", []) for value in row]
        ci = run.result["accuracy_ci"]
        rows.append(Interval(_label(run), run.result["accuracy"], tuple(ci) if ci else None, dots, number))
        for name, control in run.result["controls"].items():
            ci, dots = control.get("accuracy_ci"), [value for row in control.get("values", []) for value in row]
            words = f"{run.key} {name.replace('_', ' ')}".strip()
            rows.append(Interval(words, control["accuracy"], tuple(ci) if ci else None, dots, number, control=True))
    return forest("Test accuracy with 95% intervals", rows, percent) if rows else Markup("")


def incomparable(runs: Sequence[RunView]) -> list[str]:
    """Reasons why the accuracies of these runs cannot be set against each other."""
    facts = {
        "images": {str(run.manifest.get("data")) for run in runs},
        "scored model": {str(run.config["model"]) for run in runs},
        "share of val": {str(run.config["data"].get("val")) for run in runs},
        "kind of run (federated or central)": {str(run.federated) for run in runs},
    }
    return [what for what, found in facts.items() if len(found) > 1]


# --- charts of one run ---


def partition_map(run: RunView) -> list[Markup]:
    """Clients × classes in blocks of 50 clients; empty without the data."""
    table = run.table
    if table is None:
        return []
    small = {(client, label): number for client, label, number in run.small_cells}

    def mark(start: int, row: int, column: int) -> str:
        number = small.get((start + row, column))
        return "" if number is None else "tiny" if number <= run.images_per_class else "small"

    blocks = [range(start, min(start + 50, len(table))) for start in range(0, len(table), 50)]
    return [
        heat_map(f"Real images of each class at clients {block[0]} to {block[-1]}", table[block.start : block.stop],
                 [str(client) for client in block], run.classes,
                 lambda row, column, start=block.start: mark(start, row, column))
        for block in blocks
    ]  # fmt: skip


def loss_charts(run: RunView) -> list[Markup]:
    """Losses by iteration: of every client in the last round with their median, or of every set."""
    if not run.federated:
        kept = [line for line in run.metrics if line["split"].startswith("set_")]
        names = sorted({line["name"] for line in kept})
        return [_set_losses(name, [line for line in kept if line["name"] == name]) for name in names]
    curves = {client: found for client, found in run.records[-1].losses.items() if found} if run.records else {}
    if not curves:
        return []
    values = [value for curve in curves.values() for _, value in curve]
    worst = max(curves, key=lambda client: curves[client][-1][1])
    lines = [
        Series(f"client {client}" if client == worst else "", [(at, value) for at, value in curve], 7,
               thin=True, title=f"client {client}")
        for client, curve in sorted(curves.items())
    ]  # fmt: skip
    steps: dict[int, list[float]] = {}
    for curve in curves.values():
        for at, value in curve:
            steps.setdefault(at, []).append(value)
    middle = Series("median", [(at, median(found)) for at, found in sorted(steps.items())], title="median of clients")
    what = "iteration of the condensation" if run.uploads else "local epoch"
    x, y = Axis(what, short, whole=True), Axis("loss", short, log=wide_range(values))
    return [line_chart(f"Loss of each client in round {run.records[-1].round}", [*lines, middle], x, y)]


def _set_losses(name: str, lines: Sequence[dict[str, float | str]]) -> Markup:
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        curves.setdefault(str(line["split"]), []).append((float(line["round"]), float(line["value"])))
    series = [
        Series(split.replace("set_", "set ").replace(" 00", " ").replace(" 0", " ").rstrip() or split, curve, number)
        for number, (split, curve) in enumerate(sorted(curves.items()))
    ]
    y = Axis(name, short, log=wide_range([float(line["value"]) for line in lines]))
    return line_chart(f"{name} of each set by iteration", series, Axis("iteration", short, whole=True), y)


def step_charts(run: RunView) -> list[Markup]:
    """How far the server moved in each round, and that as a multiple of the radius, where logged."""
    words = {"step": "step ‖w(r+1) − w(r)‖", "step_over_radius": "step ÷ radius"}
    charts = []
    for name, label in words.items():
        found = [(record.round, record.metrics[name]) for record in run.records if name in record.metrics]
        series = [Series(label.split(" ‖")[0], found)]
        charts.append(line_chart(label, series, Axis("round", short, whole=True), Axis(label, short)))
    return [chart for chart in charts if chart]


# --- pictures ---


def panels(run: RunView) -> list[Panel]:
    """Each client's upload of the last round, or each central set, below the real class means."""
    if not run.federated:
        return [Panel(f"set {number}", image_grid(one, run, None)) for number, one in enumerate(run.sets)]
    return [Panel(f"client {client}", image_grid(one, run, client)) for client, one in run.uploads.items()]


def image_grid(shown: SyntheticSet, run: RunView, client: int | None) -> Markup:
    """A column per class: name, real images, their mean (dashed, if the data are there), the synthetic images."""
