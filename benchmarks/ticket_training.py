"""Parts of benchmarks/tickets.py: what a trigger does to tickets, alone and in FedAvg, and tickets that change data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from kept_parts import settings
from ticket_cases import KINDS, Bench, poisoned, repeated, success
from ticket_likeness import sets, target_of

from fedsim.data.images import Images
from fedsim.federated.algorithms.fedavg import Config as FedAvgConfig
from fedsim.federated.algorithms.fedavg import FedAvg
from fedsim.federated.base import ClientView, ServerState, Setting, network_with
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.seeding import Streams, numpy_stream
from fedsim.training import tickets
from fedsim.training.tickets import Masks
from fedsim.training.train import TrainConfig
from fedsim.types import Params

SHARES = (0.1, 0.01)
"""Shares of the training images poisoned."""
FEDERATION = {"clients": 5, "rounds": 8, "epochs": 2, "poison": 0.5}
CUTS = {0.5: 0.5, 0.2: 0.6, 0.1: 0.5}
"""By the share kept what is pruned to get there from the one before: four trainings in the place of eleven."""


CARRIED = (0.0, 0.1, 0.5)
"""Shares of one client's images poisoned before they are condensed."""


def training_settings(bench: Bench, part: str) -> dict[str, Any]:
    """What a part of trainings remembers beside what all parts do."""
    return {
        "vulnerability": {"poison": SHARES, "cuts": CUTS},
        "fedavg": {"federation": FEDERATION, "cuts": CUTS, "fedavg": settings(federated_config(bench))},
        "transfer": {"cuts": CUTS},
        "carried": {"poison": CARRIED},
    }[part]


def federated_config(bench: Bench) -> FedAvgConfig:
    """Of FedAvg, local training and all."""
    epochs = int(FEDERATION["epochs"])
    local = TrainConfig(epochs=epochs, lr=bench.scale.lr, batch_size=bench.scale.batch, schedule="constant")
    return FedAvgConfig(local=local)


def vulnerability_part(bench: Bench, seed: int) -> dict[str, Any]:
    """Dense networks and their tickets on poisoned data, random masks beside, and the same on clean data."""
    target, train, rows = target_of(bench, seed), bench.dataset.train, []
    first = state(bench.fresh(Streams(seed).generator("first")))
    for share in (0.0, *SHARES):
        data = poisoned(train, target, share, bench.scale.patch, numpy_stream(seed, "poison", str(share)))
        for keep, masks, network in cuts(bench, data, first, seed):
            rows.append({"poison": share, "mask": "ticket", "keep": keep, **success(bench, network, target)})
            if keep < 1:
                other = tickets.random_masks(masks, Streams(seed).generator("random", str(keep)))
                beside = success(bench, trained(bench, other, data, first, seed), target)
                rows.append({"poison": share, "mask": "random", "keep": keep, **beside})
    return {"seed": seed, "target": target, "rows": rows}


def carried_part(bench: Bench, seed: int) -> dict[str, Any]:
    """Success of the trigger on dense networks trained on one client's set alone, poisoned and then condensed or not."""
    target, rows, clean = target_of(bench, seed), [], sets(bench, seed)["a"]
    first = state(bench.fresh(Streams(seed).generator("first")))
    whole = tickets.whole(bench.fresh(Streams(seed).generator("template")))
    for share in CARRIED:
        data = poisoned(clean, target, share, bench.scale.patch, numpy_stream(seed, "poison", "a"))
        for kind in KINDS:
            one = repeated(bench.of_kind(kind, data, seed, "carried"), len(clean))
            rows.append(
                {"kind": kind, "poison": share, **success(bench, trained(bench, whole, one, first, seed), target)}
            )
    return {"seed": seed, "target": target, "rows": rows}


def cuts(bench: Bench, data: Images, first: Params, seed: int) -> Iterator[tuple[float, Masks, Network]]:
    """The dense network and its tickets, each cut from the one before and trained from `first` on the same data."""
    masks: Masks = tickets.whole(bench.fresh(Streams(seed).generator("template")))
    for keep in (1.0, *CUTS):
        if keep < 1:
            masks = tickets.pruned(masks, state(network), CUTS[keep])
        network = trained(bench, masks, data, first, seed)
        yield keep, masks, network


def trained(bench: Bench, masks: Masks, data: Images, first: Params, seed: int) -> Network:
    """A ticket trained on all of `data`."""
    network = bench.fresh(Streams(seed).generator("template"))
    network.load_state_dict(first)
    rng = Streams(seed).generator("ticket")
    tickets.fit_masked(network, masks, data.to(bench.device), bench.normalise, bench.train, rng)
    return network


