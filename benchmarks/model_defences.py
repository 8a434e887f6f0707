"""Defences that look at a finished federation's model, noise that its clients add, and gradients that they prune.

    python benchmarks/model_defences.py [--data digits|mnist] [--parts models privacy pruning] [--seeds 5] [--device auto]

`models`: FedDM without an attacker, with `naive` and with `direct`, one client of five or ten. Neural Cleanse
(defenses/neural_cleanse.py) reverses a stamp for every class of each model; STRIP (defenses/strip.py) looks at stamped and at
clean test images. Both are given the server's held-out images, which are clean: more than a server may have. STRIP's
threshold is that of the run without an attacker of the same seed, at 5 %.
`privacy`: FedDM whose clients give out noisy sums (`privacy: features`, seeded noise, a simulation), one round, with and
without `naive`, at no privacy, ε = 10 and ε = 1. The attackers that craft or optimise are refused there: under privacy a run
has clients that give out noisy sums alone. A client that lies need not; nothing here holds one that does not.
`pruning`: iDLG on gradients of which a client sends the largest entries (defenses/gradient_pruning.py), and training by such
gradients (pruned_gradients.py). One attacker matches the pruned gradient with a whole one; the adaptive one matches what was sent.

A part is of one seed, kept under benchmarks/results/model_defences/; kept ones are not made again. Runs lie under --scratch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_utility_runs import data_of
from kept_parts import ROOT, chosen, chosen_device, keep, provenance, told
from model_defence_runs import EPSILONS, RUNS, Finished, finished, raw_run
from pruned_gradients import ATTACK, ENTRIES, KEEP, TRAINING, accuracy_of, attacked

from defenses import neural_cleanse, strip
from fedsim.audit.statistics.auc import auc
from fedsim.config import dump
from fedsim.data.images import Images
from fedsim.seeding import stream
from fedsim.training.calibration import threshold

FOLDER = ROOT / "model_defences"
ATTACKS = ("clean", "naive", "direct")
SEEN = 100
"""Held-out images that Neural Cleanse stamps."""
LOOKED = 150
"""Test images that STRIP looks at, clean and stamped."""
RATE = 0.05
"""STRIP's false positives on images of the run without an attacker."""
CLEANSE, STRIP = neural_cleanse.Config(passes=120), strip.Config()


def cleanse(run: Finished, seed: int) -> dict[str, Any]:
    """What Neural Cleanse finds: a stamp's size for every class, and the scores of the network."""
    rng = stream(seed, "model_defences", "cleanse")
    images = run.held.take(torch.randperm(len(run.held), generator=rng)[:SEEN])
    found = neural_cleanse.reverse(run.network, images.to(run.device), run.normalise, CLEANSE, rng)
    ratios = neural_cleanse.ratios(found.norms)
    return {
        "norms": [round(one, 3) for one in found.norms.tolist()], "unreached": int((found.success == 0).sum()),
        "index": neural_cleanse.score(found), "ratio": float(ratios.max()), "class": int(ratios.argmax()),
    }  # fmt: skip


def suspicions(run: Finished, images: Images, seed: int, *purpose: str) -> np.ndarray:
    """−H of each image: the larger the more suspicious."""
    rng = stream(seed, "model_defences", "strip", *purpose)
    overlays = run.held.to(run.device)
    found = strip.entropies(run.network, images.to(run.device), overlays, run.normalise, STRIP, rng)
    return -found.double().cpu().numpy()


def stripped(run: Finished, clean: Finished, seed: int) -> dict[str, Any]:
    """Stamped test images of other classes against clean ones, at the threshold of the run without an attacker."""
    limit = threshold(suspicions(clean, clean.held, seed, "held"), RATE)
    others = run.test.take(torch.nonzero(run.test.labels != run.trigger.target).flatten())
    rng = stream(seed, "model_defences", "looked")
    first, second = torch.randperm(len(others), generator=rng)[: 2 * LOOKED].chunk(2)
    plain, stamped = others.take(first), others.take(second)
    stamped = Images(run.trigger.stamp(stamped.pixels), stamped.labels)
    scores = {name: suspicions(run, one, seed, name) for name, one in (("plain", plain), ("stamped", stamped))}
    return {
        "auroc": auc(scores["stamped"], scores["plain"]), "threshold": limit,
        "found": int((scores["stamped"] > limit).sum()), "stamped": len(stamped),
        "false": int((scores["plain"] > limit).sum()), "plain": len(plain),
    }  # fmt: skip


def models_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Three federations and what the two defences say of their models."""
    base = raw_run(given.data, data_of(given.data, given.scratch), given.device, seed)
    runs = {name: finished(base, name, given.data, given.scratch) for name in ATTACKS}
    rows = []
    for name, made in runs.items():  # the model of the run without an attacker is shown the square of the others
        run = made if made.trigger is not None else made.seen_with(runs["naive"].trigger)
        rows.append({"attack": name, **run.measured, "cleanse": cleanse(run, seed),
                     "strip": stripped(run, runs["clean"], seed)})  # fmt: skip
    return {"rows": rows}


def privacy_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The lift of naive where clients add noise, and what that costs."""
    base = raw_run(given.data, data_of(given.data, given.scratch), given.device, seed)
    rows = []
    for epsilon in EPSILONS:
        run = finished(base, "naive", given.data, given.scratch, epsilon)
        rows.append({"epsilon": epsilon, **run.measured})
    return {"rows": rows}


def pruning_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What iDLG names at each share, and how well a network trains."""
    device = torch.device(given.device)
    data = data_of(given.data, given.scratch)
    rows = []
    for share in KEEP:
        trained = accuracy_of(data, share, seed, device)
        for entries in ENTRIES if share < 1 else ENTRIES[:1]:  # a whole gradient is one case
            found = attacked(data, share, seed, device, entries)
            rows.append({"keep": share, "entries": entries, **found, "accuracy": trained})
    return {"rows": rows}


PARTS: dict[str, Callable[[argparse.Namespace, int], dict[str, Any]]] = {
    "models": models_part, "privacy": privacy_part, "pruning": pruning_part,
}  # fmt: skip


def asked(part: str, data: str) -> dict[str, Any]:
    """Settings that a kept part was made under."""
    if part == "pruning":
        return {"data": data, "keep": KEEP, "entries": ENTRIES, "attack": ATTACK, "training": TRAINING}
    found: dict[str, Any] = {"data": data, "run": RUNS[data]}
    if part == "privacy":
        return found | {"epsilons": EPSILONS}
    return found | {"cleanse": dump(CLEANSE), "strip": dump(STRIP), "seen": SEEN, "looked": LOOKED, "rate": RATE}


def main() -> None:
    """The chosen parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=tuple(RUNS), default="digits")
    parser.add_argument("--parts", nargs="+", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scratch", type=Path, default=Path("runs/model_defences"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = chosen_device(given.device)
    given.device = str(device)
    source = provenance(device)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for part in chosen(tuple(PARTS), given.parts):
        for seed in range(given.seeds):
            path = FOLDER / f"{given.data}_{part}_s{seed}.json"
            keep(path, source, asked(part, given.data), lambda part=part, seed=seed: PARTS[part](given, seed))


if __name__ == "__main__":
    told(main)
