"""Gradients and updates of real images, and what an attack on them is measured against.

Images are drawn once per data set: problem p has records p·s … p·s + s − 1 of one fixed permutation, whatever else is run.
CIFAR-10 (JPEG) is the first 200 training images of each class (`cifar10_small.npz`, or the same ones out of
`cifar10.npz`), MNIST likewise, ORL all 400 faces. A record stands among up to 99 records of its class that did not enter
the gradient; of an ORL face there are nine others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gradient_parts import Part
from packed_images import decoded
from torch import Tensor, nn

from attacks.fedavg_inversion import Update
from attacks.gradient_matching import Observed, gradient, stack
from fedsim.data.sources import CIFAR10
from fedsim.data.transforms import Normalise
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import state
from fedsim.models.lenet import LeNetDLG, LeNetDLGConfig
from fedsim.models.network import Network, build_network, draw_uniform
from fedsim.privacy.owner import full_precision
from fedsim.seeding import numpy_stream, stream
from fedsim.types import UserError

SEED, PER_CLASS, OTHERS = 20, 200, 99
FILES = {"cifar10": ("cifar10_small.npz", "cifar10.npz"), "mnist": ("mnist.npz",), "orl": ("orl_faces.npz",)}
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "softplus": lambda: nn.Softplus(10.0)}


@dataclass(frozen=True)
class Pool:
    """All images that are drawn from."""

    pixels: np.ndarray
    """(n, h, w, c) bytes."""
    labels: np.ndarray
    file: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        height, width, channels = self.pixels.shape[1:]
        return channels, height, width

    def images(self, rows: np.ndarray) -> Tensor:
        """Pixels in 0..1, (…, c, h, w)."""
        return torch.from_numpy(np.moveaxis(self.pixels[rows], -1, -3)).float() / 255


@dataclass(frozen=True)
class Leaks:
    """b problems: what the attacker sees, and what it does not."""

    observed: Observed
    networks: list[Network]
    """Of each problem, or one for all."""
    pixels: Tensor
    """(b, s, c, h, w)."""
    labels: Tensor
    """(b, s)."""
    others: Tensor
    """(b, s, m, c, h, w)."""


def pool(folder: Path, data: str, shrink: int = 1) -> Pool:
    """The images of a data set in `folder`, `shrink` times smaller a side by the mean of pixels."""
    file = next((folder / name for name in FILES[data] if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"data {data}: none of {', '.join(FILES[data])} in {folder}; set --data or FEDSIM_DATA")
    with np.load(file) as held:
        splits = ("train", "test") if data == "orl" else ("train",)
        labels = np.concatenate([held[f"y_{split}"] for split in splits]).astype(np.int64)
        rows = np.arange(len(labels)) if data == "orl" else first_of_each(labels, PER_CLASS)
        if "x_train" in held:
            pixels = np.concatenate([held[f"x_{split}"] for split in splits])[rows]
        else:
            stream_, ends = held["train_jpeg"], held["train_offsets"]
            pixels = np.stack([decoded(stream_[ends[row] : ends[row + 1]].tobytes()) for row in rows])
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    if shrink > 1:
        n, height, width, channels = pixels.shape
        squares = pixels.reshape(n, height // shrink, shrink, width // shrink, shrink, channels)
        pixels = squares.mean((2, 4)).round().astype(np.uint8)
    return Pool(pixels, labels[rows], file.name)


def first_of_each(labels: np.ndarray, number: int) -> np.ndarray:
    """Rows of the first `number` records of every class, in their order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:number] for label in np.unique(labels)]))


def drawn(labels: np.ndarray, data: str, problems: Sequence[int], records: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the records, (b, s), and of the others beside each, (b, s, m)."""
    order = numpy_stream(SEED, "victims", data).permutation(len(labels))
    if records * (max(problems) + 1) > len(labels):
        raise UserError(f"images: got problem {max(problems)} of {records} records; {data} has {len(labels)} images")
    rows = np.stack([order[problem * records : (problem + 1) * records] for problem in problems])
    beside = []
    for problem, batch in zip(problems, rows, strict=True):
        rng = numpy_stream(SEED, "others", data, problem)
        beside += [rng.permutation(np.setdiff1d(np.flatnonzero(labels == labels[row]), batch)) for row in batch]
    most = min(OTHERS, *(len(one) for one in beside))
    return rows, np.stack([one[:most] for one in beside]).reshape(*rows.shape, most)


def network(part: Part, shape: tuple[int, int, int], classes: int, index: int, device: torch.device) -> Network:
    """The network of problem `index`: LeNetDLG, a new one each; or ConvNet-3, one for all, as torch draws it."""
    if part.network == "convnet":
        config = ConvNetConfig(depth=3, width=64)
        return build_network(ConvNet, config, shape, classes, stream(SEED, "convnet"), device).eval()
    made = build_network(LeNetDLG, LeNetDLGConfig(), shape, classes, stream(SEED, "network", index), device)
    for block in made.blocks:
        block[1] = ACTIVATIONS[part.network]()  # pyright: ignore[reportIndexIssue]
    rng = stream(SEED, "weights", index)
    for parameter in made.parameters():
        draw_uniform(parameter, part.bound, rng)
    return made


def leaks(part: Part, held: Pool, problems: Sequence[int], device: torch.device) -> Leaks:
    """What the clients of these problems let out, on `device`."""
    rows, beside = drawn(held.labels, part.data, problems, part.records)
    pixels, labels = held.images(rows), torch.from_numpy(held.labels[rows])
    shape, classes, shared = held.shape, int(held.labels.max()) + 1, part.network == "convnet"
    networks = [network(part, shape, classes, index, device) for index in (problems[:1] if shared else problems)]
    normalise = Normalise(CIFAR10.MEAN, CIFAR10.STD) if shared else Normalise((0.0,) * shape[0], (1.0,) * shape[0])
    inputs = normalise.inputs(pixels.flatten(0, 1)).view_as(pixels).to(device)
    local: dict[str, int | float] = part.local
    release = Update(int(local["epochs"]), int(local["batch"]), local["local_rate"]) if local else gradient
    with full_precision(), torch.no_grad():
        targets = [
            release(networks[0 if shared else at], state(networks[0 if shared else at]), images, truth, torch.zeros(0))
            for at, (images, truth) in enumerate(zip(inputs, labels.to(device), strict=True))
        ]
    params = state(networks[0]) if shared else stack([state(made) for made in networks])
    observed = Observed(networks[0], params, stack(targets), shape, classes, normalise, part.records)
    return Leaks(observed, networks, pixels, labels, held.images(beside))
