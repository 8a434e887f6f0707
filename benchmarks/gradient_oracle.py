"""The upload as a gradient oracle: a set in the place of a gradient, against the gradient that FedSGD sends.

    python benchmarks/gradient_oracle.py [--data digits|mnist|FILE.npz] [--parts 1 4 16] [--device auto] [--seeds 5]

A client holds n records of every class. FedSGD is given  g_c = ∇_θ L(θ; D_c)  of each class at the θ that it was sent, which
favours its inversion: it really sends their sum. A
client of a matching method sends S, one image per class from noise, and whoever has it can take  ĝ_c = ∇_θ L(θ; S_c)
for g_c, at any θ that he likes. Both are inverted in the same way, at the same θ: min(n, 8) images of the class, cosine
and total variation by signed Adam (attacks/inverting_gradients.py); or not inverted, but asked which candidate's own
gradient lies most in their direction (`trace`). θ is a LeNet with sigmoids and weights from U(−0.5, 0.5), which favours
inversion more than any network that is used (attacks/dlg.py).

One of the n records stands among up to 99 of its class that the client did not hold. Is it the nearest to an inverted
image, to S_c itself, or the first by `trace`? `other` is the null of a prior alone: inversions of the gradient of
another client's records of the class. A trial per class and seed; `cosine` is that of ĝ_c and g_c.

ĝ is a function of S at every θ: whatever is made of it was in S, and `set` says what can be read off S without it.

Parts are sizes n, each kept under benchmarks/results/gradient_oracle/ with examples as npz; kept ones are not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from kept_parts import ROOT, chosen_device, keep, provenance, run_or_exit
from torch import Tensor

from attacks.gradient_matching import Gradients, Observed, cosine, gradient, stack
from attacks.inverting_gradients import Config as InversionConfig
from attacks.inverting_gradients import InvertingGradients
from attacks.record_distances import between
from fedsim import api, catalog
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.compute import Compute
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.distill.drive import condense
from fedsim.models.functional import state
from fedsim.seeding import Streams, numpy_stream
from fedsim.tasks import Fresh, central_task, network_factory

FOLDER = ROOT / "gradient_oracle"
SIZES, OTHERS, MOST = (1, 2, 4, 8, 16, 32, 64), 99, 8
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "iterations": 150, "optimiser": "adam", "lr": 0.2, "batch_real": 0},
    "dc": {"name": "dc", "iterations": 60, "optimiser": "adam", "lr": 0.2, "batch_real": 0},
}
CONDENSER = {"name": "convnet", "depth": 2, "width": 32, "norm": "instance"}
ATTACKED = {"name": "lenet_dlg"}


@dataclass(frozen=True)
class Bench:
    """What all trials share."""

    dataset: Dataset
    normalise: Normalise
    device: torch.device
    iterations: int
    """Steps of an inversion."""

    def fresh(self, model: dict[str, Any]) -> Fresh:
        """Networks of a model."""
        return network_factory(api.section("model", model), self.dataset, self.device)

    @property
    def compute(self) -> Compute:
        """How condensation is computed."""
        return Compute(
            device=str(self.device), precision="float32", compile=False, chunk=0, channels_last=False, ensemble="loop"
        )


class Cell(NamedTuple):
    """One client's records of one class: what it sent, and the question."""

    label: int
    records: Images
    """The n it held."""
    others: Images
    """Of the class, not held."""
    sets: dict[str, Images]
    """S_c of each method."""


