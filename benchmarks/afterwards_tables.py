"""A part of docs/results.md: what is left of a backdoor in later rounds and in other networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kept_parts import alike, kept
from result_tables import interval, percent, table
from utility_tables import origin

Part = dict[str, Any]
FIGURES = ("asr", "asr_clean", "lift", "accuracy", "accuracy_clean")


def rows_of(parts: Sequence[Part], keys: Sequence[str]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The rows of all seeds by what they are of, in the order of the first part."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for part in parts:
        for row in part["rows"]:
            found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def curve(rows: Sequence[dict[str, Any]]) -> str:
    """Mean success on val after every round; rounds in which the attacker acted are bold, those before it acted empty."""
    first, last = rows[0]["acting"]
    said = []
    for number, values in enumerate(zip(*(row["val"] for row in rows), strict=True), 1):
        mean = percent(sum(values) / len(values)) if None not in values else "–"
        said.append(f"**{mean}**" if first <= number <= last else mean)
    return " ".join(said)


def persistence(parts: Sequence[Part]) -> str:
    """The table of rounds."""
    header = ["algorithm", "attack", "n", "success on val by round %", "at the end, test %", "without attackers %", "lift %", "accuracy %",
              "without attackers %"]  # fmt: skip
    return table(header, [
        [*name, str(len(rows)), curve(rows), *(interval([row[key] for row in rows]) for key in FIGURES)]
        for name, rows in rows_of(parts, ("algorithm", "attack")).items()
    ])  # fmt: skip


def transfer(parts: Sequence[Part]) -> str:
    """The table of networks."""
    header = [
        "attack",
        "network",
        "n",
        "success %",
        "on the clean sets %",
        "lift %",
        "accuracy %",
        "on the clean sets %",
    ]
    return table(header, [
        [*name, str(len(rows)), *(interval([row[key] for row in rows]) for key in FIGURES)]
        for name, rows in rows_of(parts, ("attack", "network")).items()
    ])  # fmt: skip


NOTES = {
    "persistence": ("Backdoors after the attacker is gone", persistence, "One client of five (MNIST: ten) attacks in the rounds in bold "
                    "and is honest later. FedDM's server trains on the sets of the round alone, from the weights that it has; FedAvg's "
                    "model is an average of what clients make of these weights. Val is clean held-out data of the server; lift is over the "
                    "run without an attacker, on the test images after the last round."),
    "transfer": ("Backdoors in other networks trained on the uploads", transfer, "Networks trained from scratch on the union of the sets "
                 "of the last round of a FedDM of two rounds, one client of five (MNIST: ten) lying. Lift: over the same network (same first "
                 "weights, same order) trained on the sets of the run without an attacker."),
}  # fmt: skip


def afterwards() -> list[str]:
    """Both sections for both data sets."""
    found = []
    for data in ("digits", "mnist"):
        for part, (title, body, note) in NOTES.items():
            parts, command = (
                kept("backdoor_afterwards", f"{data}_{part}_"),
                f"backdoor_afterwards.py --data {data} --parts {part}",
            )
            head = f"## {title}, {data}\n\n{note}\n\n"
            if not parts:
                found.append(f"{head}Not run yet: `python benchmarks/{command}`.\n")
                continue
            alike(f"backdoor_afterwards/{data}_{part}", [one["asked"] for one in parts])
            found.append(f"{head}{body(parts)}\n\n{origin(parts, command)}\n")
    return found
