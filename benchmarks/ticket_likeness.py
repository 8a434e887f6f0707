"""Parts of benchmarks/tickets.py: masks of clean and poisoned sets held against each other, and the defence on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from kept_parts import settings
from ticket_cases import Bench, poisoned, repeated

from defenses.ticket_similarity import Config as DefenceConfig
from defenses.ticket_similarity import bits_of, compared, mask_of, usual
from fedsim.audit.statistics.masks import by_layer, changed, likeness
from fedsim.data.images import Images
from fedsim.data.partition import Dirichlet, DirichletConfig
from fedsim.models.functional import state
from fedsim.seeding import Streams, numpy_stream
from fedsim.training import early_bird, tickets
from fedsim.training.tickets import Masks
from fedsim.training.train import fit
from fedsim.types import Params

POISON, CLIENTS, ROUNDS = 0.1, 8, 7
FILTER = DefenceConfig()
"""The filter is measured as it ships."""
HEAVY = 0.5
"""The other share of poisoned records that the defence is asked about."""
DEAL: dict[str, Any] = {"clients": CLIENTS, "alpha": 0.5, "min_size": 20}
"""The clients of unequal labels."""
PAIRS = {
    "same data": ("a", "a again"),
    "honest": ("a", "b"),
    "honest, labels of the poisoned": ("a", "b like poisoned"),
    "clean, poisoned": ("a", "b poisoned"),
    "both poisoned": ("a poisoned", "b poisoned"),
    "honest, no class in common": ("low classes", "high classes"),
}
"""Sets that are held against each other; a and b share no record."""


def iterated_config(bench: Bench) -> tickets.Config:
    """Of iterated magnitude pruning."""
    return tickets.Config(rounds=ROUNDS, train=bench.train)


def early_bird_config(bench: Bench) -> early_bird.Config:
    """Of the masks of scales."""
    return early_bird.Config(train=bench.train)


def likeness_settings(bench: Bench) -> dict[str, Any]:
    """What a part of likeness remembers beside what all parts do."""
    both = {"iterated": settings(iterated_config(bench)), "early_bird": settings(early_bird_config(bench))}
    return {"poison": POISON, "pairs": PAIRS, **both}


def defence_settings(_: Bench) -> dict[str, Any]:
    """What a part of the defence remembers."""
    return {"poison": [POISON, HEAVY], "partition": DEAL, "defence": settings(FILTER)}


def sets(bench: Bench, seed: int) -> dict[str, Images]:
    """The real sets of a seed; the target is a class of the seed's."""
    size, rows, target = bench.scale.per_class, bench.rows(seed), target_of(bench, seed)
    a, b = bench.taken([one[:size] for one in rows]), bench.taken([one[size : 2 * size] for one in rows])
    bad = {
        name: poisoned(one, target, POISON, bench.scale.patch, numpy_stream(seed, "poison", name))
        for name, one in {"a": a, "b": b}.items()
    }
    counts = bad["b"].counts(bench.dataset.num_classes).tolist()
    half = len(rows) // 2
    return {
        "a": a, "a again": a, "b": b, "a poisoned": bad["a"], "b poisoned": bad["b"],
        "b like poisoned": bench.taken([one[size : size + count] for one, count in zip(rows, counts, strict=True)]),
        "low classes": bench.taken([one[: 2 * size] for one in rows[:half]]),
        "high classes": bench.taken([one[: 2 * size] for one in rows[half:]]),
    }  # fmt: skip


def target_of(bench: Bench, seed: int) -> int:
    """y_t."""
    return seed % bench.dataset.num_classes


