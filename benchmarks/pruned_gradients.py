"""Gradients of which a client sends the largest entries alone: what iDLG names, and how well a network trains by them.

identification   a reconstruction is nearer to its own record than to all others of the class beside it; LeNet with
                 sigmoids, weights U(−0.5, 0.5): the inversion's best case (attacks/README.md)
accuracy         FedSGD: five clients, each sends the pruned gradient of a batch at every step; the server steps by their mean
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gradient_cases import Pool, leaks
from gradient_measures import finite
from gradient_parts import Part

from attacks.labels import sign_rule
from defenses.gradient_pruning import Config, pruned, pruned_release
from fedsim import api
from fedsim.audit.gradients import GradientRelease
from fedsim.audit.image_distances import identified, mean_squared_error
from fedsim.data.images import Dataset
from fedsim.data.transforms import Normalise
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.network import build_network
from fedsim.seeding import numpy_stream, stream
from fedsim.training.train import accuracy

KEEP = (1.0, 0.5, 0.1, 0.01)
"""Shares of each tensor's entries that are sent."""
ATTACK = {"problems": 10, "iterations": 150, "restarts": 1, "tolerance": 1e-6}
Entries = Literal["all", "sent"]
ENTRIES: tuple[Entries, ...] = ("all", "sent")
"""What the attacker matches of a gradient; with `sent` it knows that it was pruned."""
TRAINING = {"clients": 5, "batch": 16, "steps": 200, "lr": 0.1, "depth": 2, "width": 16}


def loaded(data: dict[str, Any]) -> Dataset:
    """The images of a run's `data` section."""
    return api.load(data["name"], **{key: value for key, value in data.items() if key == "path"})


def attacked(
    data: dict[str, Any], share: float, seed: int, device: torch.device, entries: Entries = "all"
) -> dict[str, Any]:
    """What iDLG makes of so many gradients, a record and a network each.

    Records are of the seed; the networks and their weights are the same ten in every seed (gradient_cases.py draws them from
    streams of its own), so that seeds together are not as many independent cases.
    """
    train = loaded(data).train
    order = numpy_stream(seed, "pruned_gradients", "pool").permutation(len(train))
    held = Pool(train.pixels[order].permute(0, 2, 3, 1).numpy(), train.labels[order].numpy(), data["name"])
    search = {key: ATTACK[key] for key in ("iterations", "restarts", "tolerance")}
    part = Part("iDLG on pruned gradients", "idlg", search | {"entries": entries}, data="digits")
    problems = list(range(int(ATTACK["problems"])))
    truth = leaks(part, held, problems, device)
    seen = pruned_release(GradientRelease(truth.observed.params, truth.observed.targets, 1), Config(share=share))
    observed = replace(truth.observed, targets=dict(seen.gradients))
    found = part.attacker(len(problems)).reconstruct(observed, None, stream(seed, "pruned_gradients", "attack"))
    images, true, others = finite(found.images.float().cpu())[:, 0], truth.pixels[:, 0], truth.others[:, 0]
    read = sign_rule(observed.targets["head.weight"]).cpu() == truth.labels[:, 0]
    return {
        "records": len(images), "beside": others.shape[1], "identified": int(identified(images, true, others).sum()),
        "chance": int(identified(images.roll(1, 0), true, others).sum()), "labels": int(read.sum()),
        "mse": float(mean_squared_error(images, true).median()),
    }  # fmt: skip


def accuracy_of(data: dict[str, Any], share: float, seed: int, device: torch.device) -> float:
    """Test accuracy after FedSGD by pruned gradients; nothing that was dropped is sent later."""
    dataset, rng = loaded(data), stream(seed, "pruned_gradients", "training")
    config = ConvNetConfig(depth=int(TRAINING["depth"]), width=int(TRAINING["width"]))
    shape, classes, normalise = dataset.image_shape, dataset.num_classes, Normalise.of(dataset, dataset.train)
    network = build_network(ConvNet, config, shape, classes, rng, device)
    weights, train = list(network.parameters()), dataset.train.to(device)
    shares = torch.randperm(len(train), generator=rng).chunk(int(TRAINING["clients"]))
    for _ in range(int(TRAINING["steps"])):
        sums = [torch.zeros_like(one) for one in weights]
        for own in shares:
            rows = own[torch.randint(len(own), (int(TRAINING["batch"]),), generator=rng)].to(device)
            loss = F.cross_entropy(network(normalise(train.pixels[rows])), train.labels[rows])
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total.add_(pruned(gradient, share))
        with torch.no_grad():
            for weight, total in zip(weights, sums, strict=True):
                weight.sub_(total, alpha=TRAINING["lr"] / len(shares))
    return accuracy(network.eval(), dataset.test.to(device), normalise)
