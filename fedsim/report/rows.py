"""A row of the table of runs, and the texts that rows become: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Row:
    """One config."""

    run: str
    """Name of the config."""
    hash: str
    """Of the config without its seed: rows of one name that differ, differ in their config.yaml."""
    data: str
    model: str
    method: str
    ipc: str
    """Synthetic images per class."""
    labels: str
    """Label regime of the evaluation, and whether networks took steps that were learned with the set."""
    rounds: str
    n: int
    """Values that the interval rests on."""
    over: str
    """What they are."""
    accuracy: str
    """Percent, with its 95% interval."""
    control: str
    """Percent, and the label regime or the training where it is not that of the result."""
    difference: str
    """Accuracy − control in points, with its 95% interval."""
    uplink_mb: str
    """All uploads, in 10⁶ bytes."""
    downlink_mb: str
    """All broadcasts, in 10⁶ bytes."""
    client_flops: str
    """Operations of all clients over all rounds."""
    seconds: str
    """Wall time of the whole run, its controls included."""
    set_kb: str
    """Stored images and labels of one central set, in 10³ bytes."""
    label_robust: str
    """DD-Ranking's LRS, where it was measured."""
    augmentation_robust: str
    """DD-Ranking's ARS, where it was measured."""
    cosine: str
    """Mean cosine within classes over the sets, where it was measured; low is diverse."""


Format = Callable[[Sequence[Row]], str]


def markdown(table: Sequence[Row]) -> str:
    """A pipe table."""
    names = _filled(table)
    lines = [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]
    lines += [f"| {' | '.join(str(getattr(row, name)) for name in names)} |" for row in table]
    return "\n".join(lines) + "\n"


def comma_separated(table: Sequence[Row]) -> str:
    """CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    return text.getvalue()


def latex(table: Sequence[Row]) -> str:
    """A tabular with booktabs' rules."""
    names = _filled(table)
    lines = [f"\\begin{{tabular}}{{{'l' * len(names)}}}", "\\toprule", _cells(names), "\\midrule"]
    lines += [_cells([str(getattr(row, name)) for name in names]) for row in table]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


FORMATS: dict[str, Format] = {".md": markdown, ".csv": comma_separated, ".tex": latex}
"""By the suffix of the file that is written."""


def _filled(table: Sequence[Row]) -> list[str]:
    """Columns that some row has an entry in; a file for reading back (CSV) has them all."""
    return [field.name for field in fields(Row) if any(str(getattr(row, field.name)) for row in table)]


def _cells(words: Sequence[str]) -> str:
    special = {"\\": r"\textbackslash{}", "·": r"$\cdot$"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return " & ".join("".join(special.get(letter, letter) for letter in word) for word in words) + r" \\"
