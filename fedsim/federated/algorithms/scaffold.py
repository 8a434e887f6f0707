"""SCAFFOLD: every local step is corrected by what the clients' gradients are on average, less what the client's own is.

    ClientUpdate(i, x, c):                                     Server:
      y ← x                                                      x ← x + (η_g / |S|) Σ_{i ∈ S} (y_i − x)
      for k = 1 … K                                              c ← c + (1 / N) Σ_{i ∈ S} Δc_i
        y ← y − η_l (g_i(y) − c_i + c)
      c_i⁺ ← ∇F_i(x)                        option I
             c_i − c + (x − y) / (K η_l)    option II
      Δc_i ← c_i⁺ − c_i,   c_i ← c_i⁺

    x, y    server's and client's parameters      c, c_i  control variates, 0 at first; c_i is the client's memory
    g_i     gradient of a batch, ∇F_i of all      S, N    clients of the round, and of the federation
    η_l, η_g  step sizes of client and server     K       local steps

Source  Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning", ICML 2020, arXiv 1910.06378, Algorithm 1.
Code    none read.
Differs y_i travels, not y_i − x. K is E epochs, so it depends on n_i. The step size may drop (`local.schedule`): K η_l
        is the sum of the steps' sizes. Buffers (batch norm) have no control variate and are averaged. Clients weigh the
        same whatever their n_i, as in the paper and other than in FedAvg. A client keeps c_i⁺ when it has made its
        upload; if that is lost or refused, c misses a Δc_i. Weight decay is part of option II's c_i⁺, which is read off
        the way, and not of option I's, a gradient of the loss.
Reduces K = 1 step of the whole batch and everyone every round, η_g = 1: gradient descent on the mean of the F_i.
Cost    twice FedAvg's bytes both ways; option I costs a client one more pass over its images. The server holds four
        models; a client keeps one per round on disk, under `transcript: none` two in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.distill.cost import Passes
from fedsim.federated.algorithms import fedavg
from fedsim.federated.base import Broadcast, ClientView, ServerState, Setting, Upload, network_with
from fedsim.models.execution import Runner
from fedsim.models.functional import trainable_names
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, learning_rate
from fedsim.types import Params

CONTROL = "control."
"""How the names of control variates begin on the wire, beside those of weights."""


class Config(fedavg.Config):
    """Settings of SCAFFOLD: those of FedAvg and these."""

    name: Literal["scaffold"] = "scaffold"  # pyright: ignore[reportIncompatibleVariableOverride]
    option: Literal["I", "II"] = "II"
    """How a client's control variate is renewed: I, its full gradient at the server's weights; II, the mean of the
    gradients of its local steps."""
    server_lr: float = Field(default=1.0, gt=0)
    """η_g, step size of the server."""

    @model_validator(mode="after")
    def _plain_steps(self) -> Config:
        if self.local.momentum > 0:
            raise ValueError(
                f"local.momentum={self.local.momentum}: control variates are gradients only where steps are plain SGD; "
                "give local.momentum=0"
            )
        return self


def corrected(
    gradient: Float[Tensor, "*weight"], own: Float[Tensor, "*weight"], server: Float[Tensor, "*weight"]
) -> Float[Tensor, "*weight"]:
    """g_i(y) − c_i + c."""
    return gradient - own + server


def mean_gradient(
    own: Float[Tensor, "*weight"],
    server: Float[Tensor, "*weight"],
    start: Float[Tensor, "*weight"],
    end: Float[Tensor, "*weight"],
    travelled: float,
) -> Float[Tensor, "*weight"]:
    """Option II: c_i − c + (x − y) / (K η_l); `travelled` is K η_l."""
    return own - server + (start - end) / travelled


def full_gradient(setting: Setting, view: ClientView, weights: Params, batch: int) -> Params:
    """Option I: ∇F_i(x), `batch` images at a time, which a batch norm normalises by themselves."""
    network, images = network_with(setting, weights), view.images.to(setting.device)
    runner = Runner(network, setting.execution)
    network.train()
    for rows in torch.arange(len(images), device=setting.device).split(runner.rows(batch)):
        part = images.take(rows)
        loss = F.cross_entropy(runner.logits(setting.normalise(part.pixels)), part.targets, reduction="sum")
        (loss / len(images)).backward()
    return {name: weight.grad.cpu() for name, weight in network.named_parameters() if weight.grad is not None}


def travelled(config: TrainConfig, images: int) -> float:
    """K η_l: the sum of the step sizes of a client with that many images."""
    steps = math.ceil(images / config.batch_size)
    return steps * sum(learning_rate(config, epoch) for epoch in range(config.epochs))


class Scaffold(fedavg.FedAvg):
    """Both halves of SCAFFOLD."""

    Config = Config

    def __init__(self, config: Config, method: None, method_config: None, server: None) -> None:
        super().__init__(config, method, method_config, server)
        self.option, self.server_lr = config.option, config.server_lr

    def init(self, setting: Setting) -> ServerState:
        """A new initialisation; c = 0."""
        first = super().init(setting)
        names = trainable_names(setting.fresh(setting.streams.generator("template")))
        return replace(first, memory={name: torch.zeros_like(first.weights[name], device="cpu") for name in names})

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """(x, c) to everyone."""
        return dict.fromkeys(clients, Broadcast(state.round + 1, _joined(state.weights, state.memory)))

    def client(self, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """K corrected steps from x, then a new c_i."""
        setting = view.setting
        start, server = _parted(broadcast.weights)
        own = view.memory or {name: torch.zeros_like(value) for name, value in server.items()}
        there = {name: (own[name].to(setting.device), server[name].to(setting.device)) for name in server}

        def adjust(network: Network) -> None:
            for name, weight in network.named_parameters():
                assert weight.grad is not None, "every parameter is part of the logits"
                weight.grad = corrected(weight.grad, *there[name])

        end, losses = self.local(view, start, streams, adjust)
        if self.option == "I":
            renewed = full_gradient(setting, view, start, self.config.local.batch_size)
        else:
            way = travelled(self.config.local, len(view.images))
            renewed = {name: mean_gradient(own[name], server[name], start[name], end[name], way) for name in server}
        change = {name: renewed[name] - own[name] for name in server}
        weights = _joined(end, change)
        return Upload(view.client, broadcast.round, len(view.images), weights=weights, losses=losses, memory=renewed)

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """x moves by η_g times the mean way of the clients, c by their share of the federation."""
        alike = (replace(upload, examples=1) for upload in uploads)
        means, losses = fedavg.average(_joined(state.weights, state.memory), alike)
        end, change = _parted(means)
        weights = dict(end)
        for name in state.memory:
            start = state.weights[name].cpu()
            weights[name] = start + self.server_lr * (end[name] - start)
        share = len(uploads) / setting.clients
        control = {name: value + share * change[name] for name, value in state.memory.items()}
        metrics = {"client_loss": sum(losses) / len(losses) if losses else 0.0}
        return ServerState(state.round + 1, weights, control), metrics

    def uploaded(self, setting: Setting) -> Params | None:
        """A model and the change of a control variate."""
        first = self.init(setting)
        return _joined(first.weights, first.memory)

    def passes(self, counts: Sequence[Tensor]) -> tuple[Passes, Passes]:
        """E epochs over every client's images, and under option I one pass more."""
        extra = 1 if self.option == "I" else 0
        return Passes(training=(self.config.local.epochs + extra) * sum(int(one.sum()) for one in counts)), Passes()


def _joined(weights: Params, control: Params) -> Params:
    return {**weights, **{f"{CONTROL}{name}": value for name, value in control.items()}}


def _parted(tensors: Params) -> tuple[Params, Params]:
    """Weights and control variates of what travelled together."""
    weights = {name: value for name, value in tensors.items() if not name.startswith(CONTROL)}
    return weights, {name[len(CONTROL) :]: tensors[name] for name in tensors if name.startswith(CONTROL)}