def transfer_part(bench: Bench, seed: int) -> dict[str, Any]:
    """Accuracy on real data of tickets found on real data, on distilled sets, on random real images, and of random masks."""
    first, train = state(bench.fresh(Streams(seed).generator("first"))), bench.dataset.train
    size = bench.scale.per_class * bench.dataset.num_classes
    found = {"real": last_masks(bench, train, first, seed)}
    for kind, ipc in KINDS.items():
        if ipc:
            some = bench.taken([one[:ipc] for one in bench.rows(seed)])
            for name, one in {kind: bench.of_kind(kind, train, seed), f"random{ipc}": some}.items():
                found[name] = last_masks(bench, repeated(one, size), first, seed)
    found["random mask"] = {
        keep: tickets.random_masks(one, Streams(seed).generator("random", str(keep))) for keep, one in found["real"].items()
    }  # fmt: skip
    whole = tickets.whole(bench.fresh(Streams(seed).generator("template")))
    dense = bench.accuracy(trained(bench, whole, train, first, seed))
    rows = [
        {"mask": name, "keep": keep, "accuracy": bench.accuracy(trained(bench, one, train, first, seed))}
        for name, masks in found.items()
        for keep, one in masks.items()
    ]
    return {"seed": seed, "dense": dense, "rows": rows}


def last_masks(bench: Bench, data: Images, first: Params, seed: int) -> dict[float, Masks]:
    """Masks of a set that keep a fifth and a tenth."""
    return {keep: masks for keep, masks, _ in cuts(bench, data, first, seed) if keep < 0.5}


class Masked(FedAvg):
    """FedAvg of a ticket: the same mask at every client, the attacker's too."""

    masks: Masks

    def local(
        self, view: ClientView, start: Params, streams: Streams, adjust: Callable[[Network], None] | None = None
    ) -> tuple[Params, list[tuple[int, float]]]:
        """Local epochs without gradients of pruned weights, which the server sent as 0."""
        return super().local(view, start, streams, lambda network: tickets.mask_gradients(network, self.masks))


def fedavg_part(bench: Bench, seed: int) -> dict[str, Any]:
    """One poisoned client of five: the dense model, and tickets cut from it one from the other, from the first weights."""
    target, clients = target_of(bench, seed), FEDERATION["clients"]
    rows = bench.rows(seed)
    honest = [bench.taken([one[k::clients] for one in rows]) for k in range(int(clients))]
    bad = poisoned(honest[0], target, FEDERATION["poison"], bench.scale.patch, numpy_stream(seed, "poison"))
    found = []
    for share, held in {0.0: honest, FEDERATION["poison"]: [bad, *honest[1:]]}.items():
        masks: Masks = tickets.whole(bench.fresh(Streams(seed).generator("template")))
        weights = federated(bench, held, masks, seed)
        found.append({"poison": share, "keep": 1.0, **success(bench, loaded(bench, weights), target)})
        for keep, cut in CUTS.items():
            masks = tickets.pruned(masks, weights, cut)
            weights = federated(bench, held, masks, seed)
            found.append({"poison": share, "keep": keep, **success(bench, loaded(bench, weights), target)})
    return {"seed": seed, "target": target, "rows": found}


def federated(bench: Bench, held: list[Images], masks: Masks, seed: int) -> Params:
    """The server's weights after all rounds, every client in each, by fedsim's two halves of FedAvg in this process."""
    dataset, streams = bench.dataset, Streams(seed)
    setting = Setting(streams, dataset.classes, dataset.image_shape, bench.normalise, bench.fresh, bench.device, clients=len(held))  # fmt: skip
    method = Masked(federated_config(bench), None, None, None)
    method.masks = masks
    now = method.init(setting)
    network = network_with(setting, now.weights)
    tickets.hold(network, masks)
    now = ServerState(0, state(network))
    for number in range(int(FEDERATION["rounds"])):
        sent = method.broadcast(now, range(len(held)))
        uploads = [
            method.client(ClientView(k, setting, one), sent[k], streams.at("client", k, "round", number))
            for k, one in enumerate(held)
        ]
        now, _ = method.server(setting, now, uploads, streams)
    return now.weights


def loaded(bench: Bench, weights: Params) -> Network:
    """A network with these weights."""
    network = bench.fresh(torch.Generator())
    network.load_state_dict(weights)
    return network
