"""Robust aggregation in gradient space: each client's gradient on its synthetic set, and a rule's vector of all.

    clients upload sets      g_k = ∇ (1/|B_k|) Σ_{(x, y) ∈ B_k} ℓ(w; x, y),   B_k ⊆ S_k
                             w ← step(w, rule(g_1 … g_K))         at every step of the server's training
    clients upload weights   w_{r+1} = server(w_r + rule(w_1 − w_r … w_K − w_r))         once a round

    ℓ     cross-entropy      step  SGD with the server's momentum, weight decay and learning rates
    server  the algorithm's own, as if one client had sent that: FedAvg takes it, FedAdam steps by it

A server that holds the sets can take their gradients at any w, as often as it trains; one that is sent weights applies
a rule once, to ways of many steps. Medians of pixels mean nothing, hence gradients.

Source  aggregation_rules.py for the rules; on gradients of uploaded sets they are this project's.
Code    none read.
Differs the papers have one gradient of each client in a round. Steps and learning rates are those of the server's
        training: ⌈n / batch_size⌉ steps an epoch for n images in all. `rows: all` takes B_k = S_k at each, `rows:
        batch` ⌈|S_k| / steps⌉ images, each epoch in a new order. DSA and CutMix are drawn for each client's batch.
        Buffers (batch norm) of uploaded weights are part of the vectors; with sets they are refused.
        The number of images that a client of FedAvg states is not checked by anyone: a liar weighs more under
        `shares: size`. Sets are limited by the agreed number of images a class.
Reduces `mean`, `shares: size`, `rows: all` and a batch that holds all images: the server's own training, to rounding;
        for weights: the algorithm's own server, to rounding.
        `score` is for attackers that know of the rule (attacks/evasion.py): ‖g_k − m‖ in medians of all clients', m the
        median of every coordinate, at w_r; each of these rules counts what is far from the others for less.
Cost    sets: `rows: all` steps × all images, `batch` as the server's training; K gradients in memory and the rule at
        every step. Weights: K models in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from defenses import aggregation_rules as rules
from defenses.mean_gradients import mean_gradient, put_gradient
from defenses.suspicion import median as middle
from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.distill.class_gradients import second_order
from fedsim.federated.base import Algorithm, ServerState, Setting, Upload, network_with
from fedsim.federated.defences import Sends
from fedsim.federated.upload_rows import Rows
from fedsim.models.execution import Runner
from fedsim.models.functional import flatten, has_batch_norm, state, trainable_names, unflatten
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, learning_rate, seen
from fedsim.types import Params, UserError

UNFIT = {
    "scaffold": "it sends control variates beside weights, which are no ways of a client",
    "fednova": "it divides each client's way by its own number of steps",
}
"""Algorithms on weights whose server needs every client's upload, and why."""


class Config(Section):
    """Settings of robust aggregation."""

    name: Literal["robust_aggregation"] = "robust_aggregation"
    rule: rules.Rule = "multi_krum"
    """What is made of the clients' vectors."""
    malicious: int = Field(default=1, ge=0)
    """f, clients that may lie; of use to trimmed_mean (2f < K) and the Krums (2f + 2 < K)."""
    keep: int | None = Field(default=None, ge=1)
    """m of multi_krum; null: K − f."""
    clip: float = Field(default=1.0, gt=0)
    """c of norm_clip: the bound in medians of the norms."""
    shares: Literal["size", "equal"] = "size"
    """What a client counts for under mean and norm_clip: its images (real ones where weights are sent), or the same."""
    rows: Literal["all", "batch"] = "all"
    """Images of a set that are used at each step."""


