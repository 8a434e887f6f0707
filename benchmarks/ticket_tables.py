"""A part of docs/results.md: tickets of clean, distilled and poisoned sets against each other, and the defence on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from kept_parts import kept
from result_tables import interval, percent, table
from ticket_cases import KINDS
from ticket_likeness import CLIENTS, PAIRS

from defenses.ticket_similarity import Config as DefenceConfig
from fedsim.audit.statistics.auc import auc
from fedsim.training.intervals import mean_ci

Part = dict[str, Any]
NAMES = {"real": "real", "dm1": "dm, 1 per class", "dm10": "dm, 10 per class"}
MASKS = {"iterated": "iterated", "cut": "one cut", "scales": "early bird"}
SCORES = {"changed_iou": "IoU of changed bits", "masks_hamming": "Hamming of masks", "masks_iou": "IoU of masks"}

FOUND = {
    "digits": "**Does ticket similarity tell poisoned from honest sets? Of real images of clients with equal classes yes; of synthetic ones at a tenth poisoned no, at half "
    "mostly.** From the first weights much of what it sees is the labels: an honest client with as many images of the target's class is "
    "ranked as low. From trained weights the masks themselves tell the trigger from the labels (`poisoned` near 1, `labels` near 0.5), and the bits "
    "that training turned over do not, at this threshold: few bits are turned over there, and likeness relative to their number "
    "takes away that a poisoned client turns over more. With a tenth poisoned, sets of `dm` are no clearer than the honest set with "
    "those labels at the first weights, and are found in one seed of five at trained ones; but they also carry the trigger poorly (last table). Clients of unlike "
    "classes (Dirichlet 0.5) hide a tenth poisoned from the first weights (AUROC 0.6) and cost false positives from trained ones. Five seeds, eight clients, no adaptive attacker: a weak result either way where intervals are wide."
}
"""What the tables on the defence say, in words."""


def section(title: str, note: str, data: str, words: str, parts: Sequence[Part], body: Sequence[str]) -> str:
    """Title, note, tables, and what they were made by."""
    command = f"`python benchmarks/tickets.py --data {data} --parts {words}`"
    if not parts:
        return f"## {title}\n\n{note}\n\nNot run yet: {command}.\n"
    commits = ", ".join(sorted({one["source"]["commit"][:10] for one in parts}))
    machine = f"{parts[0]['source']['device']}, torch {parts[0]['source']['torch']}"
    return "\n\n".join([f"## {title}", note, *body, f"{command} · commit {commits} · {machine}"]) + "\n"


def number(points: Sequence[float]) -> str:
    """Mean and 95% t interval, two decimals."""
    mean, ci = mean_ci(points)
    return f"{mean:.2f}" if ci is None else f"{mean:.2f} [{ci[0]:.2f}, {ci[1]:.2f}]"


def corrected(part: Part, pair: str, mask: str) -> float:
    """Of the bits that training turned over, above chance; scales of a new network are all equal and have no such start."""
    found = part["pairs"][pair][mask]
    return found["changed" if "changed" in found else "masks"]["iou"][2]


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
    rows = [
        [
            NAMES[kind],
            MASKS[mask],
            str(len(parts)),
            *(number([corrected(one, pair, mask) for one in parts]) for pair in PAIRS),
        ]
        for kind, parts in by_kind.items()
        for mask in MASKS
    ]
    gaps = [gap_row(kind, mask, parts) for kind, parts in by_kind.items() for mask in MASKS]
    body = [
        table(header, rows),
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


def gap_row(kind: str, mask: str, parts: list[Part]) -> list[str]:
    """Differences of pairs within each seed."""
    pairs = [
        ("clean, poisoned", "honest"),
        ("clean, poisoned", "honest, labels of the poisoned"),
        ("both poisoned", "honest"),
    ]
    found = [[corrected(one, left, mask) - corrected(one, right, mask) for one in parts] for left, right in pairs]
    return [NAMES[kind], MASKS[mask], *map(number, found)]


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


def defences(data: str) -> str:
    """AUROC and false positives."""
    threshold = DefenceConfig().threshold
    note = (
        f"`defenses/ticket_similarity.py`: {CLIENTS} uploads, masks that keep a fifth, one training of ten epochs from the server's weights on each "
        "(as many steps for every client). One client is poisoned (a tenth or half of its records), or honest with the labels of the poisoned "
        "one (`labels`), or none (`none`). AUROC: share of honest clients with a higher z than that client, mean over seeds with t "
        f"interval, 0.5 where nothing is seen; `found`: seeds in which it has z < −{threshold:g}; `false`: share of honest clients below that. "
        "Nothing adapts to the defence here."
    )
    cells: dict[tuple[str, ...], list[Part]] = defaultdict(list)
    parts = [part for kind in KINDS for part in kept("tickets", f"{data}_defence_{kind}_")]
    for part in parts:
        for cell in part["cells"]:
            cells[part["kind"], cell["partition"], cell["start"], cell["attack"]].append(cell)
    header = [
        "set",
        "partition",
        "start",
        "attack",
        "n",
        *(f"{name}: {what}" for name in SCORES.values() for what in ("AUROC", "found", "false")),
    ]
    rows = [
        [
            NAMES[key[0]],
            *key[1:],
            str(len(found)),
            *(text for score in SCORES for text in judged(found, score, threshold)),
        ]
        for key, found in cells.items()
    ]
    alone = kept("tickets", f"{data}_carried_")
    body = [
        FOUND.get(data, ""), table(header, rows),
        "Whether there is anything to see: success of the trigger on a dense network that is trained on the set of one client alone "
        "(the first set of the section above), stamped and relabelled and then condensed.",
        table(*carried(alone)),
    ]  # fmt: skip
    return section(f"Ticket similarity as a defence, {data}", note, data, "defence carried", [*parts, *alone], body)


def carried(parts: list[Part]) -> tuple[list[str], list[list[str]]]:
    """A row for each kind of set and share poisoned."""
    cells: dict[tuple[str, float], list[Part]] = defaultdict(list)
    for part in parts:
        for row in part["rows"]:
            cells[row["kind"], row["poison"]].append(row)
    order = sorted(cells, key=lambda key: (list(KINDS).index(key[0]), key[1]))
    rows = [
        [NAMES[kind], f"{100 * share:g}", str(len(cells[kind, share])),
         *(interval([one[what] for one in cells[kind, share]]) for what in ("asr", "accuracy"))]
        for kind, share in order
    ]  # fmt: skip
    return ["set", "poisoned %", "n", "ASR %", "accuracy %"], rows


def judged(cells: list[Part], score: str, threshold: float) -> list[str]:
    """AUROC, detections, false positives of one score."""
    z, bad = np.array([cell[score] for cell in cells]), np.array([cell["bad"] for cell in cells])
    if cells[0]["attack"] == "none":
        return ["", "", percent((z < -threshold).mean())]
    own = z[np.arange(len(z)), bad]
    others = np.stack([np.delete(row, place) for row, place in zip(z, bad, strict=True)])
    areas = [auc(-np.array([one]), -rest) for one, rest in zip(own, others, strict=True)]
    return [number(areas), f"{int((own < -threshold).sum())}/{len(own)}", percent((others < -threshold).mean())]