def likeness_part(bench: Bench, kind: str, seed: int) -> dict[str, Any]:
    """Every pair of one seed under three kinds of masks, all from the same first weights."""
    made: dict[str, Images] = {}
    for name, one in sets(bench, seed).items():
        made[name] = made["a"] if name == "a again" else bench.of_kind(kind, one, seed, name)
    size = bench.scale.per_class * bench.dataset.num_classes
    start = state(bench.fresh(Streams(seed).generator("first")))
    found = {name: masks_of(bench, repeated(one, size), start, seed, name) for name, one in made.items()}
    return {
        "kind": kind, "seed": seed, "epoch_drawn": {name: one["epoch"] for name, one in found.items()},
        "keep": {name: one["keep"] for name, one in found.items()},
        "pairs": {pair: held(found[left], found[right]) for pair, (left, right) in PAIRS.items()},
        "with_start": {name: against_start(found[name]) for name in ("a", "b", "b poisoned")},
    }  # fmt: skip


def masks_of(bench: Bench, images: Images, start: Params, seed: int, name: str) -> dict[str, Any]:
    """Masks of one set: seven rounds of iterated pruning, one cut of the dense network, scales; and those of the start."""
    network, on_device = bench.fresh(Streams(seed).generator("template")), images.to(bench.device)
    network.load_state_dict(start)
    streams, names = Streams(seed, ("masks", name)), tickets.prunable(network)
    config = iterated_config(bench)
    found = list(tickets.rounds(network, on_device, bench.normalise, config, streams))
    network.load_state_dict(start)
    drawn = early_bird.draw_ticket(
        network, on_device, bench.normalise, early_bird_config(bench), streams.generator("early bird")
    )
    keep = tickets.keep_ratio(found[-1].masks)
    cut = tickets.magnitude_mask(found[0].trained, names, keep)
    first = tickets.magnitude_mask(start, names, keep)
    return {
        "iterated": (found[-1].masks, first), "cut": (cut, first), "scales": (drawn.masks, None),
        "epoch": drawn.epoch, "keep": keep,
    }  # fmt: skip


