"""What stands beside a federated result: the same clients and the same training on other uploads, or on all images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fedsim.build import Parts
from fedsim.catalog import resolve
from fedsim.console import Terminal
from fedsim.distill import private
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.distill.distribution.class_means import Config as ClassMeansConfig
from fedsim.federated.base import ClientView, ServerState, network_with
from fedsim.federated.record import RoundRecord
from fedsim.privacy.agreement import Agreement
from fedsim.privacy.features import Config as FeaturesConfig
from fedsim.privacy.features import Features
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun
from fedsim.training.train import TrainConfig, accuracy, epochs_like, fit

Val = Callable[[ServerState], float]


def beside(
    run: RunDirectory, parts: Parts, records: Sequence[RoundRecord], on_val: Val, terminal: Terminal
) -> dict[str, Any]:
    """The controls that the config asks for, by name."""
    config = parts.config
    assert isinstance(config, FederatedRun)
    found: dict[str, Any] = {}
    if parts.algorithm().budget(parts.setting) and config.controls.upload_real_subset:
        found["upload_real_subset"] = _upload_real_subset(parts, records, on_val, terminal)
    if config.means_beside:
        found["noisy_class_means"] = _noisy_class_means(run, parts, records, terminal)
    if config.controls.centralised is not None:
        found["centralised"] = _centralised(parts, config.controls.centralised, terminal)
    return found


def one_release(agreed: Agreement, image_shape: Sequence[int]) -> Features:
    """What is agreed for pixel class sums that are released once, at the ε and δ of `agreed`.

    Around grey, every image lies within C = √(chw)/2, and none is cut. κ = C/2 makes the noise of a count √5 σ records
    and adds an eighth to that of the sums.
    """
    terms, clip = agreed.config, math.sqrt(math.prod(image_shape)) / 2
    config = FeaturesConfig(
        target_epsilon=terms.target_epsilon or agreed.planned(), delta=terms.delta, adjacency=terms.adjacency,
        public_bound=terms.public_bound, noise=terms.noise, clip=clip, kappa=clip / 2,
        weighted=getattr(terms, "weighted", True),
    )  # fmt: skip
    return Features(config, 1)


def _noisy_class_means(
    run: RunDirectory, parts: Parts, records: Sequence[RoundRecord], terminal: Terminal
) -> dict[str, Any]:
    """Every client that answered releases pixel class sums once; the server trains once on the mean images.

    It takes as many steps on them as on the run's last uploads: on so few images equal epochs would be a weak control.
    Its ledgers lie apart from those of the run: it is another release of the same records, in a simulation alone.
    """
    assert parts.privacy is not None, "the schema refuses it without privacy"
    agreed = one_release(parts.privacy, parts.dataset.image_shape)
    terminal.say(f"control: noisy class means of pixels, released once at epsilon {agreed.planned():.3g}")
    setting = replace(parts.setting, privacy=agreed, progress=terminal.bar)
    config, means = cast(FederatedRun, parts.config), ClassMeansConfig()
    made = resolve("algorithm", config.algorithm.name)
    algorithm: Any = made(config.algorithm, private.distiller(agreed, means), means, config.server)
    state, uploads = algorithm.init(setting), []
    clients = sorted({client for record in records for client in record.responders})
    for client, broadcast in algorithm.broadcast(state, clients).items():
        folder = run.path / f"controls/noisy_class_means/client_{client:04d}/round_001"
        view = ClientView(client, setting, parts.images(parts.split.client[client]), folder)
        uploads.append(algorithm.client(view, broadcast, setting.streams.at("control", "client", client)))
    images, like = sum(len(one.synthetic) for one in uploads), records[-1].metrics["synthetic_images"]
    algorithm.train = epochs_like(algorithm.train, images, int(like))
    state, _ = algorithm.server(setting, state, uploads, setting.streams.at("round", 1, "server"))
    network = network_with(setting, state.weights)
    tested = accuracy(network, parts.dataset.test, setting.normalise, execution=setting.execution)
    spent = {"epsilon": agreed.planned(), "delta": agreed.config.delta, "sigma": agreed.sigma}
    return {"accuracy": tested, "images": images, "epochs": algorithm.train.epochs, "labels": "hard"} | spent


def _upload_real_subset(
    parts: Parts, records: Sequence[RoundRecord], on_val: Val, terminal: Terminal
) -> dict[str, Any]:
    """The same rounds, each accepted client sending as many random real images per class as it sent synthetic ones.

    They are drawn anew each round, as the synthetic ones are made anew: over R rounds up to R times as many real
    images leave a client. That is a strong control. Its labels are hard whatever the method's are.
    """
    terminal.say("control: the same rounds with random real images uploaded instead")
    method: Any = getattr(parts.config, "method", None)
    algorithm, setting = parts.algorithm(RandomConfig(ipc=method.ipc)), parts.setting
    state = algorithm.init(setting)
    rounds = []
    for record in records:
        uploads = []
        for client, broadcast in algorithm.broadcast(state, record.responders).items():
            view = ClientView(client, setting, parts.images(parts.split.client[client]))
            streams = setting.streams.at("control", "client", client, "round", record.round)
            uploads.append(parts.algorithm_of(client, RandomConfig(ipc=method.ipc)).client(view, broadcast, streams))
        state, _ = algorithm.server(setting, state, uploads, setting.streams.at("round", record.round, "server"))
        rounds.append(on_val(state))
        terminal.bar("control", record.round, len(records), f"val {rounds[-1]:.4f}")
    tested = accuracy(
        network_with(setting, state.weights), parts.dataset.test, setting.normalise, execution=setting.execution
    )
    return {"accuracy": tested, "accuracy_by_round": rounds, "labels": "hard"}


def _centralised(parts: Parts, config: TrainConfig, terminal: Terminal) -> dict[str, Any]:
    """One network from the server's first weights, trained on what no party of the federation holds: all images."""
    terminal.say("control: the same model trained on all clients' images together")
    setting = parts.setting
    images = parts.images(np.sort(np.concatenate(parts.split.client))).to(setting.device)
    network = setting.first_network()
    rng = setting.streams.at("control", "centralised").generator("train")

    def log(epoch: int, loss: float) -> None:
        terminal.bar("control", epoch, config.epochs, f"loss {loss:.4f}")

    fit(network, images, setting.normalise, config, rng, execution=setting.execution, progress=log)
    tested = accuracy(network, parts.dataset.test, setting.normalise, execution=setting.execution)
    return {"accuracy": tested, "images": len(images), "labels": "hard"}
