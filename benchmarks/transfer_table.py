"""How much attack capability does the release of S give? Adversarial images made on networks that saw S alone.

    python benchmarks/transfer_table.py [--data digits|mnist|cifar10_small] [--parts …] [--epsilons 8 16] [--device auto]

Victims (ConvNet, ResNet18, a small ViT) are trained on real records D. The attacker has a ConvNet of his own, trained on

    dm_ipc10, dm_ipc50            S, condensed from D by Distribution Matching from noise: what a release gives him
    random_ipc10, random_ipc50    as many random records of D, which nobody releases: the control of equal size
    real                          all of D: the most that data can give him

and makes images of test records that his ConvNet misreads, within ε/255 of them: MI-FGSM, diverse inputs, Admix, MIST
(attacks/). `random_sign` moves every pixel by ε, up or down at random: what needs no surrogate. Images are rounded to
bytes before anyone looks at them.

Success: of the test images that a network reads rightly, the share that it misreads after the attack. `white_box` is that
of the attacker's own ConvNet. Settings of the attacks are the published ones; those of training were chosen so that every
victim learns in a minute or so, before any attack.

A part is one surrogate and seed (networks, S, draws; D and the test records are always the same); kept ones are kept.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from kept_parts import ROOT, chosen, chosen_device, keep, provenance, run_or_exit, settings
from torch import Tensor
from transfer_setups import CONDENSE, SETUPS, SMALL, TEST, VICTIMS, Setup

from attacks import admix, diverse_inputs, mi_fgsm, mist
from attacks.mi_fgsm import Logits
from fedsim import api
from fedsim.build import network_factory
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.models.network import Network
from fedsim.seeding import Streams, numpy_stream
from fedsim.training.train import TrainConfig, fit

FOLDER = ROOT / "transfer"
ATTACKS: dict[str, ModuleType] = {
    "mi_fgsm": mi_fgsm, "diverse_inputs": diverse_inputs, "admix": admix, "mist": mist,
}  # fmt: skip
PARTS = ("random_sign", "dm_ipc10", "random_ipc10", "dm_ipc50", "random_ipc50", "real")
USUAL = ("random_sign", "dm_ipc10", "random_ipc10", "real")
TOGETHER = 100
"""Images attacked at once: those that Admix and MIST mix with one another."""


def loaded(name: str) -> Dataset:
    """D as `train` and 500 test records, the same for every seed; the digits are split anew, they have too few."""
    folder = Path(os.environ.get("FEDSIM_DATA", "data"))
    whole = api.load("npz", path=str(folder / f"{name}.npz")) if name == "cifar10_small" else api.load(name)
    rng = numpy_stream(0, "transfer", name)
    if name == "digits":
        every = [torch.cat([getattr(one, part) for one in (whole.train, whole.test)]) for part in ("pixels", "labels")]
        order = torch.from_numpy(rng.permutation(len(every[1])))
        images = Images(*every)
        return replace(whole, train=images.take(order[TEST:]), test=images.take(order[:TEST]))
    train, test = (torch.from_numpy(rng.permutation(len(one))) for one in (whole.train, whole.test))
    kept = train[: SETUPS[name].records]
    return replace(whole, train=whole.train.take(kept), test=whole.test.take(test[:TEST]))


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    dataset: Dataset
    setup: Setup
    device: torch.device
    victims: tuple[str, ...]
    epsilons: tuple[int, ...]
    trained: dict[int, dict[str, Network]] = field(default_factory=dict)
    """Victims of each seed that is at work."""

    @property
    def normalise(self) -> Normalise:
        """Bytes to network input."""
        return Normalise.of(self.dataset, self.dataset.train)

    def network(self, model: dict[str, Any], images: Images, how: TrainConfig, streams: Streams) -> Network:
        """A fresh network, trained; its weights ask for no gradient from then on."""
        made = network_factory(api.section("model", model), self.dataset, self.device)(streams.generator("weights"))
        fit(made, images.to(self.device), self.normalise, how, streams.generator("training"))
        return made.requires_grad_(False)

    def victims_of(self, seed: int) -> dict[str, Network]:
        """The networks under attack, trained on D once per seed."""
        if seed not in self.trained:
            self.trained.clear()
            self.trained[seed] = {
                name: self.network(
                    getattr(self.setup, name), self.dataset.train, self.setup.training[name],
                    Streams(seed, ("transfer", "victim", name)),
                )
                for name in self.victims
            }  # fmt: skip
        return self.trained[seed]

    def logits(self, network: Network) -> Logits:
        """A network as the attacks want it: of pixels in 0..1."""
        return lambda pixels: network(self.normalise.inputs(pixels))


def part(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """One surrogate of one seed against all victims."""
    judged, streams, test = dict(bench.victims_of(seed)), Streams(seed, ("transfer", name)), bench.dataset.test
    if name != "random_sign":
        images, how = data_of(bench, name, seed)
        judged["white_box"] = bench.network(bench.setup.convnet, images, how, streams.at("surrogate"))
    right = {
        one: read(bench.logits(network), test.pixels, bench.device) == test.labels for one, network in judged.items()
    }
    found: dict[str, Any] = {}
    for attack in ("random_sign",) if name == "random_sign" else ATTACKS:
        found[attack] = {}
        for epsilon in bench.epsilons:
            make = maker(bench, judged.get("white_box"), attack, epsilon / 255)
            pixels = attacked(make, test, streams.at(attack, epsilon), bench.device)
            found[attack][str(epsilon)] = {
                one: success(bench.logits(network), test, pixels, right[one], bench.device)
                for one, network in judged.items()
            }
    accuracy = {one: int(rows.sum()) / len(test) for one, rows in right.items()}
    return {"surrogate": name, "seed": seed, "images": len(test), "accuracy": accuracy, "success": found}


def data_of(bench: Bench, name: str, seed: int) -> tuple[Images, TrainConfig]:
    """What the surrogate is trained on, and how."""
    dataset, setup = bench.dataset, bench.setup
    if name == "real":
        return dataset.train, setup.training["convnet"]
    method, _, ipc = name.partition("_ipc")
    more = CONDENSE if method == "dm" else {}
    compute = {"device": str(bench.device)}
    made = api.distill(dataset, method, model=setup.convnet, seed=seed, compute=compute, ipc=int(ipc), **more)
    return made.as_images().to(torch.device("cpu")), SMALL


def maker(
    bench: Bench, surrogate: Network | None, attack: str, epsilon: float
) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
    """From pixels in 0..1, classes and randomness to attacked pixels."""
    if surrogate is None:
        return lambda pixels, _, rng: (
            pixels + epsilon * (2 * torch.randint(0, 2, pixels.shape, generator=rng).to(pixels) - 1)
        ).clamp(0, 1)
    module, logits = ATTACKS[attack], bench.logits(surrogate)
    config = module.Config(epsilon=epsilon)
    return lambda pixels, labels, rng: module.attack(logits, pixels, labels, config, rng)


def attacked(make: Callable[..., Tensor], test: Images, streams: Streams, device: torch.device) -> Tensor:
    """Attacked test images, a hundred at a time, as bytes."""
    found = []
    for number, rows in enumerate(torch.arange(len(test)).split(TOGETHER)):
        batch = test.take(rows).to(device)
        pixels = make(batch.pixels / 255, batch.labels, streams.generator(number))
        found.append((255 * pixels).round().to(torch.uint8).cpu())
    return torch.cat(found)


@torch.no_grad()
def read(logits: Logits, pixels: Tensor, device: torch.device) -> Tensor:
    """The class that a network reads in every image (bytes)."""
    return torch.cat([logits(one.to(device) / 255).argmax(1).cpu() for one in pixels.split(TOGETHER)])


def success(logits: Logits, test: Images, attacked: Tensor, right: Tensor, device: torch.device) -> list[int]:
    """[misread after the attack, of those rightly read before]."""
    wrong = read(logits, attacked[right], device) != test.labels[right]
    return [int(wrong.sum()), int(right.sum())]


def asked(bench: Bench) -> dict[str, Any]:
    """Every setting that changes the numbers of the parts, so that a stale one is found."""
    setup = bench.setup
    condense = settings(api.section("method", {"name": "dm", **CONDENSE}))
    attacks = {name: settings(module.Config()) for name, module in ATTACKS.items()}
    return {
        "data": bench.dataset.name, "victims": list(bench.victims), "epsilons": list(bench.epsilons),
        "records": len(bench.dataset.train), "test": len(bench.dataset.test), "together": TOGETHER,
        "condense": {name: value for name, value in condense.items() if name != "ipc"},
        "models": {name: settings(api.section("model", getattr(setup, name))) for name in VICTIMS},
        "training": {name: settings(one) for name, one in setup.training.items()}, "small": settings(SMALL),
        "attacks": {name: {key: value for key, value in one.items() if key != "epsilon"} for name, one in attacks.items()},
    }  # fmt: skip


def main() -> None:
    """The chosen parts of the chosen seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=tuple(SETUPS), default="digits")
    parser.add_argument("--parts", nargs="+", default=list(USUAL), help=f"beginnings of {', '.join(PARTS)}")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--epsilons", type=int, nargs="+", default=[8, 16, 32, 64], help="of 255")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = chosen_device(given.device)
    source, parts = provenance(device), chosen(PARTS, given.parts)
    bench = Bench(loaded(given.data), SETUPS[given.data], device, tuple(given.victims), tuple(given.epsilons))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for name in parts:
            path = FOLDER / f"{given.data}_s{seed}_{name}.json"
            keep(path, source, asked(bench), lambda name=name, seed=seed: part(bench, name, seed))


if __name__ == "__main__":
    run_or_exit(main)
