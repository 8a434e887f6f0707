"""DOORPING: the trigger is optimised while the set is condensed, to excite a unit that the network listens to.

    units      U = the k rows of the penultimate weight layer with the largest Σ|W|
    before     a₀ = act_U(τ₀)                 of the image that shows the trigger alone
    trigger    τ ← τ − Adam ∂/∂τ ‖act_U(τ) − α a₀‖²/k,  inside the mask, projected to the box of pixels
               where a₀ ≤ 0 the goal is a₀ + α·sd, sd the unit's deviation over the client's images
    condense   every N steps: optimise τ again, from a₀ of the trigger as it is now, stamp the poisoned records anew

Source  Liu, Li, Backes, Shen, Zhang, "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197,
        Section IV-C.
Code    liuyugeng/baadd (read, not copied): k = 1, α = 10, Adam 0.08 with β = (0.9, 0.99), at most 1000 steps, stopped
        at a loss below 0.5; the trigger is never kept in the box of pixels, and at one image per class the loop ends
        before the trigger is ever updated.
Differs act_U is, as theirs, what a hidden layer puts out before its non-linearity (`convnet_hidden` is their network);
        in a network whose last weight layer is a convolution, the mean over space of a channel of the last block's
        output. The trigger stays in the box; it is updated every N driver steps at any number of images per class;
        where the goal α a₀ would point the wrong way (a₀ ≤ 0) another is taken. The trigger of a round starts from that
        of the round before. In a federation every optimisation is on w_r, without one on a new network; theirs is on
        the network that is being trained. A client that sends weights has one network, w_r, and optimises once.
Note    in the box of pixels a small square cannot reach the goal: on the digits (2×2, ConvNet-2-16, instance norm,
        four new networks) a unit goes from 0.38 to 0.42 where 3.8 is wanted and clean images reach 0.46; without a norm
        and with `convnet_hidden` it is no better. What is left is a random square, slightly improved. Outside the box,
        where theirs is, the trigger spans thousands of grey levels and the goal is met
        (benchmarks/central_backdoors.py, part `dm_open`).
Reduces `iterations: 0` is a static random square.
Cost    `iterations` passes of one image, 1 + ⌊(T − 1)/N⌋ times, and what the method prepares (pools) as often.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from pydantic import Field
from torch import Tensor, nn

from attacks.evasion import check_poisoning, evasive
from attacks.poisoning import (
    PoisoningConfig,
    carried,
    condenser,
    known_network,
    stamped_rows,
)
from attacks.restamping import Restamping
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, noisy
from fedsim.distill.base import Task
from fedsim.federated.attackers import Scene, leave
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import UserError


class Config(PoisoningConfig):
    """Settings of DOORPING."""

    name: Literal["doorping"] = "doorping"
    units: int = Field(default=1, ge=1)
    """k: how many units of the penultimate layer are excited."""
    alpha: float = Field(default=10.0, gt=1)
    """α: how many times its first activation a unit is to reach."""
    lr: float = Field(default=0.08, gt=0)
    """Adam's step on the trigger, in network-input units."""
    iterations: int = Field(default=200, ge=0)
    """Steps of one optimisation of the trigger, at most."""
    tolerance: float = Field(default=0.5, ge=0)
    """Squared distance below which it ends."""
    every: int = Field(default=50, ge=1)
    """N: steps of the condensation between two optimisations."""


class Doorping:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, scene: Scene) -> None:
        """Refuse what could not be done."""
        check_poisoning(self.config, scene)

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The client's own part, with a trigger that follows it."""
        config, setting = self.config, view.setting
        rows = stamped_rows(view.images, config, streams.generator("poisoned"))
        first = noisy(setting.image_shape, config.size, config.target, streams.generator("trigger"), config.offset)
        before = carried(view, broadcast.round, first)
        network = known_network(setting, broadcast, streams)
        algorithm = evasive(algorithm, view, broadcast, streams, config)
        trigger = self.improved(before, network, setting.normalise, view.images)
        poisoned = replace(view, images=trigger.poison(view.images, rows))
        method = condenser(algorithm)
        if method is None:
            leave(view, trigger)
            return algorithm.client(poisoned, broadcast, streams)

        def update(current: Trigger, task: Task, turn: int) -> Trigger:
            seen = network if task.start is not None else _fresh(task, streams.generator("network", turn))
            return self.improved(current, seen, task.normalise, view.images)

        restamping = Restamping(method, view.images, rows, trigger, config.every, update)
        other: Any = copy.copy(algorithm)
        other.method = restamping
        upload = other.client(poisoned, broadcast, streams)
        leave(view, restamping.trigger)
        return upload

    def improved(
        self, trigger: Trigger, network: Network, normalise: Normalise, images: Images, *, box: bool = True
    ) -> Trigger:
        """The trigger after one optimisation on `network`; see `optimised`."""
        config = self.config
        units = loudest_units(network, config.units)
        goal = wanted(network, units, trigger, normalise, images, config.alpha)
        values = optimised(trigger, network, normalise, units, goal, config, box=box)
        return replace(trigger, values=values)


