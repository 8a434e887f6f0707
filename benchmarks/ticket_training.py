"""Parts of benchmarks/tickets.py: what a trigger does to tickets, alone and in FedAvg, and tickets that change data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ticket_cases import KINDS, Bench, poisoned, repeated, success
from ticket_likeness import target_of

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

KEPT = {3: 0.512, 7: 0.210, 10: 0.107}
"""Rounds of pruning by a fifth, and what is kept then."""
SHARES = (0.1, 0.01)
"""Shares of the training images poisoned."""
FEDERATION = {"clients": 5, "rounds": 8, "epochs": 2, "poison": 0.5}
CUTS = {0.5: 0.5, 0.2: 0.6, 0.1: 0.5}
"""By the share kept what is pruned to get there from the one before."""


def vulnerability_part(bench: Bench, seed: int) -> dict[str, Any]:
    """Dense networks and their tickets on poisoned data, random masks beside, and the same on clean data."""
    target, train = target_of(bench, seed), bench.dataset.train
    first = state(bench.fresh(Streams(seed).generator("first")))
    rows = [{"poison": 0.0, "mask": "ticket", **one} for one in of_tickets(bench, train, first, seed, target)[0]]
    for share in SHARES:
        data = poisoned(train, target, share, bench.scale.patch, numpy_stream(seed, "poison", str(share)))
        found, masks = of_tickets(bench, data, first, seed, target)
        rows += [{"poison": share, "mask": "ticket", **one} for one in found]
        for number, one in masks.items():
            network = trained(
                bench, tickets.random_masks(one, Streams(seed).generator("random", number)), data, first, seed
            )
            rows.append({"poison": share, "mask": "random", "keep": KEPT[number], **success(bench, network, target)})
    return {"seed": seed, "target": target, "rows": rows}


def of_tickets(
    bench: Bench, data: Images, first: Params, seed: int, target: int
) -> tuple[list[dict[str, Any]], dict[int, Masks]]:
    """Success and accuracy of the dense network and of tickets found and trained on the same data; their masks."""
    network = bench.fresh(Streams(seed).generator("template"))
    network.load_state_dict(first)
    rows, masks = [], {}
    config = tickets.Config(rounds=max(KEPT), train=bench.train)
    for one in tickets.rounds(network, data.to(bench.device), bench.normalise, config, Streams(seed, ("prune",))):
        if one.number == 0 or one.number in KEPT:
            rows.append({"keep": KEPT.get(one.number, 1.0), **success(bench, network, target)})
        if one.number in KEPT:
            masks[one.number] = one.masks
    return rows, masks


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
    found = {"real": pruned_on(bench, train, first, seed, len(train))}
    for kind, ipc in KINDS.items():
        if ipc:
            some = bench.taken([one[:ipc] for one in bench.rows(seed)])
            for name, one in {kind: bench.of_kind(kind, train, seed), f"random{ipc}": some}.items():
                found[name] = pruned_on(bench, one, first, seed, bench.scale.per_class * bench.dataset.num_classes)
    found["random mask"] = {
        number: tickets.random_masks(one, Streams(seed).generator("random", number))
        for number, one in found["real"].items()
    }
    whole = tickets.whole(bench.fresh(Streams(seed).generator("template")))
    dense = bench.accuracy(trained(bench, whole, train, first, seed))
    rows = [
        {"mask": name, "keep": KEPT[number], "accuracy": bench.accuracy(trained(bench, one, train, first, seed))}
        for name, masks in found.items()
        for number, one in masks.items()
    ]
    return {"seed": seed, "dense": dense, "rows": rows}


def pruned_on(bench: Bench, data: Images, first: Params, seed: int, size: int) -> dict[int, Masks]:
    """Masks found on a set, an epoch being `size` images of it."""
    network = bench.fresh(Streams(seed).generator("template"))
    network.load_state_dict(first)
    images, config = repeated(data, size).to(bench.device), tickets.Config(rounds=max(KEPT), train=bench.train)
    every = tickets.rounds(network, images, bench.normalise, config, Streams(seed, ("prune",)))
    return {one.number: one.masks for one in every if one.number in KEPT and one.number > 3}


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
    local = TrainConfig(epochs=int(FEDERATION["epochs"]), lr=bench.scale.lr, batch_size=bench.scale.batch, schedule="constant")  # fmt: skip
    method = Masked(FedAvgConfig(local=local), None, None, None)
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
