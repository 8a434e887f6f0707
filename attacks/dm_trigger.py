"""A trigger made for distribution matching: stamped images are to have the mean embedding of the target class.

    τ = argmin  E_{w ~ P(w_r)} ‖ mean_i ψ_w(x_i ⊕ τ)  −  mean_j ψ_w(x_j) ‖²       x_i of other classes, x_j of class t

Distribution matching asks synthetic images of class t for the mean embedding of class t. Stamped images that share it
change nothing of what is asked for, but for the trigger: the set learns that the trigger goes with the class.

Source  fedsim's own, in the terms of Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023,
        Equation 4; the threat is that of "Backdoor Attacks Against Dataset Distillation", NDSS 2023.
Code    none.
Differs nothing to differ from.
Reduces `iterations: 0` is a static random square.
Cost    `iterations` × `networks` passes, forward and backward, of 2 × `batch` images a round; a round starts from the
        trigger of the round before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from attacks.evasion import check_poisoning, poisoned_upload
from attacks.poisoning import PoisoningConfig, carried, known_network
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, noisy
from fedsim.federated.attackers import Scene
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import UserError


class Config(PoisoningConfig):
    """Settings of the trigger."""

    name: Literal["dm_trigger"] = "dm_trigger"
    networks: int = Field(default=4, ge=1)
    """Networks around the server's weights, drawn once."""
    radius: float = Field(default=0.1, ge=0)
    """Length of the perturbation as a share of ‖w_r‖."""
    batch: int = Field(default=64, ge=2)
    """Images of other classes, and of the target, that the means are over."""
    lr: float = Field(default=0.1, gt=0)
    """Adam's step on the trigger, in network-input units."""
    iterations: int = Field(default=60, ge=0)
    """Steps of the optimisation."""


class DMTrigger:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, scene: Scene) -> None:
        """Refuse what could not be done."""
        check_poisoning(self.config, scene)
        for client, labels in scene.labels.items():
            if not bool((labels == self.config.target).any()):
                raise UserError(
                    f"attackers: client {client} holds no image of class {self.config.target}, whose mean dm_trigger "
                    "aims at; choose another client or target"
                )

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The client's own part, on records stamped with the trigger of this round."""
        config, setting = self.config, view.setting
        first = noisy(setting.image_shape, config.size, config.target, streams.generator("trigger"), config.offset)
        networks = [
            perturbed(known_network(setting, broadcast, streams), config.radius, streams.generator("around", number))
            for number in range(config.networks)
        ]
        before = carried(view, broadcast.round, first)
        trigger = replace(before, values=matched(before, networks, setting.normalise, view.images, config, streams))
        return poisoned_upload(algorithm, view, broadcast, streams, config, trigger)


@torch.no_grad()
def perturbed(network: Network, radius: float, rng: torch.Generator) -> Network:
    """The network, in place, with normal noise of length radius · ‖w‖ added to its weights."""
    weights = list(network.parameters())
    noise = [torch.randn(one.shape, generator=rng).to(one.device) for one in weights]
    length = torch.stack([one.norm() for one in weights]).norm()
    scale = radius * length / torch.stack([one.norm() for one in noise]).norm()
    for weight, one in zip(weights, noise, strict=True):
        weight.add_(scale * one)
    return network


def mean_distance(network: Network, stamped: Float[Tensor, "n c h w"], goal: Float[Tensor, "d"]) -> Float[Tensor, ""]:
    """‖ mean ψ(stamped) − goal ‖²."""
    return (network.embed(stamped).mean(0) - goal).square().sum()


def matched(
    trigger: Trigger, networks: list[Network], normalise: Normalise, images: Images, config: Config, streams: Streams
) -> UInt8[Tensor, "c h w"]:
    """τ after the steps, projected to the box after each; `UserError` where the client holds nothing of the target."""
    device, mask = next(networks[0].parameters()).device, trigger.mask
    theirs, others = (torch.nonzero(one).flatten() for one in (
        images.labels == config.target, images.labels != config.target
    ))  # fmt: skip
    if not len(theirs) or not len(others):
        raise UserError(f"dm_trigger: the client holds {len(theirs)} images of class {config.target} and {len(others)} "
                        "others; valid: some of each; choose another client or target")  # fmt: skip
    rng = streams.generator("batches")
    with torch.no_grad():
        own = normalise(images.pixels[_some(theirs, config.batch, rng)].to(device))
        goals = [network.embed(own).mean(0) for network in networks]
    values = normalise(trigger.values[None].to(device))[0].requires_grad_()
    adam = torch.optim.Adam([values], lr=config.lr)
    for _ in range(config.iterations):
        inputs = normalise(images.pixels[_some(others, config.batch, rng)].to(device))
        stamped = torch.where(mask.to(device), values, inputs)
        loss = sum((mean_distance(*one) for one in zip(networks, [stamped] * len(goals), goals, strict=True)),
                   start=values.new_zeros(()))  # fmt: skip
        (values.grad,) = torch.autograd.grad(loss / len(networks), values)
        adam.step()
        with torch.no_grad():
            values.copy_(normalise.project(values[None])[0])
    return normalise.quantise(values.detach()[None])[0].cpu()


def _some(rows: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=rng)[:count]]
