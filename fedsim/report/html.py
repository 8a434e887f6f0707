"""The page of one run, or of several side by side: one file, no network, every word from outside escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from fedsim.data.images import Dataset
from fedsim.data.synthetic import SyntheticSet
from fedsim.report.charts import (
    accuracy_chart,
    curve_chart,
    forest_chart,
    loss_charts,
    partition_map,
    step_charts,
)
from fedsim.report.collect import collect, incomparable
from fedsim.report.numbers import count, count_bytes, count_flops, percent, points, short
from fedsim.report.table import data_label, model_label
from fedsim.report.view import LISTED, SMALL, RunView
from fedsim.runs import write_atomic

OPEN = 12
"""Clients whose pictures are in the open; the rest is folded away."""
PER_CLASS = 10
"""Synthetic images shown per class."""


@dataclass(frozen=True)
class Column:
    """One class of a synthetic set; pictures are data: URIs."""

    name: str
    real_images: int | None
    """None without the data."""
    mark: str
    """tiny, small or empty."""
    mean: str | None
    synthetic: str | None


def write_report(paths: Sequence[Path], target: Path, known: Mapping[str, Dataset] | None = None) -> None:
    """Write the page of `paths` to `target`, whole or not at all; `known` as for `collect`. `UserError` for no run."""
    write_atomic(target, render(collect(paths, known)))


def render(runs: Sequence[RunView]) -> str:
    """The page as text; the same runs give the same text."""
    return _environment().get_template("page.html.j2").render(runs=runs, many=len(runs) > 1)


@cache
def _environment() -> Environment:
    loader = PackageLoader("fedsim", "report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    called = (accuracy_chart, curve_chart, forest_chart, partition_map, panels, loss_charts, step_charts, incomparable)
    environment.filters |= {
        one.__name__: one for one in (percent, points, count_bytes, count_flops, short, count, model_label, data_label)
    }
    environment.globals |= {one.__name__: one for one in called}
    environment.globals |= {"OPEN": OPEN, "SMALL": SMALL, "PER_CLASS": PER_CLASS, "LISTED": LISTED}
    return environment


def panels(run: RunView) -> list[tuple[str, list[Column]]]:
    """Each client's upload of the last round, or each central set, by title."""
    if not run.federated:
        return [(f"set {number}", _columns(run, one, None)) for number, one in enumerate(run.sets)]
    return [(f"client {client}", _columns(run, one, client)) for client, one in sorted(run.uploads.items())]


def _columns(run: RunView, shown: SyntheticSet, client: int | None) -> list[Column]:
    real, found = run.real_means(client), shown.counts().numpy()
    held = found if real is None else real[1]
    columns = []
    for label in map(int, np.flatnonzero((held > 0) | (found > 0))):
        synthetic = shown.images[shown.labels == label][:PER_CLASS]
        number = None if real is None else int(held[label])
        mark = run.mark(client, label) if client is not None else ""
        mean = None if real is None or not number else png(real[0][label : label + 1])
        columns.append(Column(shown.classes[label], number, mark, mean, png(synthetic) if len(synthetic) else None))
    return columns


def png(images: UInt8[Tensor, "m c h w"]) -> str:
    """The images below each other, a clear line between them, as a data: URI."""
    m, channels, height, width = images.shape
    gap = max(1, height // 12) if m > 1 else 0
    canvas = torch.zeros((m, height + gap, width, 4), dtype=torch.uint8)
    canvas[:, :height, :, :3] = images.permute(0, 2, 3, 1).expand(m, height, width, max(channels, 3))[..., :3]
    canvas[:, :height, :, 3] = 255
    stacked = canvas.reshape(m * (height + gap), width, 4)[: m * (height + gap) - gap]
    file = io.BytesIO()
    Image.fromarray(stacked.numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
