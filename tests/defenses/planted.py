"""Networks with and without a planted backdoor, on scikit-learn's digits; made once a session."""

from __future__ import annotations

from functools import cache

import torch

from fedsim import api
from fedsim.build import network_factory
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.models.network import Network
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig, fit

TARGET = 3
TRAINING = TrainConfig(epochs=12, lr=0.05, batch_size=64)
MODEL = {"name": "mlp", "depth": 1, "width": 32}


@cache
def digits() -> Dataset:
    """1438 train, 359 test."""
    return api.load("digits")


def normalise() -> Normalise:
    """As the digits say."""
    return Normalise.of(digits(), digits().train)


def triggered(images: Images) -> Images:
    """A white patch of 2×2 in the lower right corner; labels are left as they are."""
    pixels = images.pixels.clone()
    pixels[:, :, -2:, -2:] = 255
    return Images(pixels, images.labels)


@cache
def network(seed: int, poisoned: bool) -> Network:
    """Trained on the digits; where poisoned, on 150 more with the patch and the label of the target."""
    images, streams = digits().train, Streams(seed, ("planted",))
    if poisoned:
        rows = torch.nonzero(images.labels != TARGET)[:, 0]
        chosen = images.take(rows[torch.randperm(len(rows), generator=stream(seed, "poison"))[:150]])
        bad = Images(triggered(chosen).pixels, torch.full((150,), TARGET))
        images = Images(torch.cat([images.pixels, bad.pixels]), torch.cat([images.labels, bad.labels]))
    made = network_factory(api.section("model", MODEL), digits(), torch.device("cpu"))(streams.generator("weights"))
    fit(made, images, normalise(), TRAINING, streams.generator("training"))
    return made.requires_grad_(False)


def others(count: int, first: int = 0) -> Images:
    """Clean test images that are not of the target."""
    test = digits().test
    rows = torch.nonzero(test.labels != TARGET)[:, 0]
    return test.take(rows[first : first + count])
