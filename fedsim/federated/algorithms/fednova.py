"""FedNova: the way each client went is divided by how many steps it took before the server averages.

    client:  w_i ← τ_i local steps from w_r,     w_r − w_i = η G_i a_i     (G_i: its gradients, one column a step)
    server:  w_{r+1} = w_r − τ_eff Σ_i p_i (w_r − w_i) / ‖a_i‖₁,     τ_eff = Σ_i p_i ‖a_i‖₁

    a_i  weight of each gradient in the way:  1, …, 1                                        plain SGD,   ‖a_i‖₁ = τ_i
                                              (1 − β^τ_i)/(1 − β), …, (1 − β²)/(1 − β), 1    momentum β
    p_i  n_i / Σ_j n_j over the clients of the round      η  first step size      τ_i = E_i ⌈n_i / batch⌉

Source  Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
        Optimization", NeurIPS 2020, arXiv 2007.07481 (the update and both a_i from memory, hence no numbers).
Code    none read.
Differs ‖a_i‖₁ does not travel: the server computes it from n_i, which every upload states, and public settings, E_i
        among them (`budgets`). A step size that drops (`local.schedule: step`) is part of a_i. Weight decay counts as
        part of the gradient, as the L2 penalty it is. The paper's proximal and adaptive local solvers are left out.
        Buffers (batch norm) are averaged as in FedAvg.
Reduces equal numbers of steps: FedAvg.
Cost    that of FedAvg.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from fedsim.federated.algorithms import fedavg
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.budgets import scaled_local
from fedsim.models.functional import trainable_names
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, learning_rate
from fedsim.types import Params


class Config(fedavg.Config):
    """Settings of FedNova: those of FedAvg."""

    name: Literal["fednova"] = "fednova"  # pyright: ignore[reportIncompatibleVariableOverride]


def steps(config: TrainConfig, images: int) -> int:
    """τ_i: the local steps of a client with that many images."""
    return config.epochs * math.ceil(images / config.batch_size)


def normaliser(config: TrainConfig, images: int) -> float:
    """‖a_i‖₁: how far, in units of η, SGD with momentum goes along a gradient of one.

    A whole epoch of m steps at a time, v_j = β v_{j−1} + 1, so that a client that claims many images costs no time.
    """
    beta, count = config.momentum, math.ceil(images / config.batch_size)
    series = (1 - beta**count) / (1 - beta)  # 1 + β + … + β^(m−1)
    velocity, way = 0.0, 0.0
    for epoch in range(config.epochs):
        rate = learning_rate(config, epoch) / config.lr
        way += rate * (velocity * beta * series + (count - beta * series) / (1 - beta))
        velocity = velocity * beta**count + series
    return way


def normalised(start: Params, uploads: Iterable[Upload], lengths: Iterable[float], names: Sequence[str]) -> Params:
    """w_r − τ_eff Σ_i p_i (w_r − w_i) / ‖a_i‖₁ of the entries `names`; `lengths` are the ‖a_i‖₁.

    Sums are kept in float64 and one upload is in memory at a time.
    """
    ways = {name: torch.zeros(start[name].shape, dtype=torch.float64) for name in names}
    images, effective = 0, 0.0
    for upload, length in zip(uploads, lengths, strict=True):
        assert upload.weights is not None, "the contract refuses an upload without weights"
        for name, way in ways.items():
            way.add_(start[name].cpu().double() - upload.weights[name].double(), alpha=upload.examples / length)
        images += upload.examples
        effective += upload.examples * length
    scale = effective / images / images
    return {name: (start[name].cpu().double() - scale * way).to(start[name].dtype) for name, way in ways.items()}


class FedNova(fedavg.FedAvg):
    """FedAvg's clients and a server that normalises their ways."""

    Config = Config

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """The normalised average of the parameters; buffers are averaged as in FedAvg."""
        average, metrics = super().server(setting, state, uploads, streams)
        names = trainable_names(setting.fresh(setting.streams.generator("template")))
        work = [(scaled_local(self.config, setting.scale(one.client)).local, one.examples) for one in uploads]
        lengths = (normaliser(local, images) for local, images in work)
        weights = average.weights | normalised(state.weights, uploads, lengths, names)
        taken = [steps(local, images) for local, images in work]
        metrics |= {"fewest_steps": min(taken), "most_steps": max(taken)}
        return ServerState(average.round, weights), metrics
