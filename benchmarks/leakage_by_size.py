"""How many records a class must have before its one synthetic image no longer names them.

    python benchmarks/leakage_by_size.py [--data digits|mnist] [--method dm|dc] [--seeds 5] [--out FILE]

Of every class n records are condensed, all classes together, into one image each, from noise. Then one of the n stands
among up to 99 records of its class that were not condensed: is it the nearest to the image (`pixels`, `standardised`:
attacks/record_distances.py), or the one that lies most in its direction as whitened random networks see it (`align`:
attacks/membership_embeddings.py)? A trial per class and seed; intervals are Clopper-Pearson's. Metric and directions are
of the test split.

Beside it what the exact mean of n records in the place of the image would tell, by theory: the AUC of `align`,
Φ(√(d_eff/2n)), and how often it would name the record,  ∫ φ(t − d′) Φ(t)^(A−1) dt,  d′ = √(d_eff/n), A candidates.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from attacks.membership_embeddings import Metric, effective_directions, predicted_auc
from attacks.record_distances import between
from fedsim import api, catalog
from fedsim.audit.statistics.auc import auc
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.build import Fresh, central_task, network_factory
from fedsim.compute import Compute
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.distill.drive import condense
from fedsim.models.network import Network
from fedsim.seeding import Streams, numpy_stream

SIZES = (1, 3, 10, 30, 100)
OTHERS = 99
COMPUTE = Compute(device="cpu", precision="float32", compile=False, chunk=0, channels_last=False, ensemble="loop")
DIRECTIONS = 128
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "iterations": 200, "optimiser": "adam", "lr": 0.2, "batch_real": 0},
    "dc": {"name": "dc", "iterations": 200, "lr": 0.1, "batch_real": 0},
}
MODELS = {
    "digits": {"name": "convnet", "depth": 2, "width": 32, "norm": "instance"},
    "mnist": {"name": "convnet", "depth": 3, "width": 32, "norm": "instance"},
}


class Eye(NamedTuple):
    """A random network and how it is whitened."""

    network: Network
    metric: Metric


def main(data: str, method: str, seeds: int, networks: int) -> dict[str, Any]:
    """Every size; rows of the table."""
    dataset = api.load(data)
    normalise = Normalise.of(dataset, dataset.train)
    fresh = network_factory(api.section("model", MODELS[data]), dataset, torch.device("cpu"))
    eyes = [eye(fresh, dataset, normalise, Streams(0, ("eye", index))) for index in range(networks)]
    rows = []
    for size in SIZES:
        trials = [one for seed in range(seeds) for one in attacked(dataset, normalise, fresh, eyes, method, size, seed)]
        rows.append(summed(size, trials))
        print(json.dumps(rows[-1]), flush=True)
    settings = {"data": data, "method": METHODS[method] | {"ipc": 1, "init": "noise"}, "model": MODELS[data]}
    return settings | {"seeds": seeds, "networks": networks, "rows": rows}


def eye(fresh: Fresh, dataset: Dataset, normalise: Normalise, streams: Streams) -> Eye:
    """A network drawn anew, whitened by the test images."""
    network = fresh(streams.generator("init")).eval()
    vectors = embedded(network, normalise, dataset.test)
    return Eye(network, Metric.fit(vectors, dataset.test.labels, dataset.num_classes, DIRECTIONS))


@torch.no_grad()
def embedded(network: Network, normalise: Normalise, images: Images) -> torch.Tensor:
    """ψ of images, (n, d)."""
    return torch.cat([network.embed(normalise(part)) for part in images.pixels.split(500)]).double()


def attacked(
    dataset: Dataset, normalise: Normalise, fresh: Fresh, eyes: list[Eye], method: str, size: int, seed: int
) -> list[dict[str, float]]:
    """A trial per class that has enough records: condense, then look for the first of the records condensed."""
    rng, streams = numpy_stream(seed, "leakage", size), Streams(seed, ("leakage", size))
    labels = dataset.train.labels.numpy()
    drawn = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    drawn = {label: rows[: size + OTHERS] for label, rows in drawn.items() if len(rows) > size}
    records = dataset.train.take(torch.from_numpy(np.concatenate([rows[:size] for rows in drawn.values()])))
    chosen: Any = api.section("method", METHODS[method] | {"ipc": 1, "init": "noise"})
    task = central_task(records, dataset, normalise, fresh, 1, COMPUTE, streams)
    made, _ = condense(catalog.resolve("method", method)(chosen), task, chosen.iterations, streams)
    return [
        trial(
            made.as_images().take(torch.nonzero(made.labels == label)[:, 0]), dataset.train, rows, size, eyes, normalise
        )
        for label, rows in drawn.items()
    ]


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=tuple(MODELS), default="digits")
    parser.add_argument("--method", choices=tuple(METHODS), default="dm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = main(given.data, given.method, given.seeds, given.networks)
    out = given.out or Path(__file__).parent / "results" / "leakage" / f"{given.data}_{given.method}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
