"""A part of docs/results.md: ticket similarity as a defence, what it found at which start, and the answer that makes.

One client of K is in question in every seed. Where the score sees nothing of it, it could as well be any of the K:
p is exact, the share of all choices of a client in each seed whose mean AUROC is at least the one found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from kept_parts import alike, kept
from result_tables import interval, percent, table
from scipy.stats import binom
from ticket_cases import KINDS
from ticket_likeness import CLIENTS
from ticket_tables import NAMES, Part, section, share

from fedsim.audit.statistics.auc import auc
from fedsim.training.intervals import bounded_ci

SCORES = {"changed_iou": "IoU of changed bits", "masks_hamming": "Hamming of masks", "masks_iou": "IoU of masks"}
SHIPPED, PAPER = "changed_iou", "masks_hamming"
"""The filter's own score, and the paper's: the share of mask bits that are equal."""
STARTS = {"first weights": "first weights", "trained": "trained weights"}
SHARES = {"0.1": "a tenth poisoned", "0.5": "half poisoned"}
LABELLED = "0.1"
"""The share whose labels the honest client of the control has."""
LEVEL = 0.05
Cells = Mapping[tuple[str, str, str, str], Sequence[Part]]
"""By kind, partition, start and attack: a cell of every seed."""


def defences(data: str) -> str:
    """AUROC and false positives, and what they say."""
    parts = [part for kind in KINDS for part in kept("tickets", f"{data}_defence_{kind}_")]
    alone = kept("tickets", f"{data}_carried_")
    title = f"Ticket similarity as a defence, {data}"
    if not parts:
        return section(title, "`defenses/ticket_similarity.py` on eight clients.", data, "defence carried", [], [])
    cells: dict[tuple[str, str, str, str], list[Part]] = defaultdict(list)
    for part in parts:
        for cell in part["cells"]:
            cells[part["kind"], cell["partition"], cell["start"], cell["attack"]].append(cell)
    used = alike(title, [part["filter"] for part in parts])
    header = ["set", "partition", "start", "attack", "n"]
    header += [f"{name}: {what}" for name in SCORES.values() for what in ("AUROC", "found", "false")]
    rows = [
        [NAMES[key[0]], *key[1:], str(len(found)), *(text for score in SCORES for text in judged(found, score, used["threshold"]))]
        for key, found in cells.items()
    ]  # fmt: skip
    body = [
        answer(cells, used["threshold"]), table(header, rows),
        "Whether there is anything to see: success of the trigger on a dense network that is trained on the set of one client alone "
        "(the first set of the section above), stamped and relabelled and then condensed.",
        table(*carried(alone)),
    ]  # fmt: skip
    return section(title, note(used), data, "defence carried", [*parts, *alone], body)


def note(used: Mapping[str, Any]) -> str:
    """What was measured, and how the table is read."""
    train = used["train"]
    return (
        f"`defenses/ticket_similarity.py` as it ships (`IoU of changed bits`): {CLIENTS} uploads, masks that keep {100 * used['keep']:g} %, one training "
        f"of {train['epochs']} epochs at a learning rate of {train['lr']:g} from the server's weights on each, as many steps for every client; beside it the same "
        "trainings with the masks themselves compared. One client is poisoned (a tenth or half of its records), or honest with the labels of the "
        "poisoned one (`labels`), or none (`none`). AUROC: share of honest clients with a higher z than that client, mean over seeds, 0.5 "
        "where nothing is seen, with Chernoff's and Hoeffding's interval, which holds for every law on 0 … 1 and is wide for so few seeds; "
        "p: exact, against any of the clients being that one, not corrected for the number of rows; `found`: seeds in which it has "
        f"z < −{used['threshold']:g}; `false`: share of honest clients below that. Nothing adapts to the defence here. The trained weights were "
        "fitted to the very honest uploads that are then scored, the questioned client's honest one among them, and never to the poisoned one; in a "
        "federation they come from earlier uploads, the attacker's too. That a poisoned upload moves them further may in part be that it is new to "
        "them; the honest control with its labels, which holds the client's own records but for the exchanged ones, is so only in part."
    )


def judged(cells: Sequence[Part], score: str, threshold: float) -> list[str]:
    """AUROC with its interval and p, detections, false positives of one score."""
    z = np.array([cell[score] for cell in cells])
    if cells[0]["attack"] == "none":
        return ["", "", percent((z < -threshold).mean())]
    found, false = detected(cells, score, threshold)
    mean, ends = bounded_ci(areas(cells, score))
    wide = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
    return [f"{mean:.2f}{wide}, p {by_chance(cells, score):.2g}", f"{found}/{len(cells)}", percent(false)]


def detected(cells: Sequence[Part], score: str, threshold: float) -> tuple[int, float]:
    """Seeds in which the client in question is below −threshold, and the share of the others that are."""
    z, bad = np.array([cell[score] for cell in cells]), [cell["bad"] for cell in cells]
    others = np.stack([np.delete(row, place) for row, place in zip(z, bad, strict=True)])
    return int((z[np.arange(len(z)), bad] < -threshold).sum()), float((others < -threshold).mean())


def area(z: Sequence[float], client: int) -> float:
    """Share of the other clients with a higher z, ties ½."""
    values = np.array(z)
    return auc(-values[[client]], -np.delete(values, client))


def areas(cells: Sequence[Part], score: str) -> list[float]:
    """Of the client in question, in every seed."""
    return [area(cell[score], cell["bad"]) for cell in cells]


def by_chance(cells: Sequence[Part], score: str) -> float:
    """p: how often a client drawn at random in every seed has a mean AUROC as large. Areas are counted in halves of a pair."""
    sums: Counter[int] = Counter({0: 1})
    reached = 0
    for cell in cells:
        halves = [round(2 * (len(cell[score]) - 1) * area(cell[score], client)) for client in range(len(cell[score]))]
        sums = Counter({
            total: sum(sums[total - one] for one in halves) for total in {have + one for have in sums for one in halves}
        })  # fmt: skip
        reached += halves[cell["bad"]]
    return sum(ways for total, ways in sums.items() if total >= reached) / sum(sums.values())


def answer(cells: Cells, threshold: float) -> str:
    """The verdict of both scores, every number in it from the cells."""
    legend = (
        f"**Does the score tell a poisoned client's upload from honest ones?** `no`: p ≥ {LEVEL:g}; `by its labels`: p < {LEVEL:g}, but it is not "
        f"shown to be more suspicious than an honest client with its labels (sign test over seeds, ties left out, p ≥ {LEVEL:g}; five seeds win only "
        f"together); `yes`: it is; `unlike the others`: p < {LEVEL:g}, and no such client was run, so that it may be by its labels. One word where "
        "both starts agree; `left out`: over both starts and all seeds. A likeness of the labels is no sight of the trigger: an honest client with the "
        "poisoned one's labels is the control."
    )
    heads = {SHIPPED: "the filter as it ships", PAPER: "the paper's measure, `compare: masks, measure: hamming`"}
    found = [f"{SCORES[score]}, {words}:\n\n{verdicts(cells, threshold, score)}" for score, words in heads.items()]
    return "\n\n".join([legend, *found, beside(cells, threshold)])


def verdicts(cells: Cells, threshold: float, score: str) -> str:
    """A line for each kind of set and partition, and the false positives."""
    lines = []
    for kind, partition in dict.fromkeys(key[:2] for key in cells):
        found = [
            verdict_text(cells, (kind, partition, attack), words, threshold, score) for attack, words in SHARES.items()
        ]
        lines.append(
            f"- {NAMES[kind]}, {partition}: {'; '.join(found)}{against_labels(cells, kind, partition, score)}."
        )
    quiet = [cell for key, every in cells.items() if key[3] == "none" for cell in every]
    return "\n".join(
        [
            *lines,
            f"- Where nobody attacks {percent(false_share(quiet, threshold, score))} % of the clients are left out.",
        ]
    )


def false_share(quiet: Sequence[Part], threshold: float, score: str) -> float:
    """Share of the clients below −threshold where nobody attacks."""
    return float(np.mean([np.array(cell[score]) < -threshold for cell in quiet]))


def beside(cells: Cells, threshold: float) -> str:
    """Both scores from trained weights, and why the filter keeps its own."""
    said = []
    for kind in dict.fromkeys(key[0] for key in cells):
        keys = [key for key in cells if key[0] == kind and key[2] == "trained"]
        quiet = [cell for key in keys if key[3] == "none" for cell in cells[key]]
        ours, theirs = (
            (np.mean([areas(cells[key], score) for key in keys if key[3] in SHARES]), percent(false_share(quiet, threshold, score)))
            for score in (SHIPPED, PAPER)
        )  # fmt: skip
        said.append(
            f"{NAMES[kind]} {theirs[0]:.2f} instead of {ours[0]:.2f} ({theirs[1]} instead of {ours[1]} % of honest clients left out)"
        )
    return (
        "From trained weights the Hamming likeness of the masks has, over both partitions and shares poisoned, a mean AUROC on "
        f"{' and on '.join(said)}. The filter's default is the changed bits by argument, from before these figures: all masks grow from the server's, "
        "and what they have in common with it says nothing of a client. The figures do not bear that out where the masks find more; the default stays "
        "nevertheless, since another one chosen by these seeds would have to be measured on others, at a threshold for its own false positives."
    )


def verdict_text(cells: Cells, case: tuple[str, str, str], words: str, threshold: float, score: str) -> str:
    """Of a kind, partition and attack: whether it is seen from which start, its AUROC, and how often it is left out."""
    kind, partition, attack = case
    here = {
        start: cells[kind, partition, start, attack] for start in STARTS if (kind, partition, start, attack) in cells
    }
    words_of = {
        start: sight(found, control(cells, kind, partition, start, attack), score) for start, found in here.items()
    }
    apart = ", ".join(f"{word} from the {STARTS[start]}" for start, word in words_of.items())
    said = apart if len(set(words_of.values())) > 1 else next(iter(words_of.values()))
    numbers = ", ".join(f"{np.mean(areas(found, score)):.2f} from the {STARTS[start]}" for start, found in here.items())
    left = sum(detected(found, score, threshold)[0] for found in here.values())
    return f"{words} **{said}** (AUROC {numbers}; left out {left} of {sum(map(len, here.values()))} times)"


def control(cells: Cells, kind: str, partition: str, start: str, attack: str) -> Sequence[Part] | None:
    """The honest client with the labels of the poisoned one; None where there is none: its labels are those of a tenth."""
    return cells.get((kind, partition, start, "labels")) if attack == LABELLED else None


def sight(found: Sequence[Part], honest: Sequence[Part] | None, score: str) -> str:
    """What the score sees: nothing, the labels, more than these, or what no control tells apart."""
    if by_chance(found, score) >= LEVEL:
        return "no"
    if honest is None:
        return "unlike the others"
    return "yes" if wins(areas(found, score), areas(honest, score)) < LEVEL else "by its labels"


def wins(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """p of the sign test that ours are larger, seed by seed, ties left out; 1 where all tie."""
    signs = [left > right for left, right in zip(ours, theirs, strict=True) if left != right]
    return float(binom.sf(sum(signs) - 1, len(signs), 0.5)) if signs else 1.0


def against_labels(cells: Cells, kind: str, partition: str, score: str) -> str:
    """In how many seeds a tenth poisoned is more suspicious than the honest client with its labels, whose AUROC is beside."""
    said = []
    for start, words in STARTS.items():
        if (honest := control(cells, kind, partition, start, LABELLED)) is None:
            continue
        own, other = areas(cells[kind, partition, start, LABELLED], score), areas(honest, score)
        more = sum(left > right for left, right in zip(own, other, strict=True))
        said.append(
            f"{np.mean(other):.2f} from the {words} (the poisoned one more suspicious in {more} of {len(own)} seeds)"
        )
    return f"; an honest client with the labels of a tenth poisoned has {', '.join(said)}" if said else ""


def carried(parts: list[Part]) -> tuple[list[str], list[list[str]]]:
    """A row for each kind of set and share poisoned."""
    cells: dict[tuple[str, float], list[tuple[Part, Part]]] = defaultdict(list)
    for part in parts:
        for row in part["rows"]:
            cells[row["kind"], row["poison"]].append((part, row))
    order = sorted(cells, key=lambda key: (list(KINDS).index(key[0]), key[1]))
    rows = []
    for kind, poison in order:
        whole, found = zip(*cells[kind, poison], strict=True)
        accuracy = interval([one["accuracy"] for one in found])
        rows.append([NAMES[kind], f"{100 * poison:g}", str(len(found)), share(whole, found), accuracy])
    return ["set", "poisoned %", "n", "ASR %", "accuracy %"], rows
