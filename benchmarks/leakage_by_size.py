"""How many records a class must have before its one synthetic image no longer names them.

    python benchmarks/leakage_by_size.py [--parts mnist_dm mnist_dc_500 …] [--data FOLDER] [--device cuda]

Of every class n records are condensed, all classes together, into one image each, from noise. Then one of the n stands
among up to 99 records of its class that were not condensed: is it the nearest to the image (`pixels`, `standardised`:
attacks/record_distances.py), or the one that lies most in its direction as whitened random networks see it (`align`:
attacks/membership_embeddings.py)? A trial per class and seed; intervals are Clopper-Pearson's. Metric and directions are
of the test split.

A part is a data set, a method and an n, kept under benchmarks/results/leakage/ as soon as it is done; a size is left out where
no class has ten records more. Beside it what the exact mean of n records in the place of the image would tell, by theory: the AUC of `align`,
Φ(√(d_eff/2n)), and how often it would name the record,  ∫ φ(t − d′) Φ(t)^(A−1) dt,  d′ = √(d_eff/n), A candidates.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import packed_images
import torch
from kept_parts import chosen, run_or_exit, there
from membership_rows import computed
from provenance import facts
from scipy.integrate import quad
from scipy.special import ndtr

from attacks.membership_embeddings import Metric, effective_directions, predicted_auc
from attacks.record_distances import between
from fedsim import api, catalog
from fedsim.audit.statistics.auc import auc
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.compute import Compute, settle
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.distill.drive import condense
from fedsim.models.network import Network
from fedsim.runs import write_atomic
from fedsim.seeding import Streams, numpy_stream
from fedsim.tasks import Fresh, central_task, network_factory

RESULTS = Path(__file__).parent / "results/leakage"
SIZES = (1, 3, 10, 30, 100, 500)
OTHERS, FEWEST = 99, 10
"""Records of the class that stand beside those condensed; fewer than the second and the class is left out."""
DIRECTIONS, PUBLIC = 128, 2000
"""Directions of an embedding, and test images that they are of."""
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "iterations": 200, "optimiser": "adam", "lr": 0.2, "batch_real": 0},
    "dc": {"name": "dc", "iterations": 100, "optimiser": "adam", "lr": 0.1, "batch_real": 0},
}
MODELS = {
    "digits": {"name": "convnet", "depth": 2, "width": 32, "norm": "instance"},
    "mnist": {"name": "convnet", "depth": 3, "width": 32, "norm": "instance"},
}


class Eye(NamedTuple):
    """A random network and how it is whitened."""

    network: Network
    metric: Metric


class World(NamedTuple):
    """A data set and what looks at it."""

    data: Dataset
    normalise: Normalise
    fresh: Fresh
    eyes: list[Eye]
    compute: Compute


def world(name: str, folder: str | None, networks: int, compute: Compute) -> World:
    """The data set `name` and so many random networks."""
    data = packed_images.load(name, folder)
    fresh = network_factory(api.section("model", MODELS[name]), data, torch.device(compute.device))
    normalise = Normalise.of(data, data.train)
    eyes = [eye(fresh, data, normalise, Streams(0, ("eye", index))) for index in range(networks)]
    return World(data, normalise, fresh, eyes, compute)


def eye(fresh: Fresh, dataset: Dataset, normalise: Normalise, streams: Streams) -> Eye:
    """A network drawn anew, whitened by the test images."""
    network = fresh(streams.generator("init")).eval()
    public = dataset.test.take(torch.arange(min(PUBLIC, len(dataset.test))))
    vectors = embedded(network, normalise, public)
    return Eye(network, Metric.fit(vectors, public.labels, dataset.num_classes, DIRECTIONS))


@torch.no_grad()
def embedded(network: Network, normalise: Normalise, images: Images) -> torch.Tensor:
    """ψ of images, (n, d), on the CPU."""
    device = next(network.parameters()).device
    return torch.cat([network.embed(normalise(part.to(device))).cpu() for part in images.pixels.split(500)]).double()


def attacked(world: World, method: str, size: int, seed: int, iterations: int) -> list[dict[str, float]]:
    """A trial per class that has enough records: condense, then look for the first of the records condensed."""
    rng, streams = numpy_stream(seed, "leakage", size), Streams(seed, ("leakage", size))
    train, labels = world.data.train, world.data.train.labels.numpy()
    drawn = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    drawn = {label: rows[: size + OTHERS] for label, rows in drawn.items() if len(rows) >= size + FEWEST}
    if not drawn:
        return []
    records = train.take(torch.from_numpy(np.concatenate([rows[:size] for rows in drawn.values()])))
    chosen: Any = api.section("method", settings(method, iterations))
    task = central_task(records, world.data, world.normalise, world.fresh, 1, world.compute, streams)
    made, _ = condense(catalog.resolve("method", method)(chosen), task, chosen.iterations, streams)
    images, labels = made.as_images(), made.labels
    return [
        trial(images.take(torch.nonzero(labels == label)[:, 0]), train, rows, size, world.eyes, world.normalise)
        for label, rows in drawn.items()
    ]


def settings(method: str, iterations: int) -> dict[str, Any]:
    """Of the method; its own number of steps where none is given."""
    return METHODS[method] | {"ipc": 1, "init": "noise"} | ({"iterations": iterations} if iterations else {})


def trial(
    image: Images, train: Images, rows: np.ndarray, size: int, eyes: list[Eye], normalise: Normalise
) -> dict[str, float]:
    """One class: `rows` are the records condensed, then the others; which of them does the image name?"""
    records = train.take(torch.from_numpy(rows))
    kernel, aligned = torch.zeros((len(rows),) * 2, dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    for network, metric in eyes:
        seen = metric(embedded(network, normalise, records), records.labels)
        kernel += seen @ seen.T / len(eyes)
        aligned += seen @ metric(embedded(network, normalise, image), image.labels)[0] / len(eyes)
    scores = {name: -between(image.pixels, records.pixels, name)[0].numpy() for name in ("pixels", "standardised")}
    scores["align"] = aligned.numpy()
    found: dict[str, float] = {name: float(one[0] > one[size:].max()) for name, one in scores.items()}
    exact = kernel[:, :size].mean(1).numpy()
    found |= {"align_auc": auc(scores["align"][:size], scores["align"][size:])}
    found |= {"exact_mean": float(exact[0] > exact[size:].max()), "exact_mean_auc": auc(exact[:size], exact[size:])}
    return found | {"among": len(rows) - size + 1, "d_eff": effective_directions(kernel[size:, size:].numpy())}


def named(directions: float, size: int, among: float) -> float:
    """∫ φ(t − d′) Φ(t)^(A − 1) dt."""
    shift = math.sqrt(directions / size)
    density = lambda t: math.exp(-((t - shift) ** 2) / 2) / math.sqrt(2 * math.pi) * ndtr(t) ** (among - 1)  # noqa: E731
    return float(quad(density, shift - 8, shift + 8)[0])


def summed(size: int, trials: list[dict[str, float]]) -> dict[str, Any]:
    """One row of the table."""
    mean = {name: float(np.mean([one[name] for one in trials])) for name in trials[0]}
    row: dict[str, Any] = {"records_per_class": size, "trials": len(trials), "chance": 1 / mean["among"]}
    for name in ("pixels", "standardised", "align", "exact_mean"):
        share = clopper_pearson(sum(int(one[name]) for one in trials), len(trials))
        row[name] = [round(value, 4) for value in (share.value, share.low, share.high)]
    row |= {name: round(mean[name], 4) for name in ("align_auc", "exact_mean_auc", "d_eff")}
    row["theory_identified"] = round(named(mean["d_eff"], size, mean["among"]), 4)
    return row | {"theory_auc": round(predicted_auc(mean["d_eff"], size), 4)}


def main() -> None:
    """Every part that was asked for and is not there."""
    options = parsed()
    torch.set_num_threads(1)
    provenance, worlds = facts(options.device), {}
    compute = computed(settle(Compute(device=options.device)).device)
    every = product(MODELS, METHODS, SIZES)
    parts = {f"{data}_{method}_{size:03d}": (data, method, size) for data, method, size in every}
    for name in chosen(list(parts), options.parts):
        data, method, size = parts[name]
        asked = {"seeds": options.seeds, "networks": options.networks, "method": settings(method, options.iterations)}
        if there(options.out / f"{name}.json", asked):
            continue
        if data not in worlds:
            worlds[data] = world(data, options.data, options.networks, compute)
        started, trials = time.monotonic(), []
        for seed in range(options.seeds):
            trials += attacked(worlds[data], method, size, seed, options.iterations)
        if not trials:
            continue
        row = summed(size, trials)
        kept = {"data": data, **asked, "asked": asked, "model": MODELS[data], "row": row, "seconds": round(time.monotonic() - started, 1), **provenance}  # fmt: skip
        write_atomic(options.out / f"{name}.json", json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {json.dumps(row)}", flush=True)


def parsed() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", help="beginnings of names, such as mnist_dm digits_dc_010")
    parser.add_argument("--data", help="folder of mnist.npz")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=0, help="0: as METHODS says")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    run_or_exit(main)
