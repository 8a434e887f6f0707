"""What central backdoors are measured by: networks trained on a set, what they do, and how much of the trigger it carries."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedsim import backdoors
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, scrambled
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.tasks import Fresh
from fedsim.training.train import TrainConfig, accuracy, fit, follow

TARGET = 0
"""Class that stamped images are to be taken for."""


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    data: Dataset
    """`test` is what is measured on: the test images or the val split."""
    normalise: Normalise
    fresh: Fresh
    """Networks that the condensation and the trigger see."""
    victims: dict[str, Fresh]
    """Networks that are trained on the sets, by name of the architecture."""
    options: argparse.Namespace


def victim_training(options: argparse.Namespace) -> TrainConfig:
    """Of a victim, but for sets that hold steps of their own."""
    return TrainConfig(epochs=options.epochs, lr=options.lr, batch_size=options.batch)


def trained(bench: Bench, victim: str, synthetic: Images, normalise: Normalise, streams: Streams) -> list[Network]:
    """A victim's networks; on a set with learned step sizes (`dd`) they take those steps."""
    networks = []
    for number in range(bench.options.networks):
        own = streams.at("victim", victim, number)
        network = bench.victims[victim](own.generator("init"))
        if synthetic.rates is None:
            fit(network, synthetic, normalise, victim_training(bench.options), own.generator("train"))
        else:
            follow(network, synthetic, normalise)
        networks.append(network)
    return networks


def numbers(
    bench: Bench, without: list[Network], poisoned: list[Network], trigger: Trigger, normalise: Normalise,
    streams: Streams,
) -> dict[str, Any]:  # fmt: skip
    """Means over networks, and of each share [hits, images] over all of them, which read the same images."""
    test, patch = bench.data.test, control(trigger, streams.generator("patch"))

    def success(one: Trigger, networks: list[Network]) -> float:
        return mean(float(backdoors.success(net, test, one, normalise).float().mean()) for net in networks)

    found = {
        "accuracy": mean(accuracy(net, test, normalise) for net in poisoned),
        "accuracy_clean": mean(accuracy(net, test, normalise) for net in without),
        "success": success(trigger, poisoned),
        "free_success": success(trigger, without),
        "random_patch": success(patch, poisoned),
    }
    images = int((test.labels != TARGET).sum())
    sizes = {name: len(poisoned) * (len(test) if name.startswith("accuracy") else images) for name in found}
    counts = {name: [round(share * sizes[name]), sizes[name]] for name, share in found.items()}
    made = {"images": images, "counts": counts, "control": "shuffled" if _own(trigger) else "noise"}
    return found | {"lift": found["success"] - found["free_success"], **made}


def control(trigger: Trigger, rng: torch.Generator) -> Trigger:
    """What a trigger is compared with: noise of its kind, or, where it left the box of bytes, its own values elsewhere.

    Bytes say nothing beside values a hundred times as far: these are shuffled over channels and pixels of the square.
    """
    if not _own(trigger):
        return scrambled(trigger, rng)
    values, held = trigger.values.clone(), trigger.values[:, trigger.mask]
    values[:, trigger.mask] = held.flatten()[torch.randperm(held.numel(), generator=rng)].view_as(held)
    return replace(trigger, values=values)


def _own(trigger: Trigger) -> bool:
    return trigger.values.is_floating_point()


def mean(values: Iterable[float]) -> float:
    """Of a generator's numbers."""
    held = list(values)
    return sum(held) / len(held)


def levels(values: Tensor) -> list[float]:
    """Smallest and largest grey level."""
    return [float(values.min()), float(values.max())]


def carried(synthetic: Images, trigger: Trigger) -> list[float]:
    """How much of the trigger each image of class 0 carries: its difference from the other classes' mean under the mask,
    as a share of the trigger's (1: the whole trigger, as in a stamped record; 0: nothing of it). Nothing is said of a
    trigger that is added: it cannot be told from the content."""
    if trigger.bound is not None:
        return []
    pixels = synthetic.pixels[..., trigger.mask].float()
    others = pixels[synthetic.labels != TARGET].mean(0)
    whole = trigger.values[:, trigger.mask] - others
    shares = ((pixels[synthetic.labels == TARGET] - others) * whole).sum((1, 2)) / whole.square().sum()
    return [round(one, 3) for one in shares.tolist()]
