"""A part of docs/results.md: what a trigger does to dense networks and to tickets, and tickets that change data sets."""

from __future__ import annotations

from collections import defaultdict

from kept_parts import kept
from result_tables import interval, table
from ticket_defence_tables import defences
from ticket_tables import Part, likenesses, section, share


def tickets() -> list[str]:
    """Every section on tickets, of every data set that parts were made of; digits in any case."""
    sets = sorted({"digits", *(one["asked"]["data"] for one in kept("tickets"))})
    return [
        text for data in sets for text in (likenesses(data), defences(data), vulnerabilities(data), transfers(data))
    ]


def vulnerabilities(data: str) -> str:
    """Dense against ticket, alone and in FedAvg."""
    alone, together = kept("tickets", f"{data}_vulnerability_"), kept("tickets", f"{data}_fedavg_")
    note = (
        "Success of the trigger over test images of other classes than the target, on dense networks and on tickets found and trained on the "
        "same data (iterated magnitude pruning from w₀, 1 → 0.5 → 0.2 → 0.1; `random`: random masks with as much of every layer). Lift: less the success "
        "on the network trained on clean data with the same kind of mask and share kept. Differences are paired by seed; Wilson is the widest "
        "interval within a seed, in points."
    )
    federation = (
        "FedAvg, five clients with equal shares, one with half of its records poisoned, eight rounds of two epochs; masks are cut from the final "
        "server model, one from the other as above, and every client, the attacker too, trains the ticket from w₀ again."
    )
    body = [table(*attacked(parts)) if parts else "Not run yet." for parts in (alone, together)]
    return section(
        f"Dense networks and tickets under a trigger, {data}", note, data, "vulnerability fedavg", [*alone, *together],
        [body[0], federation, body[1]],
    )  # fmt: skip


def attacked(parts: list[Part]) -> tuple[list[str], list[list[str]]]:
    """A row for each share poisoned, kind of mask and share kept."""
    cells: dict[tuple[float, str, float], list[Part]] = defaultdict(list)
    for part in parts:
        for row in part["rows"]:
            cells[row["poison"], row.get("mask", "ticket"), row["keep"]].append(row)
    rows = []
    for (poison, mask, keep), found in cells.items():
        asr, dense, clean = (
            [one["asr"] for one in cells[key]]
            for key in ((poison, mask, keep), (poison, "ticket", 1.0), (0.0, mask, keep))
        )
        right, whole = (
            [one["accuracy"] for one in cells[key]] for key in ((poison, mask, keep), (poison, "ticket", 1.0))
        )
        wide = max(one["wilson"][1] - one["wilson"][0] for one in found)
        less = lambda one, other: interval([a - b for a, b in zip(one, other, strict=True)])  # noqa: E731
        rows.append([
            f"{100 * poison:g}", "dense" if keep == 1 else mask, f"{keep:.2g}", str(len(found)), share(parts, found), f"{100 * wide:.1f}",
            less(asr, clean) if poison else "", less(asr, dense) if keep < 1 else "", interval(right),
            less(right, whole) if keep < 1 else "",
        ])  # fmt: skip
    header = [
        "poisoned %",
        "network",
        "kept",
        "n",
        "ASR %",
        "Wilson",
        "lift",
        "ASR − dense",
        "accuracy %",
        "accuracy − dense",
    ]
    return header, rows


def transfers(data: str) -> str:
    """Accuracy of masks found elsewhere."""
    parts = kept("tickets", f"{data}_transfer_")
    note = (
        "A mask is found on one set by iterated magnitude pruning from w₀, 1 → 0.5 → 0.2 → 0.1 (as many steps for every set but the whole data) and the ticket trained on all real data. "
        "`random1` and `random10`: as many random real images as the distilled sets hold; `random mask`: as many weights "
        "of every layer as the mask of the real data, at random places. Differences to that mask are paired by seed."
    )
    cells: dict[tuple[str, float], list[float]] = defaultdict(list)
    for part in parts:
        for row in part["rows"]:
            cells[row["mask"], row["keep"]].append(row["accuracy"])
    rows = [
        [f"{keep:.2g}", mask, str(len(found)), interval(found),
         "" if mask == "real" else interval([a - b for a, b in zip(found, cells["real", keep], strict=True)])]
        for (mask, keep), found in sorted(cells.items(), key=lambda item: -item[0][1])
    ]  # fmt: skip
    dense = f"Dense: {interval([part['dense'] for part in parts])}." if parts else ""
    return section(f"Tickets that change data sets, {data}", note, data, "transfer", parts,
                   [table(["kept", "mask found on", "n", "accuracy %", "− mask of the real data"], rows), dense])  # fmt: skip
