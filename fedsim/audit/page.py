"""The page of an audit: one file, no network, no script; every number on it is the card's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedsim.audit.card import Card
from fedsim.audit.panels import panels
from fedsim.audit.reconstructions import reconstructions
from fedsim.audit.statistics.roc import roc_points
from fedsim.audit.store import Store
from fedsim.audit.types import Finding
from fedsim.report.numbers import count, count_bytes, short
from fedsim.report.plots import Axis, Series, line_chart
from fedsim.runs import write_atomic

SHOWN = 8
"""Curves of one chart."""


def write_card(folder: Path, card: Card) -> None:
    """card.html beside card.json, whole or not at all."""
    write_atomic(folder / "card.html", render(card, Store(folder)))


def render(card: Card, store: Store) -> str:
    """The page as text; the same card and scores give the same text."""
    template = _environment().get_template("card.html.j2")
    shown = {"curves": roc_charts(card, store), "panels": panels(store), "reconstructions": reconstructions(store)}
    return template.render(card=card, **shown)


@cache
def _environment() -> Environment:
    loader = ChoiceLoader([PackageLoader("fedsim", "audit"), PackageLoader("fedsim", "report")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {one.__name__: one for one in (short, count, count_bytes, interval, metric, told, notes)}
    return environment


def interval(finding: Finding) -> str:
    """[low, high] and its level."""
    found = finding.estimate
    level = "" if found is None or found.level == 0.95 else f" ({100 * found.level:g}%)"
    return "–" if found is None else f"{found.low:.3f} to {found.high:.3f}{level}"


def told(finding: Finding) -> str:
    """lira.combo.client_sets.auc → lira, combo, client sets."""
    return finding.id.removesuffix(f".{finding.metric}").replace(".", ", ").replace("_", " ")


def notes(card: Card) -> list[tuple[str, str]]:
    """Every distinct note, and which findings it is of."""
    found: dict[str, list[str]] = {}
    for one in card.findings:
        if one.note:
            found.setdefault(one.note, []).append(f"{told(one)}, {metric(one.metric)}")
    return [(note, whose[0] if len(whose) == 1 else f"{len(whose)} findings") for note, whose in found.items()]


def metric(name: str) -> str:
    """tpr_at_fpr_0.01 → TPR at FPR 0.01."""
    words = name.replace("_", " ").replace("tpr", "TPR").replace("fpr", "FPR")
    return words.replace("auc", "AUC")


def roc_charts(card: Card, store: Store) -> list[tuple[str, Markup]]:
    """Log-log ROC of every attack that scores candidates, all targets' scores together."""
    charts = []
    for attack in dict.fromkeys(one.attack for one in card.findings):
        stored = store.stored(attack)
        names = [name for name in (stored[0][1] if stored else {}) if name.startswith("score.")][:SHOWN]
        series = [_curve(name.removeprefix("score."), number, name, stored) for number, name in enumerate(names)]
        if series:
            chance = Series("chance", [(0.001, 0.001), (1.0, 1.0)], 7, dashed=True)
            axes = Axis("false positive rate", short, log=True), Axis("true positive rate", short, log=True)
            charts.append((attack, line_chart(f"ROC of {attack}", [*series, chance], *axes)))
    return charts


def _curve(label: str, number: int, name: str, stored: Sequence[tuple[str, Any, Any]]) -> Series:
    inside = np.concatenate([scores[name][truth["members"].astype(bool)] for _, scores, truth in stored])
    outside = np.concatenate([scores[name][~truth["members"].astype(bool)] for _, scores, truth in stored])
    false, true = roc_points(inside, outside)
    shown = [(float(x), float(y)) for x, y in zip(false, true, strict=True) if x >= 1e-3 and y > 0]
    return Series(label, shown, number)
