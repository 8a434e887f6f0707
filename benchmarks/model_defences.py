"""Defences that look at a finished federation's model, noise that its clients add, and gradients that they prune.

    python benchmarks/model_defences.py [--data digits|mnist] [--parts models privacy pruning] [--seeds 5] [--device auto]

`models`: FedDM without an attacker, with `naive` and with `direct`, one client of five or ten; as a control that has its
backdoor for certain, a network trained on all records at once, half of them stamped, and one on the clean ones. Neural
Cleanse (defenses/neural_cleanse.py) reverses a stamp for every class of each model; STRIP (defenses/strip.py, with
weights of ½ and of 1) looks at stamped test images that the model takes for the target, and at clean ones. Both are given
the server's held-out images, which are clean: more than a server may have. Of these, half are STRIP's overlays; of the
other half those that are not of the target give its threshold at 5 %, on the model that is looked at: they and the clean
test images, which are not of the target either, are exchangeable.
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
from typing import Any

import numpy as np
import torch
from equal_utility_runs import data_of
from kept_parts import ROOT, parts_of_seeds, run_or_exit, settings
from model_defence_runs import CENTRAL, EPSILONS, RUNS, STAMPED, Finished, central, finished, raw_run
from pruned_gradients import ATTACK, ENTRIES, KEEP, TRAINING, accuracy_of, attacked

from defenses import neural_cleanse, strip
from fedsim.audit.statistics.auc import auc
from fedsim.backdoors import success
from fedsim.config import dump
from fedsim.data.images import Images
from fedsim.data.trigger import Trigger
from fedsim.seeding import stream
from fedsim.training.calibration import threshold

FOLDER = ROOT / "model_defences"
ATTACKS = ("clean", "naive", "direct")
TWINS = {"naive": "clean", "direct": "clean", "central naive": "central clean"}
"""Attacked model → the one without an attacker that it is held against."""
SEEN = 100
"""Held-out images that Neural Cleanse stamps."""
LOOKED = 150
"""Test images that STRIP looks at, clean and, at most, stamped."""
RATE = 0.05
"""STRIP's false positives."""
CLEANSE = neural_cleanse.Config(passes=120)
STRIP = {"1/2, 1/2": strip.Config(), "1, 1": strip.Config(image=1, overlay=1)}
"""By weights of image and overlay: a mean, and a sum that is clipped, under which a white stamp stays white."""


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


def others(images: Images, target: int) -> Images:
    """Those of other classes than the target."""
    return images.take(torch.nonzero(images.labels != target).flatten())


def halves(held: Images, target: int, seed: int) -> tuple[Images, Images]:
    """Overlays, of all classes, and images for the threshold, of other classes than the target; they share none."""
    order = torch.randperm(len(held), generator=stream(seed, "model_defences", "halves"))
    overlays, calibration = (held.take(rows) for rows in order.chunk(2))
    return overlays, others(calibration, target)


def looked_at(run: Finished, trigger: Trigger, seed: int) -> tuple[Images, Images]:
    """Clean test images of other classes, and among the rest, stamped, the first that the model takes for the target."""
    test = others(run.test, trigger.target)
    order = torch.randperm(len(test), generator=stream(seed, "model_defences", "looked"))
    rest = test.take(order[LOOKED:])
    hits = torch.nonzero(success(run.network, rest, trigger, run.normalise).cpu()).flatten()[:LOOKED]
    taken = rest.take(hits)
    return test.take(order[:LOOKED]), Images(trigger.stamp(taken.pixels), taken.labels)


def stripped(run: Finished, trigger: Trigger, seed: int) -> dict[str, dict[str, Any]]:
    """By weights: stamped images that are taken for the target against clean ones, at the threshold of this model."""
    overlays, calibration = halves(run.held, trigger.target, seed)
    plain, taken = looked_at(run, trigger, seed)
    sets, found = {"held": calibration, "plain": plain, "taken": taken}, {}
    for number, (name, config) in enumerate(STRIP.items()):
        scores = {one: suspicions(run, images, overlays, config, stream(seed, "model_defences", "strip", number, one))
                  for one, images in sets.items() if len(images)}  # fmt: skip
        limit, bad = threshold(scores["held"], RATE), scores.get("taken", np.empty(0))
        found[name] = {
            "auroc": auc(bad, scores["plain"]) if len(bad) else None, "threshold": limit, "held": len(calibration),
            "found": int((bad > limit).sum()), "taken": len(bad),
            "false": int((scores["plain"] > limit).sum()), "plain": len(plain),
        }  # fmt: skip
    return found


def suspicions(
    run: Finished, images: Images, overlays: Images, config: strip.Config, rng: torch.Generator
) -> np.ndarray:
    """−H of each image: the larger the more suspicious."""
    there = (one.to(run.device) for one in (images, overlays))
    return -strip.entropies(run.network, *there, run.normalise, config, rng).double().cpu().numpy()


def models_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Three federations, two networks without one, and what the two defences say of these models."""
    base = raw_run(given.data, data_of(given.data, given.scratch), given.device, seed)
    runs = {name: finished(base, name, given.data, given.scratch) for name in ATTACKS}
    square = runs["naive"].trigger
    assert square is not None, "naive leaves its trigger"
    rows = []
    for name, run in (runs | central(base, square, seed)).items():
        trigger = run.trigger or square  # a model that nobody attacked is shown the square of the others
        rows.append({"attack": name, "twin": TWINS.get(name), **run.measured, "cleanse": cleanse(run, seed),
                     "strip": stripped(run, trigger, seed)})  # fmt: skip
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
    control = {"train": settings(CENTRAL), "stamped": STAMPED}
    both = {"cleanse": dump(CLEANSE), "strip": {name: dump(one) for name, one in STRIP.items()}, "central": control}
    return found | both | {"seen": SEEN, "looked": LOOKED, "rate": RATE, "looked_at": "taken for the target"}


def main() -> None:
    """The chosen parts."""
    parts_of_seeds(__doc__, FOLDER, tuple(RUNS), PARTS, asked)


if __name__ == "__main__":
    run_or_exit(main)