def cells(bench: Bench, size: int, seed: int) -> list[Cell]:
    """A client with `size` records of every class, condensed by every method."""
    rng, labels = numpy_stream(seed, "oracle", size), bench.dataset.train.labels.numpy()
    drawn = {int(label): rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
    take = {label: rows[: size + OTHERS] for label, rows in drawn.items() if len(rows) > size}
    train = bench.dataset.train
    own = train.take(torch.from_numpy(np.concatenate([rows[:size] for rows in take.values()])))
    made = {name: condensed(bench, own, name, Streams(seed, ("oracle", size, name))) for name in METHODS}
    return [
        Cell(
            label, train.take(torch.from_numpy(rows[:size])), train.take(torch.from_numpy(rows[size:])),
            {name: one.take(torch.nonzero(one.labels == label)[:, 0]) for name, one in made.items()},
        )
        for label, rows in take.items()
    ]  # fmt: skip


def condensed(bench: Bench, records: Images, method: str, streams: Streams) -> Images:
    """One image per class from noise."""
    chosen: Any = api.section("method", METHODS[method] | {"ipc": 1, "init": "noise"})
    fresh = bench.fresh(CONDENSER)
    task = central_task(records, bench.dataset, bench.normalise, fresh, 1, bench.compute, streams)
    made, _ = condense(catalog.resolve("method", method)(chosen), task, chosen.iterations, streams)
    return Images(made.as_images().pixels.cpu(), made.labels.cpu())


def part(bench: Bench, size: int, seeds: int, examples: Path) -> dict[str, Any]:
    """All trials with n = `size`."""
    clients = [cells(bench, size, seed) for seed in range(seeds)]
    networks = [bench.fresh(ATTACKED)(Streams(seed, ("attacked",)).generator()).eval() for seed in range(seeds)]
    rows = [(cell, seed) for seed, client in enumerate(clients) for cell in client]
    params = stack([state(networks[seed]) for _, seed in rows])
    sent = {"fedsgd": stack([sums(bench, networks[seed], cell.records) for cell, seed in rows])}
    sent |= {name: stack([sums(bench, networks[seed], cell.sets[name]) for cell, seed in rows]) for name in METHODS}
    images = inverted(bench, networks[0], params, sent, [cell.label for cell, _ in rows], min(size, MOST), size)
    np.savez_compressed(examples, **pictures(clients[0], images))
    hits = {name: [first(near(one, cell)) for one, (cell, _) in zip(made, rows, strict=True)]
            for name, made in (images | {"other": another(images["fedsgd"], clients)}).items()}  # fmt: skip
    for name in METHODS:
        hits[f"set.{name}"] = [first(near(cell.sets[name].pixels, cell)) for cell, _ in rows]
    for name, gradients in sent.items():
        hits[f"trace.{name}"] = [
            first(trace(bench, networks[seed], {key: value[place] for key, value in gradients.items()}, cell))
            for place, (cell, seed) in enumerate(rows)
        ]
    fidelity = {name: (1 - cosine(sent[name], sent["fedsgd"])).tolist() for name in METHODS}
    among = [1 + len(cell.others) for cell, _ in rows]
    return {
        "records_per_class": size, "trials": len(rows), "inverted_images": min(size, MOST),
        "chance": float(np.mean([1 / one for one in among])), "identified": {name: share(one) for name, one in hits.items()},
        "cosine": {name: [float(np.quantile(one, q)) for q in (0.5, 0.25, 0.75)] for name, one in fidelity.items()},
    }  # fmt: skip


def sums(bench: Bench, network: Any, records: Images) -> Gradients:
    """∇_θ of the mean loss of one cell."""
    images, labels = bench.normalise(records.pixels.to(bench.device)), records.labels.to(bench.device)
    return gradient(network, state(network), images, labels, images.new_zeros(0))


def inverted(
    bench: Bench, network: Any, params: Gradients, sent: dict[str, Gradients], labels: list[int], images: int, size: int
) -> dict[str, Tensor]:
    """Images (b, s, c, h, w) in bytes from every kind of gradient, all as one batch of problems."""
    targets = {name: torch.cat([sent[kind][name] for kind in sent]) for name in sent["fedsgd"]}
    weights = {name: value.repeat(len(sent), *(1,) * (value.ndim - 1)) for name, value in params.items()}
    classes, seen = bench.dataset.num_classes, bench.dataset.image_shape
    observed = Observed(network, weights, targets, seen, classes, bench.normalise, images)
    known = torch.tensor(labels, device=bench.device).repeat(len(sent))[:, None].expand(-1, images)
    attack = InvertingGradients(InversionConfig(iterations=bench.iterations, total_variation=0.01, width=512))
    found = attack.reconstruct(observed, known, Streams(0, ("inversion", size)).generator())
    pixels = (255 * torch.nan_to_num(found.images, nan=0.5).clamp(0, 1)).round().to(torch.uint8).cpu()
    return dict(zip(sent, pixels.chunk(len(sent)), strict=True))


def another(images: Tensor, clients: list[list[Cell]]) -> Tensor:
    """The inversions of the next client, class by class, in the order of this one's."""
    return torch.roll(images, -len(clients[0]), 0)


def near(images: Tensor, cell: Cell) -> Float[np.ndarray, "m"]:
    """Minus the distance of the record and of the others to the nearest of the images."""
    candidates = torch.cat([cell.records.pixels[:1], cell.others.pixels])
    return -between(images, candidates, "standardised").amin(0).numpy()


def trace(bench: Bench, network: Any, sent: Gradients, cell: Cell) -> Float[np.ndarray, "m"]:
    """Cosine of the own gradient of the record and of the others with what was sent."""
    pixels = torch.cat([cell.records.pixels[:1], cell.others.pixels]).to(bench.device)
    weights, label = state(network), torch.tensor([cell.label], device=bench.device)

    def one(image: Tensor) -> Gradients:
        return gradient(network, weights, image[None], label, image.new_zeros(0))

    own = torch.func.vmap(one)(bench.normalise(pixels))
    return (1 - cosine(own, {name: value[None] for name, value in sent.items()})).cpu().numpy()


def first(scores: Float[np.ndarray, "m"]) -> bool:
    """Whether the record, which comes first, is above all others."""
    return bool(scores[0] > scores[1:].max())


def share(hits: list[bool]) -> list[float]:
    """Share and Clopper-Pearson's interval."""
    found = clopper_pearson(sum(hits), len(hits))
    return [round(value, 4) for value in (found.value, found.low, found.high)]


def pictures(client: list[Cell], images: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Of the first client: a record of every class, its image of each method, the first inversion of each kind."""
    shown = {"record": torch.stack([cell.records.pixels[0] for cell in client])}
    shown |= {f"set_{name}": torch.stack([cell.sets[name].pixels[0] for cell in client]) for name in METHODS}
    shown |= {f"inverted_{name}": one[: len(client), 0] for name, one in images.items()}
    return {name: one.numpy() for name, one in shown.items()}


def main() -> None:
    """The chosen sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, mnist, or an .npz of images")
    parser.add_argument("--parts", type=int, nargs="+", default=list(SIZES), help="records per class")
    parser.add_argument("--seeds", type=int, default=5, help="clients; a trial is a class of one")
    parser.add_argument("--iterations", type=int, default=1000, help="steps of an inversion")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds}: the null is another client's gradient; valid: 2 or more")
    torch.set_num_threads(1)
    device = chosen_device(given.device)
    source, file = provenance(device), Path(given.data)
    dataset = api.load("npz", path=str(file)) if file.suffix == ".npz" else api.load(given.data)
    bench = Bench(dataset, Normalise.of(dataset, dataset.train), device, given.iterations)
    FOLDER.mkdir(parents=True, exist_ok=True)
    settings = {"data": file.stem, "seeds": given.seeds, "iterations": given.iterations, "methods": METHODS}
    for size in given.parts:
        path = FOLDER / f"{file.stem}_n{size:03d}.json"
        work = lambda size=size, path=path: part(bench, size, given.seeds, path.with_suffix(".npz"))  # noqa: E731
        found = keep(path, source, settings, work)
        print({name: one[0] for name, one in found["identified"].items()}, flush=True)


if __name__ == "__main__":
    run_or_exit(main)