def held(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Likeness of two sets' masks: as they are, and of the bits that training turned over."""
    answers = {}
    for name in ("iterated", "cut", "scales"):
        (one, start), (other, _) = left[name], right[name]
        answers[name] = {"masks": measured(one, other)}
        if start is not None:
            answers[name]["changed"] = measured(changed(one, start), changed(other, start))
            layers = by_layer(changed(one, start), changed(other, start), "iou")
            answers[name]["layers"] = {layer: rounded(found.corrected) for layer, found in layers.items()}
    return answers


def against_start(found: dict[str, Any]) -> dict[str, Any]:
    """Likeness of a set's masks with the mask of the first weights."""
    return {name: measured(*found[name]) for name in ("iterated", "cut")}


def measured(left: Masks, right: Masks) -> dict[str, Any]:
    """Value, chance and corrected, by both measures."""
    both = {name: likeness(left, right, name) for name in ("hamming", "iou")}
    return {name: [rounded(one.value), rounded(one.chance), rounded(one.corrected)] for name, one in both.items()}


def rounded(value: float | None) -> float | None:
    """Five digits."""
    return None if value is None else round(value, 5)


def defence_part(bench: Bench, kind: str, seed: int) -> dict[str, Any]:
    """Scores of eight clients without an attacker and with one, at two kinds of partitions and two of starts."""
    first = state(bench.fresh(Streams(seed).generator("first")))
    cells, bad = [], seed % CLIENTS
    for partition in ("equal", "dirichlet 0.5"):
        clients = dealt(bench, partition, seed)
        honest = [bench.of_kind(kind, one, seed, partition, client) for client, one in enumerate(clients)]
        attacks = {
            name: bench.of_kind(kind, one, seed, partition, bad)
            for name, one in instead(bench, partition, clients[bad], bad, seed).items()
        }
        for start, weights in {"first weights": first, "trained": later(bench, honest, first, seed)}.items():
            for name, found in scored(bench, honest, attacks, bad, weights, seed).items():
                cells.append({"partition": partition, "start": start, "attack": name, "bad": bad, **found})
    return {"kind": kind, "seed": seed, "filter": FILTER.model_dump(mode="json"), "cells": cells}


def instead(bench: Bench, partition: str, own: Images, bad: int, seed: int) -> dict[str, Images]:
    """Records in the place of client `bad`: poisoned ones, and honest ones with the labels of the first of these."""
    target, rows, size = target_of(bench, seed), bench.rows(seed), per_client(bench, seed)
    found = {
        f"{share:g}": poisoned(own, target, share, bench.scale.patch, numpy_stream(seed, "poison"))
        for share in (POISON, HEAVY)
    }
    if partition == "equal":
        counts = found[f"{POISON:g}"].counts(bench.dataset.num_classes).tolist()
        kept = [one[bad * size : bad * size + min(size, count)] for one, count in zip(rows, counts, strict=True)]
        extra = rows[target][CLIENTS * size :][: counts[target] - size]
        found["labels"] = bench.taken([*kept, extra])
    return found


def per_client(bench: Bench, seed: int) -> int:
    """Records of a class that each of equal clients holds; as many are left over."""
    return min(bench.scale.per_class, min(len(one) for one in bench.rows(seed)) // (CLIENTS + 1))


def dealt(bench: Bench, partition: str, seed: int) -> list[Images]:
    """Records of each client: the same number of every class, or Dirichlet shares of each."""
    if partition == "equal":
        rows, size = bench.rows(seed), per_client(bench, seed)
        return [bench.taken([one[k * size : (k + 1) * size] for one in rows]) for k in range(CLIENTS)]
    train = bench.dataset.train
    deal = Dirichlet(DirichletConfig(**DEAL))
    parts = deal(train.labels.numpy(), bench.dataset.num_classes, numpy_stream(seed, "partition"))
    return [train.take(torch.from_numpy(one)) for one in parts]


def later(bench: Bench, honest: list[Images], first: Params, seed: int) -> Params:
    """Weights of a server that trained on all honest uploads."""
    network = bench.fresh(Streams(seed).generator("template"))
    network.load_state_dict(first)
    everything = Images(torch.cat([one.pixels for one in honest]), torch.cat([one.labels for one in honest]))
    fit(network, everything.to(bench.device), bench.normalise, bench.train, Streams(seed).generator("server"))
    return state(network)


def scored(
    bench: Bench, honest: list[Images], attacks: dict[str, Images], bad: int, start: Params, seed: int
) -> dict[str, dict[str, Any]]:
    """By the attack, `none` among them: z of the defence as it ships, and of what it would be on the masks themselves.

    A training is the same whoever else uploads, but for the number of its steps.
    """
    network, streams = bench.fresh(Streams(seed).generator("template")), Streams(seed, ("defence",))
    network.load_state_dict(start)
    before = mask_of(network, FILTER)
    known: dict[tuple[int, int], Masks] = {}

    def turned(images: Images, size: int) -> Masks:
        if (key := (id(images), size)) not in known:
            bits = bits_of(network, start, images, size, bench.normalise, FILTER, streams)
            assert bits is not None, "no training diverges on images of the data set"
            known[key] = bits
        return known[key]

    found = {}
    for name, upload in {"none": None, **attacks}.items():
        uploads = [*honest[:bad], honest[bad] if upload is None else upload, *honest[bad + 1 :]]
        lined = [turned(one, usual(uploads)) for one in uploads]
        plain = [changed(one, before) for one in lined]
        found[name] = {
            "changed_iou": listed(compared(lined, FILTER.measure, FILTER.threshold).z),
            "masks_hamming": listed(compared(plain, "hamming", FILTER.threshold).z),
            "masks_iou": listed(compared(plain, "iou", FILTER.threshold).z),
        }
    return found


def listed(values: np.ndarray) -> list[float]:
    """Plain and finite: JSON has no infinity."""
    return [round(float(value), 4) for value in np.clip(values, -1e6, 1e6)]
