"""FedAvg: clients train the server's weights on their own images; the server averages what they send.

    ClientUpdate(k, w_r):  w_k ← E epochs of SGD on D_k from w_r          Server:  w_{r+1} = Σ_k (n_k / Σ_j n_j) w_k

    n_k  images of client k      E  local epochs

Source  McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
        Decentralized Data", AISTATS 2017, arXiv 1602.05629, Algorithm 1.
Code    the average is Flower's own (`flwr.serverapp.strategy`), Apache-2.0.
Differs integer buffers (batch counters of batch norm) are averaged and rounded.
Reduces one client: ordinary SGD.
Cost    per round E passes over every client's images; the uplink is the model, whatever the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from fedsim.config import Section
from fedsim.federated.base import Broadcast, ClientView, ServerState, Setting, Upload, network_with
from fedsim.models.functional import state
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, fit


class Config(Section):
    """Settings of FedAvg."""

    name: Literal["fedavg"] = "fedavg"
    local: TrainConfig = TrainConfig(
        epochs=1, lr=0.05, momentum=0.0, weight_decay=0.0, batch_size=64, schedule="constant"
    )
    """Training at a client: E is `local.epochs`."""


class FedAvg:
    """Both halves of FedAvg."""

    Config = Config
    method_defaults: ClassVar[Mapping[str, Any] | None] = None
    server_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: Config, method: None, method_config: None, server: TrainConfig | None) -> None:
        self.config = config

    def init(self, setting: Setting) -> ServerState:
        """A new initialisation."""
        return ServerState(0, state(setting.fresh(setting.streams.generator("server", "init"))))

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """w_r to everyone."""
        return dict.fromkeys(clients, Broadcast(state.round + 1, state.weights))

    def client(self, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """E epochs from w_r."""
        setting = view.setting
        network = network_with(setting, broadcast.weights)
        losses: list[tuple[int, float]] = []

        def log(epoch: int, loss: float) -> None:
            losses.append((epoch, loss))
            if view.log is not None:
                view.log(epoch, {"loss": loss})

        images = view.images.to(setting.device)
        generator = streams.generator("train")
        fit(
            network,
            images,
            setting.normalise,
            self.config.local,
            generator,
            chunk=setting.chunk,
            progress=log,
        )
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        return Upload(view.client, broadcast.round, len(view.images), weights=weights, losses=losses)

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """The average, weighted by the number of images."""
        records = [
            RecordDict(
                {
                    "weights": ArrayRecord.from_torch_state_dict(upload.weights or {}),
                    "metrics": MetricRecord({"examples": upload.examples}),
                }
            )
            for upload in uploads
        ]
        averaged = aggregate_arrayrecords(records, "examples").to_torch_state_dict()
        weights = {
            name: (averaged[name] if old.is_floating_point() else averaged[name].round()).to(old.dtype)
            for name, old in state.weights.items()
        }
        last = [upload.losses[-1][1] for upload in uploads if upload.losses]
        loss = float(torch.tensor(last).mean()) if last else 0.0
        return ServerState(state.round + 1, weights), {"client_loss": loss}

    def work(self) -> int:
        """Local epochs."""
        return self.config.local.epochs

    def budget(self, setting: Setting) -> int:
        """No images are uploaded."""
        return 0
