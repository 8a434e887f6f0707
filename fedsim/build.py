"""From a config to objects, the same in every process: data, split, setting, algorithm, distiller."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from fedsim import catalog
from fedsim.compute import Compute
from fedsim.config import Section
from fedsim.data.canaries import Canaries, Planted, plant, planted, replaced, with_canaries
from fedsim.data.images import Dataset, Images
from fedsim.data.membership import Pool, pool_of, with_members
from fedsim.data.partition import IIDConfig
from fedsim.data.split import Split, draw_split
from fedsim.data.transforms import Normalise
from fedsim.distill import private
from fedsim.distill.base import Distiller, Task
from fedsim.federated.attackers import Attacker
from fedsim.federated.base import Algorithm, Setting
from fedsim.federated.budgets import scaled_local, scaled_method
from fedsim.federated.defences import Aggregation, Filter
from fedsim.federated.engines.base import Engine, Launcher
from fedsim.federated.participation import Roll
from fedsim.models.execution import Execution
from fedsim.privacy.agreement import Agreement
from fedsim.schema import Distillation, Experiment, FederatedRun
from fedsim.seeding import Streams
from fedsim.tasks import Fresh, central_task, network_factory


@dataclass(frozen=True)
class Parts:
    """What a config stands for; each part is made when first asked for."""

    config: Experiment

    def computed(self, compute: Compute) -> Parts:
        """The same run computed as `compute` says; data and split that are loaded are kept, and a fitted whitening."""
        kept = ("_loaded", "dataset", "split", "normalise")
        other = Parts(self.config.model_copy(update={"compute": compute}))
        other.__dict__.update({name: self.__dict__[name] for name in kept if name in self.__dict__})
        return other

    def beside(self, config: Experiment) -> Parts:
        """Another run whose `data` are these: its images are not loaded again."""
        other = Parts(config)
        other.__dict__["_loaded"] = self._loaded
        return other

    @cached_property
    def streams(self) -> Streams:
        """Random streams of the run."""
        return Streams(self.config.seed)

    @cached_property
    def dataset(self) -> Dataset:
        """The images, those that an audit planted among them."""
        if self.config.audit.planted is None:
            return self._loaded
        return replace(self._loaded, train=replaced(self._loaded.train, self.canaries))

    @cached_property
    def _loaded(self) -> Dataset:
        """The images as they are."""
        return catalog.resolve("data", self.config.data.name)(self.config.data).load()

    @cached_property
    def device(self) -> torch.device:
        """Where tensors live."""
        return torch.device(self.config.compute.device)

    @property
    def execution(self) -> Execution:
        """How networks are run."""
        return self.config.compute.execution()

    @cached_property
    def normalise(self) -> Normalise:
        """Bytes to network input; a whitening is that of the training share."""
        return Normalise.of(self.dataset, self.images(self.split.train))

    def fresh(self, model: Section | None = None) -> Fresh:
        """Constructor of newly initialised networks of `model` (default: the config's)."""
        return network_factory(model or self.config.model, self.dataset, self.device)

    @cached_property
    def split(self) -> Split:
        """Which record is whose."""
        member, found = self.config.audit.membership, self._drawn
        if member is not None:
            found = with_members(found, self.pool(member.client), member.row)
        return found if self.config.audit.planted is None else with_canaries(found, self.canaries)

    @cached_property
    def canaries(self) -> Canaries:
        """Records that an audit planted; asked of a run in which it did."""
        asked, source = self.config.audit.planted, self._loaded
        assert asked is not None, "nothing is planted in this run"
        return plant(self._drawn, source.train, asked, source.num_classes, self.config.seed)

    def planted(self, client: int) -> Planted | None:
        """The records of a client, those apart that an audit dealt to it; None: it did not."""
        if self.config.audit.planted is None or not len((own := self.canaries.of(client)).positions):
            return None
        return planted(self.images(self.split.client[client]), self.split.client[client], own)

    @cached_property
    def _drawn(self) -> Split:
        """Which record is whose, before an audit moves some."""
        alone = IIDConfig(clients=1)
        chosen = self.config.partition if isinstance(self.config, FederatedRun) else alone
        partition = catalog.resolve("partition", chosen.name)(chosen)
        labels = self._loaded.train.labels.numpy()
        data: Any = self.config.data
        return draw_split(labels, self._loaded.num_classes, data.val, self.config.audit, partition, self.config.seed)

    def pool(self, client: int) -> Pool:
        """Records that a membership audit of this client asks about."""
        return pool_of(self._drawn, client, self._loaded.train.labels.numpy(), self.config.seed)

    def images(self, positions: np.ndarray) -> Images:
        """Records of the train split."""
        return self.dataset.train.take(torch.from_numpy(positions))

    @cached_property
    def setting(self) -> Setting:
        """What both halves of a federated method know."""
        dataset = self.dataset
        holding = sum(len(positions) > 0 for positions in self.split.client)
        member = self.config.audit.membership
        streams = self.streams if member is None else self.streams.at("membership", member.row)
        return Setting(
            streams, dataset.classes, dataset.image_shape, self.normalise, self.fresh(), self.device,
            self.execution, holding, privacy=self.privacy, scales=self.scales, start=self.streams,
        )  # fmt: skip

    @cached_property
    def privacy(self) -> Agreement | None:
        """What is agreed on differential privacy, for a client that takes part in every round."""
        config: Any = self.config
        if getattr(config, "privacy", None) is None:
            return None
        made, terms = catalog.resolve("privacy", config.privacy.name), config.privacy
        agreed = made(terms, private.releases(terms, config.algorithm, config.method, config.rounds))
        return private.vouched(agreed, config.data.name, config.model.name)

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Share of a round's full work that each client does; empty: all of it."""
        chosen: Any = getattr(self.config, "budgets", None)
        if chosen is None:
            return ()
        return catalog.resolve("budgets", chosen.name)(chosen).scales(len(self.split.client), self.streams)

    @property
    def asked(self) -> list[int]:
        """Clients that may be asked: those that hold images; under privacy all, as who holds none is not told."""
        return [one for one, held in enumerate(self.split.client) if len(held) or self.privacy is not None]

    @property
    def roll(self) -> Roll:
        """Clients that may be asked, and when they can be reached."""
        config = self.config
        assert isinstance(config, FederatedRun)
        chosen: Any = config.participation.trace
        trace = catalog.resolve("trace", chosen.name)(chosen) if chosen is not None else None
        return Roll(self.asked, len(self.split.client), trace)

    def distiller(self, method: Any) -> Distiller:
        """The condensation method of that section."""
        return catalog.resolve("method", method.name)(method)

    def algorithm(self, method: Section | None = None, scale: float = 1.0) -> Algorithm:
        """The federated method; `method` replaces the config's condenser (controls do that).

        With a `scale` it is the method of a client that does this share of a round's work.
        """
        config = self.config
        assert isinstance(config, FederatedRun)
        chosen, settings = method or config.method, config.algorithm
        if scale < 1 and chosen is not None:
            chosen = scaled_method(chosen, scale, config.budgets)
        elif scale < 1:
            settings = scaled_local(settings, scale)
        distiller = self.distiller(chosen) if chosen is not None else None
        if self.privacy is not None and chosen is not None:
            distiller = private.distiller(self.privacy, chosen)
        return catalog.resolve("algorithm", settings.name)(settings, distiller, chosen, config.server)

    def algorithm_of(self, client: int, method: Section | None = None) -> Algorithm:
        """The federated method as this client does its part of it."""
        return self.algorithm(method, self.setting.scale(client))

    def attacker(self, client: int, round_number: int) -> Attacker | None:
        """Who acts in the client's place in that round; None: the client itself."""
        for config in cast(Any, self.config).attackers:
            if client in config.acting(round_number, self.streams):
                return catalog.resolve("attacker", config.name)(config)
        return None

    @cached_property
    def defences(self) -> dict[str, Filter | Aggregation]:
        """What the server does about uploads, by name, in order."""
        chosen = cast(Any, self.config).defenses
        return {config.name: catalog.resolve("defense", config.name)(config) for config in chosen}

    def engine(self) -> Engine | Launcher:
        """What carries the messages of the run."""
        config = self.config
        assert isinstance(config, FederatedRun)
        return catalog.resolve("engine", config.engine.name)(config.engine)

    def task(self) -> Task:
        """The central condensation of all training images."""
        config = self.config
        assert isinstance(config, Distillation)
        method: Any = config.method
        images = self.images(self.split.train)
        return central_task(
            images, self.dataset, self.normalise, self.fresh(), method.ipc, config.compute, self.streams
        )