class RobustAggregation:
    """In the place of the server's training on sets, or before the server's average of weights."""

    Config = Config
    sends: ClassVar[Sends] = "any"
    differentiable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, algorithm: Algorithm, network: Network, clients: int) -> None:
        """Too few clients; an algorithm that the rule does not fit."""
        rules.require(self.config.rule, clients, self.config.malicious)
        own = cast(Any, algorithm).config
        name = getattr(own, "name", type(algorithm).__name__)
        if algorithm.method_defaults is not None:
            if not hasattr(algorithm, "train_on"):
                raise UserError(f"robust_aggregation: algorithm {name} has no train_on, whose place is to be taken; "
                                "valid: feddm, fedmk, one_shot")  # fmt: skip
            if getattr(own, "generator", None) is not None:
                raise UserError("robust_aggregation: the images of algorithm.generator belong to no client; give "
                                "algorithm.generator: null")  # fmt: skip
            if has_batch_norm(network):
                raise UserError("robust_aggregation: the running statistics of a batch norm are averages that no rule "
                                "protects; choose another model.norm")  # fmt: skip
        elif name in UNFIT:
            raise UserError(f"robust_aggregation: algorithm {name}: {UNFIT[name]}; valid: fedavg, fedprox, fedavgm, "
                            "fedadam, fedyogi")  # fmt: skip

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """How far each client's gradient is from the others', 1 in the middle; differentiable in the rows' pixels."""
        runner = Runner(network_with(setting, weights).train(), setting.execution)
        places = uploads.owners.unique().tolist()
        own = [uploads.take(uploads.owners == place) for place in places]
        with torch.enable_grad():  # by the weights, whether or not the rows ask for one
            found = [second_order(runner, one.inputs, one.targets) for one in own]
        vectors = torch.stack([torch.cat([part.flatten() for part in one.values()]) for one in found])
        away = (vectors - rules.median(vectors)).square().sum(1)
        scores = away.new_full((len(uploads.clients),), torch.nan)
        return scores.index_put((torch.tensor(places, device=away.device),), (away / middle(away)).sqrt())

    def aggregate(
        self, algorithm: Algorithm, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams,
        *, left_out: int = 0,
    ) -> tuple[ServerState, dict[str, float]]:  # fmt: skip
        """The algorithm's own server, with another training or another average; what else it remembers stays.

        Uploads that filters left out count as liars that were found: f is lower by them, and where the rest are too few
        for the rule the server keeps its model (`defence.robust_aggregation.too_few` is logged).
        """
        if left_out:
            f = max(0, self.config.malicious - left_out)
            if len(uploads) < rules.needed(self.config.rule, f):
                few = {"defence.robust_aggregation.too_few": float(len(uploads))}
                return replace(state, round=state.round + 1), few
            keep = min(self.config.keep, len(uploads)) if self.config.keep else None
            rest = RobustAggregation(self.config.model_copy(update={"malicious": f, "keep": keep}))
            return rest.aggregate(algorithm, setting, state, uploads, streams)
        if algorithm.method_defaults is None:
            return self._of_weights(algorithm, setting, state, uploads, streams)
        sizes = [(one.client, _size(one)) for one in uploads]
        own: Any = copy(algorithm)
        own.train_on = partial(self._train, own.train, sizes, int(getattr(own, "formation", 1)))
        return own.server(setting, state, uploads, streams)

    def _of_weights(
        self, algorithm: Algorithm, setting: Setting, before: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        start = {name: value.cpu() for name, value in before.weights.items()}
        first, ways, clients, counts, last = flatten(start), [], [], [], []
        for upload in uploads:
            assert upload.weights is not None, "the contract refuses an upload without weights"
            ways.append(flatten(upload.weights) - first)
            clients.append(upload.client)
            counts.append(upload.examples)
            last += [upload.losses[-1][1]] if upload.losses else []
        way, used = self._combined(torch.stack(ways), counts)
        losses = [(1, sum(last) / len(last))] if last else []
        whole = replace(uploads[0], weights=unflatten(first + way, start), examples=sum(counts), losses=losses)
        following, metrics = algorithm.server(setting, before, [whole], streams)
        return following, metrics | _told(clients, used)

    def _combined(self, vectors: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The rule's vector, and what each client's counts for in it."""
        config = self.config
        sizes = torch.tensor(counts, dtype=torch.float64) if config.shares == "size" else torch.ones(len(counts))
        shares = (sizes / sizes.sum()).to(vectors)
        return rules.combine(vectors, shares, config.rule, config.malicious, config.keep, config.clip)

    def _train(
        self, train: TrainConfig, sizes: Sequence[tuple[int, int]], formation: int,
        setting: Setting, before: ServerState, images: Images, streams: Streams,
    ) -> tuple[ServerState, dict[str, float]]:  # fmt: skip
        """In the place of FedDM.train_on: `images` are those of the clients of `sizes`, one after another."""
        assert sum(size for _, size in sizes) == len(images), "check refuses images that are no client's"
        filled = [(client, size) for client, size in sizes if size > 0]
        clients, counts = [client for client, _ in filled], [size for _, size in filled]
        images = images.to(setting.device)
        places = torch.arange(len(images), device=setting.device).split(counts)
        runner = Runner(network_with(setting, before.weights).train(), setting.execution)
        loss, used = self._descend(runner, [images.take(one) for one in places], train, setting, streams.generator())
        weights = {name: value.cpu() for name, value in state(runner.network).items()}
        names = trainable_names(runner.network)
        step = float(
            (flatten({n: weights[n] for n in names}) - flatten({n: before.weights[n].cpu() for n in names})).norm()
        )
        metrics = {"server_loss": loss, "synthetic_images": len(images) / formation**2, "step": step}
        return ServerState(before.round + 1, weights), metrics | _told(clients, used)

    def _descend(
        self, runner: Runner, sets: Sequence[Images], train: TrainConfig, setting: Setting, rng: torch.Generator
    ) -> tuple[float, Tensor | None]:
        """All steps, in place; the mean loss of the last epoch, and what each client counted for, on average."""
        optimiser = torch.optim.SGD(
            runner.network.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        counts = [len(one) for one in sets]
        steps, loss, used = math.ceil(sum(counts) / train.batch_size), 0.0, []
        for epoch in range(train.epochs):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(train, epoch)
            orders, loss = [torch.randperm(count, generator=rng) for count in counts], 0.0
            for step in range(steps):
                parts = [self._part(one, order, step, steps) for one, order in zip(sets, orders, strict=True)]
                pairs = [seen(runner.network, part, setting.normalise, train, rng) for part in parts]
                found = [mean_gradient(runner, inputs, targets) for inputs, targets in pairs]
                vector, share = self._combined(torch.stack([gradient for gradient, _ in found]), counts)
                put_gradient(runner, vector)
                optimiser.step()
                used += [share] if share is not None else []
                losses = zip(found, counts, strict=True)
                loss += sum(value * count for (_, value), count in losses) / sum(counts) / steps
            if setting.progress is not None:
                setting.progress("server", epoch + 1, train.epochs, f"loss {loss:.4f}")
        runner.network.eval()
        return loss, torch.stack(used).mean(0) if used else None

    def _part(self, images: Images, order: Tensor, step: int, steps: int) -> Images:
        """The images of one client at one step; a set with fewer images than an epoch has steps begins again."""
        if self.config.rows == "all":
            return images
        each = math.ceil(len(order) / steps)
        places = torch.arange(step * each, (step + 1) * each) % len(order)
        return images.take(order[places].to(images.pixels.device))


def _size(upload: Upload) -> int:
    assert upload.synthetic is not None, "the contract refuses an upload without a set"
    return len(upload.synthetic) * upload.synthetic.formation**2


def _told(clients: Sequence[int], used: Tensor | None) -> dict[str, float]:
    """What each client counted for, as metrics of the round."""
    if used is None:
        return {}
    return {f"defence.robust_aggregation.share.{one}": value for one, value in zip(clients, used.tolist(), strict=True)}
