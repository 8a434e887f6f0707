"""FedDM: clients condense their data around the server's weights; the server trains on the union of what they send.

    Server executes:                                        ClientUpdate(k, w_r):
      for each round r = 1 … R                                S_k ← noise (or real images)
        for client k = 1 … K                                  for t = 0 … T − 1
          S_k ← ClientUpdate(k, w_r)                            w ~ P_w(w_r)
        w_{r+1} ← SGD on ∪_k S_k, from w_r, step η_s            L = Σ_c ‖ mean h_w(B_c^D) − mean h_w(B_c^S) ‖²
                                                                      + ‖ mean z_w(B_c^D) − mean z_w(B_c^S) ‖²
                                                                S_k ← S_k − η_c ∇ L

    h_w, z_w  embedding and logits of the network w     P_w(w_r)  Gaussian around w_r, kept in a ball of radius ρ
    D, S      a client's real and synthetic images      B_c       a batch of class c, over the classes the client holds

Source  Xiong, Wang, Cheng, Yu, Hsieh, "FedDM: Iterative Distribution Matching for Communication-Efficient Federated
        Learning", CVPR 2023, arXiv 2207.09653, Algorithm 1, Equations 8 (client) and 9 (server).
Code    none by the authors was found; anonymifish/fed-distribution-matching (a re-implementation, no licence) was read
        ρ = 5, 1000 iterations, ipc 10, server SGD 0.01 / 0.9 / 5e-4, batch 256, 500 epochs; equation numbers as there.
Differs condensation is any method of the catalog (`method`), by default `dm` with the settings below; a class of n_c
        images gets min(ipc, n_c) synthetic ones, so that an upload never outnumbers its data; the set travels in bytes;
        the perturbation is scaled back to the ball, not redrawn (networks.py); the server's learning rate drops to a
        tenth after half the epochs unless `server.schedule: constant`. Beside its set a client reveals its number of
        images, its loss every 25 steps and, through min(ipc, n_c), the sizes of its smallest classes.
        Under `privacy` it reveals none of the three (distribution/private_dm.py).
Reduces `method: random` is the control that uploads real images; one client, R = 1 is Distribution Matching around w_0.
Cost    per round T condensation steps at every client and the server's epochs over Σ_k |S_k| images, which the server
        holds as bytes; uploads are mapped one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.distill.base import Distiller, Task
from fedsim.distill.cohort import condense_together
from fedsim.distill.cost import Passes
from fedsim.distill.drive import condense
from fedsim.distill.pool import radius_of
from fedsim.distill.real import Real, RealImages
from fedsim.federated.base import Broadcast, ClientView, ServerState, Setting, Upload, network_with
from fedsim.federated.previous import received, sampled
from fedsim.models.functional import flatten, state, trainable_names
from fedsim.privacy.observed import LOOKS, ObservedOwner
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, fit
from fedsim.types import Params


class Config(Section):
    """FedDM has no settings beside those of `method` and `server`."""

    name: Literal["feddm"] = "feddm"


class Sets(Sequence[SyntheticSet]):
    """The synthetic sets of lazy uploads, as lazy as these."""

    def __init__(self, uploads: Sequence[Upload]) -> None:
        self._uploads = uploads

    def __len__(self) -> int:
        return len(self._uploads)

    @overload
    def __getitem__(self, index: int) -> SyntheticSet: ...
    @overload
    def __getitem__(self, index: slice) -> Sets: ...
    def __getitem__(self, index: int | slice) -> SyntheticSet | Sets:
        if isinstance(index, slice):
            return Sets(self._uploads[index])
        synthetic = self._uploads[index].synthetic
        assert synthetic is not None, "the contract refuses an upload without a set"
        return synthetic


class FedDM:
    """Both halves of FedDM."""

    Config: type[Section] = Config
    rounds: ClassVar[int | None] = None
    sends_weights: ClassVar[bool] = True
    method_defaults: ClassVar[Mapping[str, Any] | None] = {
        "name": "dm",
        "match": ["embedding", "logits"],
        "iterations": 1000,
        "networks": {"name": "perturb", "radius": {"absolute": 5.0}},
    }

    server_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 500}

    def __init__(self, config: Section, method: Distiller, method_config: Any, server: TrainConfig) -> None:
        self.config = config
        self.method = method
        self.method_config = method_config
        self.train = server

    def init(self, setting: Setting) -> ServerState:
        """w_1: a new initialisation."""
        return ServerState(0, state(setting.first_network()))

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """w_r to everyone, and images of the round before where they are asked for."""
        return dict.fromkeys(clients, Broadcast(state.round + 1, state.weights, state.memory))

    def client(self, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """ClientUpdate(k, w_r): condense the classes that are there."""
        task = self._tasks([view], broadcast)[0]
        synthetic, history = condense(
            self.method, task, self.work(), streams,
            store=view.store, checkpoint_every=view.checkpoint_every, log=view.log,
        )  # fmt: skip
        if view.setting.privacy is not None:  # neither how many images there are nor how well they were matched
            return Upload(view.client, broadcast.round, 1, synthetic=synthetic)
        return _upload(view, broadcast, synthetic, history)

    @property
    def together(self) -> bool:
        """Whether all clients of a round match under the same networks."""
        return bool(getattr(getattr(self.method_config, "networks", None), "shared", False))

    def clients(self, views: Sequence[ClientView], broadcast: Broadcast, streams: Sequence[Streams]) -> list[Upload]:
        """ClientUpdate of several clients in one pass (`distill/cohort.py`); the first keeps their half-done state."""
        first = views[0]
        found = condense_together(
            self.method,
            self._tasks(views, broadcast),
            self.work(),
            streams,
            store=first.store,
            checkpoint_every=first.checkpoint_every,
            log=first.log,
        )
        return [_upload(view, broadcast, *one) for view, one in zip(views, found, strict=True)]

    def _tasks(self, views: Sequence[ClientView], broadcast: Broadcast) -> list[Task]:
        """One task each; template and weights are the same tensors in all."""
        setting = views[0].setting
        runner = setting.runner()
        start = {name: value.to(setting.device) for name, value in broadcast.weights.items()} or None
        shared = setting.streams.at("round", broadcast.round, "networks") if self.together else None
        return [
            Task(
                real=owner,
                budget=budget,
                runner=runner,
                normalise=setting.normalise,
                classes=setting.classes,
                start=start,
                device=setting.device,
                shared=shared,
                previous=received(setting, broadcast),
            )
            for owner, budget in (self._owner(view) for view in views)
        ]

    def _owner(self, view: ClientView) -> tuple[Real, Tensor]:
        """The client's images, and how many synthetic ones each class gets; under privacy that is no secret."""
        setting, privacy, ipc = view.setting, view.setting.privacy, int(self.method_config.ipc)
        how = (len(setting.classes), setting.normalise, setting.device)
        if privacy is None:
            owner = RealImages(view.images, *how)
            return owner, owner.counts.clamp(max=ipc)
        folder = view.store.parent if view.store is not None else None
        terms = (privacy.mechanism, privacy.noise(setting.streams.at("privacy", view.client)), privacy.ledger(folder))
        budget = torch.full((len(setting.classes),), ipc)
        if view.planted is None or folder is None:
            return PrivateImages(view.images, *how, *terms), budget
        return ObservedOwner(view.planted, *how, *terms, setting.streams.at("canaries"), folder / LOOKS), budget

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """w_{r+1}: train w_r on the union of the uploads."""
        images = union(Sets(uploads))
        trained, metrics = self.train_on(setting, state, images, streams)
        return replace(trained, memory=sampled(setting, images, streams.generator("previous"))), metrics

    def train_on(
        self, setting: Setting, state: ServerState, images: Images, streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """The state after the server's epochs on `images`."""
        network = network_with(setting, state.weights)

        def log(epoch: int, loss: float) -> None:
            if setting.progress is not None:
                setting.progress("server", epoch, self.train.epochs, f"loss {loss:.4f}")

        loss = fit(
            network,
            images.to(setting.device),
            setting.normalise,
            self.train,
            streams.generator(),
            execution=setting.execution,
            progress=log,
        )
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        metrics = {"server_loss": loss, "synthetic_images": len(images) / self.formation**2}
        return ServerState(state.round + 1, weights), metrics | self._step(network, state.weights, weights)

    def work(self) -> int:
        """Condensation steps."""
        return int(self.method_config.iterations)

    def budget(self, setting: Setting) -> int:
        """Images per class."""
        return int(self.method_config.ipc)

    def uploaded(self, setting: Setting) -> Params | None:
        """No weights are uploaded."""
        return None

    def passes(self, counts: Sequence[Tensor]) -> tuple[Passes, Passes]:
        """Every client's condensation, and the server's epochs over what they upload."""
        clients = sum((self.method.passes(one) for one in counts), Passes())
        images = sum(int(one.clamp(max=self.method_config.ipc).sum()) for one in counts)
        return clients, Passes(training=self.train.epochs * images * self.formation**2)

    @property
    def formation(self) -> int:
        """f: a stored image holds f² that networks see."""
        return int(getattr(self.method_config, "formation", 1))

    def _step(self, network: torch.nn.Module, before: Params, after: Params) -> dict[str, float]:
        """‖w_{r+1} − w_r‖, and as a multiple of ρ: beyond 1 the server left the ball the clients matched in."""
        names = trainable_names(network)
        old = flatten({name: before[name].cpu() for name in names})
        new = flatten({name: after[name] for name in names})
        step = float((new - old).norm())
        radius = radius_of(getattr(self.method_config, "networks", None))
        return (
            {"step": step}
            if radius is None
            else {"step": step, "step_over_radius": step / radius.around(float(old.norm()))}
        )


def _upload(
    view: ClientView, broadcast: Broadcast, synthetic: SyntheticSet, history: Sequence[tuple[int, dict[str, float]]]
) -> Upload:
    losses = [(at, values["loss"]) for at, values in history if "loss" in values]
    return Upload(view.client, broadcast.round, len(view.images), synthetic=synthetic, losses=losses)
