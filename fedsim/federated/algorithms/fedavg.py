"""FedAvg: clients train the server's weights on their own images; the server averages what they send.

    ClientUpdate(k, w_r):  w_k ← E epochs of SGD on D_k from w_r          Server:  w_{r+1} = Σ_k (n_k / Σ_j n_j) w_k

    n_k  images of client k      E  local epochs

Source  McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
        Decentralized Data", AISTATS 2017, arXiv 1602.05629, Algorithm 1.
Code    none needed; the tests hold the average against Flower's own.
Differs integer buffers (batch counters of batch norm) are averaged and rounded; the sum is kept in float64.
        Under `privacy` clients train by dp_sgd.py, and the average is uniform: how many images there are is private.
Reduces one client: ordinary SGD.
Cost    per round E passes over every client's images; the uplink is the model, whatever the data. The server holds two
        models in float64 and one upload, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from fedsim.config import Section
from fedsim.distill.cost import Passes
from fedsim.federated.base import Broadcast, ClientView, ServerState, Setting, Upload, network_with
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, fit
from fedsim.types import Params


class Config(Section):
    """Settings of FedAvg."""

    name: Literal["fedavg"] = "fedavg"
    local: TrainConfig = TrainConfig(
        epochs=1, lr=0.05, momentum=0.0, weight_decay=0.0, batch_size=64, schedule="constant"
    )
    """Training at a client: E is `local.epochs`."""


def average(like: Params, uploads: Iterable[Upload]) -> tuple[Params, list[float]]:
    """Σ_k (n_k / Σ_j n_j) w_k in the types of `like`, and the last loss of each client that logged one.

    The sum is kept in float64 and one upload is in memory at a time; integer entries are rounded.
    """
    sums = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in like.items()}
    total, losses = 0, []
    for upload in uploads:
        assert upload.weights is not None, "the contract refuses an upload without weights"
        for name, value in upload.weights.items():
            sums[name].add_(value.double(), alpha=upload.examples)
        total += upload.examples
        losses += [upload.losses[-1][1]] if upload.losses else []
    means = {name: value / total for name, value in sums.items()}
    rounded = {name: value if like[name].is_floating_point() else value.round() for name, value in means.items()}
    return {name: value.to(like[name].dtype) for name, value in rounded.items()}, losses


class FedAvg:
    """Both halves of FedAvg."""

    Config = Config
    rounds: ClassVar[int | None] = None
    sends_weights: ClassVar[bool] = True
    method_defaults: ClassVar[Mapping[str, Any] | None] = None
    server_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Config, method: None, method_config: None, server: TrainConfig | None) -> None:
        self.config = config

    def init(self, setting: Setting) -> ServerState:
        """A new initialisation."""
        return ServerState(0, state(setting.first_network()))

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """w_r to everyone."""
        return dict.fromkeys(clients, Broadcast(state.round + 1, state.weights))

    def client(self, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """E epochs from w_r; under privacy noisy steps, and neither how many images there are nor their losses."""
        if view.setting.privacy is not None:
            return Upload(view.client, broadcast.round, 1, weights=self._private(view, broadcast))
        weights, losses = self.local(view, broadcast.weights, streams)
        return Upload(view.client, broadcast.round, len(view.images), weights=weights, losses=losses)

    def _private(self, view: ClientView, broadcast: Broadcast) -> Params:
        """What `privacy: dp_sgd` releases for this broadcast; asked for again, the same (privacy/ledger.py)."""
        setting, agreed = view.setting, cast(Any, view.setting.privacy)
        question = f"dp_sgd {broadcast.round} {broadcast.sha256}"
        source = agreed.noise(setting.streams.at("privacy", view.client))(question)
        ledger = agreed.ledger(view.store.parent if view.store is not None else None)
        network, images = network_with(setting, broadcast.weights), view.images.to(setting.device)
        return agreed.weights(network, images, setting.normalise, self.config.local, question, source, ledger)

    def local(
        self, view: ClientView, start: Params, streams: Streams, adjust: Callable[[Network], None] | None = None
    ) -> tuple[Params, list[tuple[int, float]]]:
        """w_k, E epochs from `start`, and the loss of each; `adjust` may change a batch's gradient before its step."""
        setting = view.setting
        network = network_with(setting, start)
        losses: list[tuple[int, float]] = []

        def log(epoch: int, loss: float) -> None:
            losses.append((epoch, loss))
            if view.log is not None:
                view.log(epoch, {"loss": loss})

        fit(
            network,
            view.images.to(setting.device),
            setting.normalise,
            self.config.local,
            streams.generator("train"),
            execution=setting.execution,
            progress=log,
            adjust=adjust,
        )
        return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}, losses

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """The average, weighted by the number of images."""
        weights, losses = average(state.weights, uploads)
        known = {"client_loss": float(torch.tensor(losses).mean())} if losses else {}
        return ServerState(state.round + 1, weights), known

    def work(self) -> int:
        """Local epochs."""
        return self.config.local.epochs

    def budget(self, setting: Setting) -> int:
        """No images are uploaded."""
        return 0

    def uploaded(self, setting: Setting) -> Params | None:
        """A model."""
        return self.init(setting).weights

    def passes(self, counts: Sequence[Tensor]) -> tuple[Passes, Passes]:
        """E epochs over every client's images; averaging passes none."""
        return Passes(training=self.config.local.epochs * sum(int(one.sum()) for one in counts)), Passes()
