"""What one gradient, or one update, says of real images: `python benchmarks/gradient_leakage.py --parts idlg_cifar10,mnist`.

Every part (gradient_parts.py) is attacked in chunks of images and kept chunk by chunk under
benchmarks/results/gradient_leakage/PART/: a second call takes up what is missing, whatever the size of its chunks.
`--parts pairs_idlg` times the batched solver against a loop over images (gradient_pairs.py), a chunk per turn. Data: the
folder `--data`, else FEDSIM_DATA. The section of docs/results.md and the panels are made of what was kept, by
`python benchmarks/tables.py`. `--list` prints the parts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradient_cases import SEED, Pool, leaks, pool
from gradient_measures import measured, summary
from gradient_pairs import quicker, summed, timed, turn
from gradient_parts import PAIRS, PARTS
from gradient_tables import PANEL, RESULTS, kept
from pairs import machine
from provenance import commit

from attacks.labels import row_sum_rule
from fedsim.compute import Compute, settle
from fedsim.config import dump
from fedsim.runs import write_atomic
from fedsim.seeding import stream
from fedsim.types import UserError

CHUNK = {"cpu": 20, "cuda": 100}
"""Problems attacked at once."""


def missing(done: Sequence[int], images: int, chunk: int) -> list[list[int]]:
    """The problems below `images` that were not done, in chunks."""
    left = sorted(set(range(images)) - set(done))
    return [left[first : first + chunk] for first in range(0, len(left), chunk)]


def unchanged(name: str, settings: dict[str, Any], chunks: Sequence[dict[str, Any]]) -> None:
    """`UserError` where what was kept is of other settings."""
    for chunk in chunks:
        odd = sorted(key for key in settings if chunk["settings"].get(key) != settings[key])
        if odd:
            raise UserError(f"{name}: kept chunks differ in {', '.join(odd)}; remove {RESULTS / name} to begin again")


def settings_of(name: str, held: Pool) -> dict[str, Any]:
    """All that the figures of a part depend on, beside the images and how many ran side by side."""
    part = PARTS[PAIRS.get(name, name)]
    attack = dump(part.attacker(1).config)
    del attack["width"]
    return {
        "attack": attack, "network": part.network, "bound": part.bound, "records": part.records, "seed": SEED,
        "data": part.data, "pool": len(held.labels), "shape": list(held.shape),
    }  # fmt: skip


def attack(name: str, held: Pool, problems: list[int], device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """One chunk of a part: its rows and seconds, and the pictures of those problems that the panel shows."""
    part = PARTS[name]
    truth = leaks(part, held, problems, device)
    attacker, (seen, form) = part.attacker(len(problems)), quicker(truth)
    found, seconds = timed(lambda: attacker.reconstruct(seen, None, stream(SEED, name, problems[0])))
    rows, images = measured(found, truth, problems)
    shown = [at for at, problem in enumerate(problems) if problem * part.records < PANEL]
    pictures = {
        "problem": np.array([problems[at] for at in shown]), "true": _bytes(truth.pixels[shown]),
        "found": _bytes(images[shown]),
    }  # fmt: skip
    value = {"rows": rows, "seconds": seconds, "convolutions": form}
    if part.attack == "idlg":  # the rule of the published code beside the paper's
        value["row_sum_right"] = int((row_sum_rule(seen.targets["head.weight"]).cpu() == truth.labels[:, 0]).sum())
    return value, pictures


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def keep(name: str, problems: list[int], value: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Write a chunk whole or not at all; the pictures first, so that a chunk that is there has them."""
    file = RESULTS / name / f"{problems[0]:03d}-{problems[-1]:03d}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(pictures.get("problem", [])):
        with file.with_suffix(".npz").open("wb") as out:
            np.savez_compressed(out, **pictures)
    write_atomic(file, json.dumps(value, indent=1) + "\n")


def names_of(words: str) -> list[str]:
    """The parts that were named; `UserError` for another word."""
    names = words.split(",")
    for name in names:
        if name not in PARTS and name not in PAIRS:
            raise UserError(f"parts: got '{name}'; valid: {', '.join([*PARTS, *PAIRS])}")
    return names


def run(name: str, chosen: argparse.Namespace, device: torch.device, about: dict[str, Any], until: float) -> None:
    """What is missing of a part; no chunk is begun after `until` on the monotonic clock."""
    part, place = PARTS[PAIRS.get(name, name)], f"{name}_{device.type}" if name in PAIRS else name
    held = pool(chosen.data, part.data, part.shrink)
    settings, done = settings_of(name, held), kept(place)
    unchanged(place, settings, done)
    problems, chunk = (chosen.images or part.images) // part.records, chosen.chunk or CHUNK[device.type]
    for some in missing([problem for one in done for problem in one["problems"]], problems, chunk):
        if time.monotonic() > until:
            print(f"{place}: the time is over, problems {some[0]} to {problems - 1} are left", flush=True)
            return
        if name in PAIRS:
            value, pictures = turn(name, held, some, min(chosen.few, len(some)), device), {}
        else:
            value, pictures = attack(name, held, some, device)
        keep(place, some, {"settings": settings, "problems": some, **about, "file": held.file, **value}, pictures)
        chunks = kept(place)
        rows = [row for one in chunks for row in one.get("rows", [])]
        print(place, f"{some[0]}-{some[-1]}", json.dumps(summary(rows) if rows else summed(chunks)), flush=True)


def main() -> None:
    """Parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDSIM_DATA", "data")))
    parser.add_argument("--parts", default=",".join(PARTS), help="names, with commas between them")
    parser.add_argument("--images", type=int, default=0, help="records of each part; 0: as the part says")
    parser.add_argument("--chunk", type=int, default=0, help="problems at once; 0: 100 on a GPU, 20 on a CPU")
    parser.add_argument("--few", type=int, default=4, help="images of a turn for the loop of pairs_*")
    parser.add_argument("--minutes", type=float, default=1e9, help="no chunk is begun after so long")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the parts")
    chosen = parser.parse_args()
    if chosen.list:
        print("\n".join([f"{name:20} {part.title}" for name, part in PARTS.items()] + sorted(PAIRS)))
        return
    until = time.monotonic() + 60 * chosen.minutes
    torch.set_num_threads(chosen.threads)
    compute = settle(Compute(device=chosen.device))
    about = {"commit": commit(), "machine": machine(chosen.threads), "device": compute.device}
    for name in names_of(chosen.parts):
        run(name, chosen, torch.device(compute.device), about, until)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
