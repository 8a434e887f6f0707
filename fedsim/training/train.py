"""The one supervised loop: SGD on labelled images, for servers, clients and evaluations alike.

The loss is the cross-entropy −Σ_c q_c log p_c: q is one-hot for a hard label, else the soft label of the image; images
with weights count by them (data/weights.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data import rates as schedule
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment, draw
from fedsim.data.cutmix import Config as CutMixConfig
from fedsim.data.cutmix import cutmix
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.weights import weighted
from fedsim.models.execution import AS_WRITTEN, Execution, Runner
from fedsim.models.network import Network
from fedsim.types import UserError


class TrainConfig(Section):
    """Settings of one supervised training; the defaults are the condensation papers' evaluation.

    Their released code trains one epoch more and forgets the momentum when the learning rate drops; this does neither.
    """

    epochs: int = Field(default=300, ge=1)
    """Passes over the images."""
    lr: float = Field(default=0.01, gt=0)
    """Step size of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty."""
    batch_size: int = Field(default=256, ge=1)
    """Images per step; a smaller last batch is used as it is."""
    schedule: Literal["step", "constant"] = "step"
    """`step`: the learning rate drops to a tenth after half the epochs."""
    augment: DSAConfig | None = None
    """DSA on every batch, parameters drawn per image (not siamese); one operation per batch."""
    cutmix: CutMixConfig | None = None
    """CutMix after that on some of the batches, which also mixes their labels; null: none."""


def epochs_like(config: TrainConfig, count: int, like: int) -> TrainConfig:
    """The training of `count` images that takes as many steps as this one of `like` images, to a rounded epoch."""
    steps = config.epochs * math.ceil(like / config.batch_size)
    return config.model_copy(update={"epochs": max(1, round(steps / math.ceil(count / config.batch_size)))})


def fit(
    network: Network,
    images: Images,
    normalise: Normalise,
    config: TrainConfig,
    rng: torch.Generator,
    *,
    execution: Execution = AS_WRITTEN,
    progress: Callable[[int, float], bool | None] | None = None,
    adjust: Callable[[Network], None] | None = None,
    first: int = 0,
    size: int | None = None,
) -> float:
    """Train `network` in place and return the mean loss of the last epoch.

    `images` lie on the network's device. A batch is passed through in pieces as `execution` says; gradients add up to
    those of the whole batch, except under batch norm, which always sees it whole. `progress(epoch, loss)` is called
    after every epoch and ends the training by returning True; `adjust(network)` may change a batch's gradient before
    its step. `rng` is on the CPU. Epochs before `first`, from 0, count as done, for the schedule alone. An epoch is
    `size` images, by default all: sets of different sizes can take the same steps. No image is a `UserError`.
    """
    runner, optimiser = Runner(network.train(), execution), _sgd(network, config)
    device, number = images.pixels.device, _some(images)
    loss, orders = torch.zeros((), device=device), _shuffled(number, size or number, rng)
    for epoch in range(first, config.epochs):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, epoch)
        loss = torch.zeros((), device=device)
        for rows in next(orders).split(config.batch_size):
            inputs, targets = seen(network, images.take(rows.to(device)), normalise, config, rng)
            optimiser.zero_grad()
            loss += _backward(runner, inputs, targets) * len(rows)
            if adjust is not None:
                adjust(network)
            optimiser.step()
        loss /= size or number
        if progress is not None and progress(epoch + 1, float(loss)) is True:
            break
    network.eval()
    return float(loss)


def _some(images: Images) -> int:
    """How many images there are."""
    if not len(images):
        raise UserError("training: got a set of no image; valid: at least one; give images, or leave this training out")
    return len(images)


def follow(network: Network, images: Images, normalise: Normalise, *, execution: Execution = AS_WRITTEN) -> float:
    """Train `network` in place by the steps that were learned with `images` (data/rates.py); return the last loss.

    Plain SGD, no augmentation and nothing random: `images.rates` must be there.
    """
    assert images.rates is not None
    runner, optimiser = Runner(network, execution), torch.optim.SGD(network.parameters(), lr=0.0)
    network.train()
    parts = [images.take(rows) for rows in schedule.parts(images.labels, images.rates.shape[1])]
    loss = torch.zeros((), device=images.pixels.device)
    for rates in images.rates.tolist():
        for rate, part in zip(rates, parts, strict=True):
            if len(part):
                optimiser.param_groups[0]["lr"] = rate
                optimiser.zero_grad()
                loss = _backward(runner, normalise(part.pixels), part.targets)
                optimiser.step()
    network.eval()
    return float(loss)


def _shuffled(count: int, size: int, rng: torch.Generator) -> Iterator[Int64[Tensor, "size"]]:
    """The rows of one epoch after another: the next `size` of permutations of `count` rows, each begun when needed."""
    rows = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=rng)])
        yield rows[:size]
        rows = rows[size:]


def _sgd(network: Network, config: TrainConfig) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """η of an epoch, from 0."""
    return config.lr * 0.1 if config.schedule == "step" and epoch >= math.ceil(config.epochs / 2) else config.lr


Targets = Int64[Tensor, "n"] | Float[Tensor, "n k"]
"""Classes, or a row of probabilities of each."""


def seen(
    network: Network, batch: Images, normalise: Normalise, config: TrainConfig, rng: torch.Generator
) -> tuple[Float[Tensor, "n c h w"], Targets]:
    """What `network` learns from a batch: its images augmented and perhaps mixed, and what they stand for."""
    inputs = augmented(normalise(batch.pixels), config.augment, rng)
    targets, classes = batch.targets, network.head.out_features
    if batch.weights is not None:
        targets = weighted(targets, batch.weights, classes)
    if config.cutmix is None or float(torch.rand((), generator=rng)) >= config.cutmix.probability:
        return inputs, targets
    return cutmix(inputs, targets, classes, rng, config.cutmix.beta)


def augmented(
    batch: Float[Tensor, "n c h w"], config: DSAConfig | None, rng: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """The batch after one random operation, its parameters drawn per image."""
    if config is None:
        return batch
    draws = draw(config, len(batch), rng, one_operation=True)
    return augment(batch, torch.arange(len(batch), device=batch.device), draws, config)


def _backward(runner: Runner, batch: Float[Tensor, "n c h w"], labels: Targets) -> Float[Tensor, ""]:
    """Accumulate the gradient of the batch's mean cross-entropy, piece by piece; return that mean."""
    total = torch.zeros((), device=batch.device)
    size = runner.rows(len(batch))
    for inputs, targets in zip(batch.split(size), labels.split(size), strict=True):
        loss = F.cross_entropy(runner.logits(inputs), targets, reduction="sum") / len(batch)
        loss.backward()
        total += loss.detach()
    return total


@torch.no_grad()
def accuracy(
    network: Network, images: Images, normalise: Normalise, *, batch: int = 256, execution: Execution = AS_WRITTEN
) -> float:
    """Share of `images` whose class has the largest logit, 0..1."""
    found = predictions(network, images, normalise, batch=batch, execution=execution)
    return int((found == images.labels.to(found.device)).sum()) / len(images)


@torch.no_grad()
def predictions(
    network: Network, images: Images, normalise: Normalise, *, batch: int = 256, execution: Execution = AS_WRITTEN
) -> Int64[Tensor, "n"]:
    """The class with the largest logit, on the network's device."""
    network.eval()
    runner, device = Runner(network, execution), next(network.parameters()).device
    return torch.cat([runner.logits(normalise(one.to(device))).argmax(1) for one in images.pixels.split(batch)])
