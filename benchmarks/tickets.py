"""Lottery tickets of clean, distilled and poisoned sets: are they alike, are they vulnerable, do they transfer?

    python benchmarks/tickets.py [--data digits|mnist] [--parts likeness_real defence …] [--seeds 5] [--device auto]

`likeness_KIND`: masks grown from the same first weights on two sets. KIND is `real`, `dm1` or `dm10`: the records, or what
`dm` makes of them at one and ten images per class. Masks are of iterated magnitude pruning (seven rounds of a fifth), of one
cut of the dense network to as much, and of the scales of the norms (early bird, half). A poisoned set is a tenth of
the records with a white square in the corner and the target's label, which it condenses like others. Null pairs: the same
data in another order, two honest clients of the same classes, an honest one with the poisoned one's labels, two with no
class in common, and the mask of the first weights.

`defence_KIND`: defenses/ticket_similarity.py on eight clients, one of them poisoned or none, and the same score on the masks
themselves. `vulnerability`: success of the trigger on dense networks and on their tickets. `fedavg`: the same where one client of five
is poisoned. `transfer`: tickets found on one set and trained on the real data. `carried`: what one client's poisoned set
does to a network that is trained on nothing else.

A part is of one seed, kept under benchmarks/results/tickets/; kept ones are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from kept_parts import ROOT, chosen, chosen_device, keep, provenance, run_or_exit
from ticket_cases import KINDS, Bench
from ticket_likeness import defence_part, defence_settings, likeness_part, likeness_settings
from ticket_training import carried_part, fedavg_part, training_settings, transfer_part, vulnerability_part

FOLDER = ROOT / "tickets"
ALONE: dict[str, Callable[[Bench, int], dict[str, Any]]] = {
    "vulnerability": vulnerability_part,
    "fedavg": fedavg_part,
    "transfer": transfer_part,
    "carried": carried_part,
}
OF_KINDS: dict[str, Callable[[Bench, str, int], dict[str, Any]]] = {"likeness": likeness_part, "defence": defence_part}
PARTS = [*(f"{name}_{kind}" for name in OF_KINDS for kind in KINDS), *ALONE]


def made(bench: Bench, part: str, seed: int) -> dict[str, Any]:
    """One part of one seed."""
    name, _, kind = part.partition("_")
    return OF_KINDS[name](bench, kind, seed) if kind else ALONE[name](bench, seed)


def asked(bench: Bench, part: str) -> dict[str, Any]:
    """Every setting that changes the numbers of a part, so that a stale one is found."""
    name, _, _ = part.partition("_")
    own = {"likeness": likeness_settings, "defence": defence_settings}
    return bench.asked() | {"part": part} | (own[name](bench) if name in own else training_settings(bench, name))


def main() -> None:
    """The chosen parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--parts", nargs="+", help=f"beginnings of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = chosen_device(given.device)
    source, bench = provenance(device), Bench.of(given.data, device)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for part in chosen(PARTS, given.parts):
        for seed in range(given.seeds):
            path = FOLDER / f"{given.data}_{part}_s{seed}.json"
            keep(path, source, asked(bench, part), lambda part=part, seed=seed: made(bench, part, seed))


if __name__ == "__main__":
    run_or_exit(main)
