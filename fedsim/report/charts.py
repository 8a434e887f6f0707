"""The charts of a page, from its runs: which values become which lines, rows and cells of `plots.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from fedsim.report.heat_map import heat_map
from fedsim.report.numbers import Number, axis_percent, count_bytes, count_flops, percent, short
from fedsim.report.plots import Axis, Interval, Series, Write, forest, line_chart, wide_range
from fedsim.report.view import LISTED, RunView

Cost = Literal["round", "bytes", "flops"]
AXES: dict[Cost, tuple[str, Write]] = {
    "round": ("round", short),
    "bytes": ("bytes up and down", count_bytes),
    "flops": ("client FLOPs", count_flops),
}
"""Name of an axis of cost, and how its values are written; all but rounds add up over rounds."""


def _label(run: RunView, what: str = "") -> str:
    return f"{run.key} {what or run.method.split(' · ')[0][:9]}".strip()


def accuracy_chart(runs: Sequence[RunView], over: Cost) -> Markup:
    """Accuracy on val by what it cost so far; dashed: real images sent instead, which nobody computed anything for."""
    series: list[Series] = []
    for number, run in enumerate(runs):
        xs = _spent(run, over)
        scored = [
            (x, record.metrics["accuracy"])
            for x, record in zip(xs, run.records, strict=True)
            if "accuracy" in record.metrics
        ]
        series.append(Series(_label(run), scored, number, title=f"{run.name} {_label(run)}"))
        control = run.controls.get("upload_real_subset")
        if control and over != "flops":
            known = list(zip(xs, control["accuracy_by_round"], strict=False))
            title = f"{run.name} with random real images uploaded instead"
            series.append(Series(_label(run, "control"), known, number, dashed=True, title=title))
    sizes = [x for one in series for x, _ in one.points]
    name, write = AXES[over]
    x = Axis(name, write, log=over != "round" and wide_range(sizes), whole=over == "round")
    return line_chart(f"Accuracy on val by {name}", series, x, Axis("accuracy on val", axis_percent, share=True))


def _spent(run: RunView, over: Cost) -> list[Number]:
    """What each round brings the cost to; NaN where it is not known."""
    if over == "round":
        return [record.round for record in run.records]
    if over == "bytes":
        each = [sum(record.uplink_bytes.values()) + sum(record.downlink_bytes.values()) for record in run.records]
    else:
        each = [math.nan if record.client_flops is None else record.client_flops for record in run.records]
    return np.cumsum(each).tolist()


def forest_chart(runs: Sequence[RunView]) -> Markup:
    """Test accuracy of every finished run and of its controls, with their intervals."""
    rows: list[Interval] = []
    for number, run in enumerate(runs):
        found = {} if run.result is None else {"": run.result} | run.controls
        for name, one in found.items():
            ci = one.get("accuracy_ci")
            dots = [value for row in one.get("accuracy_values", one.get("values", [])) for value in row]
            label, interval = _label(run, name.replace("_", " ")), tuple(ci) if ci else None
            rows.append(Interval(label, one["accuracy"], interval, dots, number, control=bool(name)))
    return forest("Test accuracy with 95% intervals", rows, axis_percent, percent) if rows else Markup("")


def partition_map(run: RunView) -> list[Markup]:
    """Clients × classes in blocks of 50 clients; empty without the data."""
    if (table := run.table) is None:
        return []
    maps = []
    for start in range(0, min(len(table), LISTED), 50):
        block = table[start : min(start + 50, LISTED)]
        clients = range(start, start + len(block))
        title = f"Real images of each class at clients {clients[0]} to {clients[-1]}"
        marks = [[run.mark(client, label) for label in range(len(run.classes))] for client in clients]
        maps.append(heat_map(title, block, [str(client) for client in clients], run.classes, marks))
    return maps


def loss_charts(run: RunView) -> list[Markup]:
    """Losses by iteration: of the clients in the last round with the median of all, or of every set."""
    if not run.federated:
        kept = [line for line in run.metrics if line["split"].startswith("set_")]
        names = sorted({line["name"] for line in kept})
        return [_set_losses(name, [line for line in kept if line["name"] == name]) for name in names]
    last = run.records[-1].losses if run.records else {}
    curves = {client: found for client, found in sorted(last.items()) if found}
    if not curves:
        return []
    worst = max(curves, key=lambda client: curves[client][-1][1])
    values_at: dict[int, list[Number]] = {}
    lines = []
    for client, curve in curves.items():
        label, name = f"client {client}" if client == worst else "", f"client {client}"
        if len(lines) < LISTED or client == worst:
            lines.append(Series(label, [(at, value) for at, value in curve], 7, thin=True, title=name))
        for at, value in curve:
            values_at.setdefault(at, []).append(value)
    middle = [(at, median(found)) for at, found in sorted(values_at.items())]
    lines.append(Series("median", middle, title="median of clients"))
    x = Axis("iteration of the condensation" if run.uploads else "local epoch", short, whole=True)
    y = Axis("loss", short, log=wide_range([value for found in values_at.values() for value in found]))
    return [line_chart(f"Loss of each client in round {run.records[-1].round}", lines, x, y)]


def _set_losses(name: str, lines: Sequence[dict[str, Any]]) -> Markup:
    curves: dict[str, list[tuple[Number, Number]]] = {}
    for line in lines:
        curves.setdefault(line["split"], []).append((line["round"], line["value"]))
    series = [
        Series(f"set {int(split.removeprefix('set_'))}", curve, number)
        for number, (split, curve) in enumerate(sorted(curves.items()))
    ]
    y = Axis(name, short, log=wide_range([line["value"] for line in lines]))
    return line_chart(f"{name} of each set by iteration", series, Axis("iteration", short, whole=True), y)


def step_charts(run: RunView) -> list[Markup]:
    """How far the server moved in each round, and that as a multiple of the radius, where logged."""
    charts = []
    for name, label in (("step", "‖w(r+1) − w(r)‖"), ("step_over_radius", "step ÷ radius")):
        found = [(record.round, record.metrics[name]) for record in run.records if name in record.metrics]
        series = [Series("", found, title=label)]
        charts.append(line_chart(label, series, Axis("round", short, whole=True), Axis(label, short)))
    return [chart for chart in charts if chart]


def curve_chart(run: RunView) -> Markup:
    """Accuracy of the sets as they were on the way, over iterations, dashed: the random subset of their size."""
    found = (run.result or {}).get("curve")
    if not found:
        return Markup("")
    series = [Series(run.method, [(one["iteration"], one["accuracy"]) for one in found["points"]], title=run.name)]
    control = run.controls.get("random_subset")
    if control and found["on"] == "test":  # it was scored on test alone
        level = [(one["iteration"], control["accuracy"]) for one in found["points"]]
        series.append(Series("random", level, 1, dashed=True, title="random real subsets of the same size, on test"))
    x, y = Axis("iteration", short, whole=True), Axis(f"accuracy on {found['on']}", axis_percent, share=True)
    return line_chart(f"Accuracy on {found['on']} by iteration", series, x, y)
