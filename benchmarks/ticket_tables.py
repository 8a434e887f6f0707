"""A part of docs/results.md: tickets of clean, distilled and poisoned sets against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from kept_parts import kept
from result_tables import interval, percent, revisions, table
from ticket_cases import KINDS
from ticket_likeness import PAIRS

from fedsim import api
from fedsim.training.intervals import wilson

Part = dict[str, Any]
NAMES = {"real": "real", "dm1": "dm, 1 per class", "dm10": "dm, 10 per class"}
MASKS = {"iterated": "iterated", "cut": "one cut", "scales": "early bird"}


def section(title: str, note: str, data: str, words: str, parts: Sequence[Part], body: Sequence[str]) -> str:
    """Title, note, tables, and what they were made by."""
    command = f"`python benchmarks/tickets.py --data {data} --parts {words}`"
    if not parts:
        return f"## {title}\n\n{note}\n\nNot run yet: {command}.\n"
    commits = revisions(one["source"] for one in parts)
    machine = f"{parts[0]['source']['device']}, torch {parts[0]['source']['torch']}"
    return "\n\n".join([f"## {title}", note, *body, f"{command} · commit {commits} · {machine}"]) + "\n"


def share(parts: Sequence[Part], rows: Sequence[Part]) -> str:
    """Success of a trigger over seeds, per cent: t over seeds; where all agree Wilson's of the images of one, the fewest.

    A row each of `parts`; a part made before rows said so has as many images as the data set has of other classes.
    Seeds share their test images: counted once for each, they would be surer than they are.
    """
    shares = [row["asr"] for row in rows]
    if max(shares) > min(shares):
        return interval(shares)
    images = min(
        row.get("images") or _others(part["asked"]["data"], part["target"])
        for part, row in zip(parts, rows, strict=True)
    )
    low, high = wilson(round(shares[0] * images), images)
    return f"{percent(shares[0])} [{percent(low)}, {percent(high)}]"


@cache
def _others(data: str, target: int) -> int:
    return int((api.load(data).test.labels != target).sum())


def number(points: Sequence[float]) -> str:
    """Mean and 95% t interval, two decimals."""
    return interval(points, "{:.2f}".format)


def corrected(part: Part, pair: str, mask: str) -> float:
    """Of the bits that training turned over, above chance; scales of a new network are all equal and have no such start."""
    found = part["pairs"][pair][mask]
    return found["changed" if "changed" in found else "masks"]["iou"][2]


def drawn(part: Part, pair: str, mask: str) -> bool:
    """Whether both sets of a pair have the mask: an early-bird training that never stood still drew none."""
    return mask != "scales" or all(part["epoch_drawn"][one] is not None for one in PAIRS[pair])


def over(parts: Sequence[Part], pairs: Sequence[str], mask: str, found: Callable[[Part], float]) -> str:
    """Mean and interval over the seeds in which every mask of these pairs was drawn, and how many where that is not all."""
    there = [one for one in parts if all(drawn(one, pair, mask) for pair in pairs)]
    few = f" (n = {len(there)})" if len(there) < len(parts) else ""
    return f"{number([found(one) for one in there])}{few}" if there else "none drawn"


def drawings(by_kind: dict[str, list[Part]]) -> str:
    """How many early-bird tickets were drawn."""
    epochs = [epoch for parts in by_kind.values() for one in parts for epoch in one["epoch_drawn"].values()]
    there = sum(epoch is not None for epoch in epochs)
    return (
        f"Early-bird tickets were drawn in {there} of {len(epochs)} trainings; in the others the mask never stood still. Pairs without "
        "both tickets are left out, and n stands beside what is of fewer seeds."
    )


def likenesses(data: str) -> str:
    """Masks of sets against each other."""
    by_kind = {kind: kept("tickets", f"{data}_likeness_{kind}_") for kind in KINDS}
    by_kind = {kind: parts for kind, parts in by_kind.items() if parts}
    note = (
        "Two sets, one architecture, the same first weights w₀: how alike are the tickets? IoU of the bits of mask(w₀) that training "
        "turned over, corrected for chance at each mask's own keep ratio per layer (0: independent, 1: equal); for the "
        "early-bird masks of the norms' scales, which are all 1 in w₀ (and few in so narrow a network), of the masks. `iterated`: seven rounds of a fifth; `one cut`: as "
        "much at once from the dense network. A poisoned set has a tenth of its records stamped and relabelled. Intervals: t over seeds."
    )
    header = ["set", "masks", "n", *PAIRS]
    rows = [likeness_row(kind, mask, parts) for kind, parts in by_kind.items() for mask in MASKS]
    gaps = [gap_row(kind, mask, parts) for kind, parts in by_kind.items() for mask in MASKS]
    body = [
        table(header, rows),
        drawings(by_kind),
        "Paired differences over seeds. The first is what a defence that compares with honest clients of the same classes would see; "
        "in the second the honest one has the poisoned one's labels too, so that the trigger alone is left.",
        table(["set", "masks", "(clean, poisoned) − honest", "(clean, poisoned) − honest with its labels", "(both poisoned) − honest"], gaps),
        "The iterated masks in full, mean over seeds (value, chance in brackets): as they are, the changed bits, and the corrected IoU of the "
        "changed bits by layer. The row of mask(w₀) holds a clean set's mask against that of the start.",
        table(*in_full(by_kind)),
    ]  # fmt: skip
    return section(
        f"Tickets of clean and poisoned sets, {data}",
        note,
        data,
        "likeness",
        [one for parts in by_kind.values() for one in parts],
        body,
    )


def likeness_row(kind: str, mask: str, parts: list[Part]) -> list[str]:
    """Likeness of each pair, over seeds."""
    found = [over(parts, [pair], mask, lambda one, pair=pair: corrected(one, pair, mask)) for pair in PAIRS]
    return [NAMES[kind], MASKS[mask], str(len(parts)), *found]


def gap_row(kind: str, mask: str, parts: list[Part]) -> list[str]:
    """Differences of pairs within each seed."""
    pairs = [
        ("clean, poisoned", "honest"),
        ("clean, poisoned", "honest, labels of the poisoned"),
        ("both poisoned", "honest"),
    ]
    found = [
        over(parts, pair, mask, lambda one, pair=pair: corrected(one, pair[0], mask) - corrected(one, pair[1], mask))
        for pair in pairs
    ]
    return [NAMES[kind], MASKS[mask], *found]


def in_full(by_kind: dict[str, list[Part]]) -> tuple[list[str], list[list[str]]]:
    """Value and chance by both measures, and layers."""
    layers = list(next(iter(by_kind.values()))[0]["pairs"]["honest"]["iterated"]["layers"]) if by_kind else []
    rows = []
    for kind, parts in by_kind.items():
        for pair in PAIRS:
            every = [one["pairs"][pair]["iterated"] for one in parts]
            rows.append([
                NAMES[kind], pair, *(beside(every, "masks", measure) for measure in ("hamming", "iou")),
                beside(every, "changed", "iou"), *(mean_of([one["layers"][layer] for one in every]) for layer in layers),
            ])  # fmt: skip
        start = [{"masks": one["with_start"]["a"]["iterated"]} for one in parts]
        row = [NAMES[kind], "mask(w₀)", *(beside(start, "masks", measure) for measure in ("hamming", "iou"))]
        rows.append([*row, *[""] * (1 + len(layers))])
    return ["set", "pair", "Hamming", "IoU", "IoU of changed bits", *layers], rows


def beside(every: list[Part], of: str, measure: str) -> str:
    """Mean value (mean chance)."""
    value, chance = (np.mean([one[of][measure][place] for one in every]) for place in (0, 1))
    return f"{value:.2f} ({chance:.2f})"


def mean_of(values: list[float | None]) -> str:
    """Mean of what is defined."""
    known = [one for one in values if one is not None]
    return f"{np.mean(known):.2f}" if known else ""