def penultimate(network: Network) -> nn.Conv2d | nn.Linear:
    """The last weight layer before the head; `UserError` where there is none."""
    layers = [one for one in network.blocks.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    if not layers:
        raise UserError("doorping: the model has no weight layer before its head; choose another model")
    return layers[-1]


def loudest_units(network: Network, count: int) -> Int64[Tensor, "u"]:
    """U: the `count` outputs of the last weight layer before the head with the largest Σ|W|.

    Raises `UserError` where the layer has fewer.
    """
    mass = penultimate(network).weight.detach().flatten(1).abs().sum(1)
    if count > len(mass):
        raise UserError(f"attackers.units: got {count}; the penultimate layer has {len(mass)}")
    return torch.topk(mass, count).indices


def activations(network: Network, inputs: Float[Tensor, "n c h w"], units: Int64[Tensor, "u"]) -> Float[Tensor, "n u"]:
    """What those units of a hidden layer put out before its non-linearity; of a convolution, the mean over space of
    those channels of the last block's output.

    Raises `UserError` for a network whose last block puts out something else than that layer's channels.
    """
    layer, seen = penultimate(network), []
    handle = layer.register_forward_hook(lambda *passed: seen.append(passed[-1]))
    try:
        last = network.features(inputs).layers[-1]
    finally:
        handle.remove()
    if isinstance(layer, nn.Linear) and seen[0].ndim == 2:
        return seen[0][:, units]
    if last.ndim < 2 or last.shape[1] <= int(units.max()):
        raise UserError("doorping: the last block of this model has no channels of its last weight layer; valid: a "
                        "network of convolutions, or mlp")  # fmt: skip
    return last.flatten(2).mean(2)[:, units] if last.ndim > 2 else last[:, units]


def alone(trigger: Trigger, inputs: Float[Tensor, "c h w"], normalise: Normalise) -> Float[Tensor, "1 c h w"]:
    """The image that shows the trigger, whose values are `inputs`, and is black elsewhere."""
    black = normalise(torch.zeros_like(trigger.values)[None].to(inputs.device))
    return torch.where(trigger.mask.to(inputs.device), inputs[None], black)


@torch.no_grad()
def wanted(
    network: Network, units: Tensor, trigger: Trigger, normalise: Normalise, images: Images, alpha: float
) -> Float[Tensor, "u"]:
    """What `beyond` says of the trigger alone."""
    device = next(network.parameters()).device
    first = activations(network, alone(trigger, normalise(trigger.values[None].to(device))[0], normalise), units)[0]
    return beyond(first, network, units, normalise, images, alpha)


@torch.no_grad()
def beyond(
    first: Float[Tensor, "u"], network: Network, units: Tensor, normalise: Normalise, images: Images, alpha: float
) -> Float[Tensor, "u"]:
    """α a₀; where a₀ ≤ 0, a₀ + α sd over up to 256 of the images."""
    device = next(network.parameters()).device
    spread = activations(network, normalise(images.pixels[:256].to(device)), units).std(0, correction=0)
    return torch.where(first > 0, alpha * first, first + alpha * spread)


def optimised(
    trigger: Trigger,
    network: Network,
    normalise: Normalise,
    units: Tensor,
    goal: Tensor,
    config: Config,
    *,
    box: bool = True,
) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
    """τ after at most `config.iterations` steps of Adam; projected to the box after each.

    Without `box` it is what the released code does: grey levels that no camera produces, as float32.
    """
    device = next(network.parameters()).device
    values = normalise(trigger.values[None].to(device))[0].requires_grad_()
    adam = torch.optim.Adam([values], lr=config.lr, betas=(0.9, 0.99))
    for _ in range(config.iterations):
        loss = (activations(network, alone(trigger, values, normalise), units)[0] - goal).square().mean()
        if float(loss.detach()) < config.tolerance:
            break
        (values.grad,) = torch.autograd.grad(loss, values)
        adam.step()
        if box:
            with torch.no_grad():
                values.copy_(normalise.project(values[None])[0])
    final = values.detach()[None]
    return (normalise.quantise(final) if box else normalise.pixels(final) * 255)[0].cpu()


def _fresh(task: Task, rng: torch.Generator) -> Network:
    """A newly initialised network of the task's architecture, apart from the one that is in use."""
    network = copy.deepcopy(task.network)
    network.reset(rng)
    return network.eval().requires_grad_(False)
