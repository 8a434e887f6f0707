"""Model replacement: a client that sends weights lengthens its way until the server's average lands on its model.

    L̃ = G + γ (X − G)        then  Σ_k p_k L_k = X + Σ_{k honest} p_k (L_k − G)        for γ = 1 / p of the client
    X minimises  α ℓ(X; D′) + (1 − α) ‖X − G‖₂                      α < 1: constrain-and-scale
    γ ← min(γ, S / ‖X − G‖₂)                                        `bound`: train-and-scale

    G  the server's weights w_r    L_k  what client k sends    p_k  its share of the average    D′  as in naive.py
    γ  by default the number of clients with images over that of attackers that act: 1/p of equal shares

Near convergence the honest ways L_k − G cancel, and the model of the next round is X.

Source  Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning", AISTATS 2020, arXiv 1807.00459,
        Equation 3 (its n/η is the number of clients that are averaged), Algorithm 1 with constrain-and-scale, and
        train-and-scale.
Code    ebagdasa/backdoor_federated_learning (read, not copied): the distance is the 2-norm of all parameters; every
        entry of the model is scaled, by a constant over the number of attackers; a bound pulls back what is longer.
Differs records are poisoned once, not a number in each batch; training ends after its epochs, not at a loss; S is in
        multiples of the way of an honest training of the same client, which it can make, not an absolute length.
        Counts (integers of batch norm) are sent as they are; SCAFFOLD's control variates, too.
Reduces `scale: 1`, `alpha: 1` and no bound: naive.py, to the bit. `poison: false`: the honest client, to the bit.
Cost    none beside the honest client's; with `bound` a second training.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from attacks.evasion import check_poisoning, poisoned_upload
from attacks.poisoning import PoisoningConfig
from fedsim.data.trigger import white
from fedsim.federated.algorithms.fedavg import FedAvg
from fedsim.federated.attackers import Scene
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.models.functional import flatten
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import Params, UserError


class Config(PoisoningConfig):
    """Settings of model replacement."""

    name: Literal["model_replacement"] = "model_replacement"
    scale: float | None = Field(default=None, gt=0)
    """γ; null: clients with images over attackers that act, refused where a round may ask fewer clients and where
    another attacker of this kind is there: give it."""
    alpha: float = Field(default=1.0, gt=0, le=1)
    """α, weight of the cross-entropy; the rest is that of the distance to the server's weights."""
    bound: float | None = Field(default=None, gt=0)
    """S in lengths of the client's honest way: what is longer is sent as long as that; null: no bound."""
    train: TrainConfig | None = None
    """The attacker's own training; null: that of the algorithm."""


class ModelReplacement:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, scene: Scene) -> None:
        """Refuse algorithms whose clients send images, and what could not be done."""
        if scene.method is not None:
            raise UserError("attackers: model_replacement scales the weights that a client sends; valid where clients "
                            "do that, such as with fedavg")  # fmt: skip
        check_poisoning(self.config, scene)

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The client's own part on poisoned records, and a longer way; without poisoned records its honest part."""
        config, setting = self.config, view.setting
        if not isinstance(algorithm, FedAvg):
            raise UserError(f"model_replacement: got algorithm {type(algorithm).__name__}, which is no kind of FedAvg; "
                            "valid: fedavg, fedprox, scaffold, fednova, fedavgm, fedadam, fedyogi")  # fmt: skip
        trigger = white(setting.image_shape, config.size, config.target, config.offset)
        if not config.poison:
            return poisoned_upload(algorithm, view, broadcast, streams, config, trigger)
        upload = poisoned_upload(own(algorithm, config), view, broadcast, streams, config, trigger)
        names = setting.fresh(setting.streams.generator("template")).state_dict()  # what else is sent is no model
        start = {name: broadcast.weights[name].cpu() for name in names}
        found = {name: _sent(upload)[name] for name in names}
        scale = setting.clients / (config.active or len(config.clients)) if config.scale is None else config.scale
        if config.bound is not None:
            apart = replace(view, store=None, log=None)
            honest = _sent(algorithm.client(apart, broadcast, streams.at("honest")))
            longest = config.bound * distance({name: honest[name] for name in names}, start)
            scale = min(scale, float(longest / distance(found, start).clamp(min=torch.finfo(torch.float32).tiny)))
        return replace(upload, weights=_sent(upload) | scaled(found, start, scale))


def scaled(found: Params, start: Params, scale: float) -> Params:
    """G + γ (X − G) of every entry that is no count; X itself, to the bit, for γ = 1."""
    return {
        name: torch.lerp(start[name].double(), value.double(), scale).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in found.items()
    }


def distance(left: Params, right: Params) -> Float[Tensor, ""]:
    """‖X − G‖₂ over all entries that are no counts."""
    return (flatten(left) - flatten(right)).norm()


def own(algorithm: FedAvg, config: Config) -> FedAvg:
    """The algorithm as the attacker runs it: its own training, and near to the server's weights where α < 1."""
    other: Any = copy(algorithm)
    if config.train is not None:
        other.config = algorithm.config.model_copy(update={"local": config.train})
    if config.alpha < 1:
        plain = other.local

        def local(
            view: ClientView, start: Params, streams: Streams, adjust: Callable[[Network], None] | None = None
        ) -> tuple[Params, list[tuple[int, float]]]:
            there = {name: value.to(view.setting.device) for name, value in start.items()}

            def near(network: Network) -> None:
                if adjust is not None:
                    adjust(network)
                constrain(network, there, config.alpha)

            return plain(view, start, streams, near)

        other.local = local
    return other


@torch.no_grad()
def constrain(network: Network, start: Params, alpha: float) -> None:
    """Make the gradients of ℓ those of α ℓ + (1 − α) ‖w − w_r‖₂, in place; at w_r the norm's is taken as 0."""
    ways = {name: weight - start[name] for name, weight in network.named_parameters()}
    length = torch.stack([one.norm() for one in ways.values()]).norm()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, "every parameter is part of the logits"
        pull = ways[name] / length if length > 0 else ways[name]
        weight.grad.mul_(alpha).add_(pull, alpha=1 - alpha)


def _sent(upload: Upload) -> Params:
    assert upload.weights is not None, "FedAvg's clients send weights"
    return dict(upload.weights)
