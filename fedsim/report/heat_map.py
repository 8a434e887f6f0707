"""Who holds how much of which class, as a map of small squares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from markupsafe import Markup

from fedsim.report import svg


def heat_map(
    title: str, table: Int[np.ndarray, "n k"], rows: Sequence[str], columns: Sequence[str],
    marks: Sequence[Sequence[str]],
) -> Markup:  # fmt: skip
    """Counts of classes (columns) at clients (rows), darker with √count; `marks` are classes of the cells."""
    slanted = max(map(len, columns), default=0) > 3
    left, top, wide, tall = 32, 76 if slanted else 24, 28, 23
    most, right = max(1, int(table.max(initial=0))), left + wide * len(columns) + 36
    name_at = '<text class="tick{}" transform="translate({} {}) rotate({})">{}</text>'
    how = ("", -45) if slanted else (" middle", 0)
    body = [svg.text("tick end", right, top - 8, "all")]
    for at, name in enumerate(columns):
        short = name if len(name) <= 10 else name[:9] + "…"
        body.append(Markup(name_at).format(how[0], left + wide * (at + 0.5), top - 8, how[1], short))
    for row, name in enumerate(rows):
        y = top + tall * row
        body.append(svg.text("tick end", left - 8, y + 16, name))
        body.append(svg.text("tick end", right, y + 16, str(table[row].sum())))
        for column in map(int, np.flatnonzero(table[row])):
            count, x = int(table[row, column]), left + wide * column
            depth = 0.06 + 0.84 * math.sqrt(count / most)
            word = f"client {name}, class {columns[column]}: {count}"
            body.append(Markup('<g class="cell {}"><title>{}</title>').format(marks[row][column], word))
            box = '<rect x="{}" y="{}" width="{}" height="{}" rx="2" style="fill-opacity:{:.2f}"/>'
            body.append(Markup(box).format(x + 1, y + 1, wide - 2, tall - 2, depth))
            style = "count dark" if depth > 0.72 else "count"
            body.append(svg.text(style, x + wide / 2, y + 16, str(count)) + Markup("</g>"))
    size = f"min-width:{right + 2}px;max-width:{1.4 * right:.0f}px"
    return svg.whole(title, right + 2, top + tall * len(rows) + 4, body, size)
