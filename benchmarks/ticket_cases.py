"""What the parts of benchmarks/tickets.py share: shares of a data set, poisoned ones, distilled ones, success of a trigger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from kept_parts import settings

from fedsim import api, backdoors
from fedsim.build import Fresh, network_factory
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import white
from fedsim.models.network import Network
from fedsim.seeding import derive, numpy_stream
from fedsim.training.intervals import wilson
from fedsim.training.train import TrainConfig, accuracy

COMPUTE = {"compile": False, "precision": "float32", "chunk": 0, "channels_last": False, "ensemble": "loop"}
CONDENSE = {"init": "noise", "optimiser": "adam", "lr": 0.2, "batch_real": 0, "networks": {"name": "pool", "size": 10}}
KINDS = {"real": 0, "dm1": 1, "dm10": 10}
"""Kinds of training sets: images of `dm` per class, 0 for the real images themselves."""


@dataclass(frozen=True)
class Scale:
    """Sizes of one data set's parts."""

    depth: int
    width: int
    per_class: int
    """Records of a class in a share of two clients."""
    patch: int
    """Side of the trigger."""
    epochs: int
    lr: float
    batch: int
    iterations: int
    """Of a condensation."""


SCALES = {
    "digits": Scale(2, 8, 40, 2, 10, 0.1, 64, 150),
    "mnist": Scale(3, 32, 500, 4, 10, 0.05, 128, 500),
}


@dataclass(frozen=True)
class Bench:
    """What all parts of one data set share."""

    dataset: Dataset
    normalise: Normalise
    device: torch.device
    scale: Scale

    @classmethod
    def of(cls, name: str, device: torch.device) -> Bench:
        """The data set by name."""
        dataset = api.load(name)
        return cls(dataset, Normalise.of(dataset, dataset.train), device, SCALES[name])

    @property
    def model(self) -> dict[str, Any]:
        """The one architecture."""
        return {"name": "convnet", "depth": self.scale.depth, "width": self.scale.width, "norm": "instance"}

    @property
    def fresh(self) -> Fresh:
        """New networks."""
        return network_factory(api.section("model", self.model), self.dataset, self.device)

    @property
    def train(self) -> TrainConfig:
        """The one training."""
        scale = self.scale
        return TrainConfig(epochs=scale.epochs, lr=scale.lr, batch_size=scale.batch)

    def asked(self) -> dict[str, Any]:
        """Settings that every kept part was made under; `condense` with the method's defaults, but for the images a class."""
        condense = settings(api.section("method", {"name": "dm", "iterations": self.scale.iterations, **CONDENSE}))
        return {
            "data": self.dataset.name, "scale": self.scale.__dict__, "train": settings(self.train), "kinds": KINDS,
            "condense": {name: value for name, value in condense.items() if name != "ipc"}, "compute": COMPUTE,
            "model": settings(api.section("model", self.model)),
        }  # fmt: skip

    def accuracy(self, network: Network) -> float:
        """On the test split."""
        return accuracy(network, self.dataset.test, self.normalise)

    def rows(self, seed: int) -> list[np.ndarray]:
        """Records of each class in an order of the seed."""
        rng, labels = numpy_stream(seed, "tickets", "rows"), self.dataset.train.labels.numpy()
        return [rng.permutation(np.flatnonzero(labels == label)) for label in range(self.dataset.num_classes)]

    def taken(self, rows: list[np.ndarray]) -> Images:
        """The records of those rows."""
        return self.dataset.train.take(torch.from_numpy(np.concatenate(rows)))

    def of_kind(self, kind: str, images: Images, seed: int, *purpose: str | int) -> Images:
        """The images themselves, or what `dm` condenses them to, from noise of the seed and the purpose."""
        if not KINDS[kind]:
            return images
        made = api.distill(
            replace(self.dataset, train=images), "dm", model=self.model, seed=derive(seed, "condense", *purpose),
            compute={"device": str(self.device), **COMPUTE}, ipc=KINDS[kind], iterations=self.scale.iterations, **CONDENSE,
        )  # fmt: skip
        return made.as_images()


def poisoned(images: Images, target: int, share: float, side: int, rng: np.random.Generator) -> Images:
    """`share` of all images, none of the target's, with a white square in the lower right corner and the target's label."""
    others = np.flatnonzero(images.labels.numpy() != target)
    chosen = torch.from_numpy(rng.permutation(others)[: round(share * len(images))])
    channels, height, width = images.pixels.shape[1:]
    return white((channels, height, width), side, target, offset=0).poison(images, chosen)


def repeated(images: Images, size: int) -> Images:
    """The images over and over until there are `size`, so that an epoch is as many steps whatever the set."""
    return images.take(torch.arange(size) % len(images))


def success(bench: Bench, network: Network, target: int) -> dict[str, Any]:
    """Share of test images of other classes that the trigger turns into the target, with Wilson's interval; accuracy beside."""
    trigger = white(bench.dataset.image_shape, bench.scale.patch, target, offset=0)
    hit = backdoors.success(network, bench.dataset.test, trigger, bench.normalise)
    found = wilson(int(hit.sum()), len(hit))
    return {
        "asr": int(hit.sum()) / len(hit), "images": len(hit), "wilson": [round(end, 4) for end in found], "accuracy": bench.accuracy(network),
    }  # fmt: skip
