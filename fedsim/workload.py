"""How much a run computes, in images through a network: for `--dry-run` and `compile: auto`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fedsim.build import Parts
from fedsim.compute import Compute
from fedsim.distill.cost import Passes
from fedsim.federated.budgets import scaled_method
from fedsim.federated.record import Flops
from fedsim.models.execution import has_compiler
from fedsim.models.functional import has_batch_norm
from fedsim.models.network import Network
from fedsim.schema import FederatedRun
from fedsim.types import UserError

WORTH = {"cpu": 1e13, "cuda": 1e15}
"""Operations of one process from which compiling pays: about three times what the compiler's seconds would compute. The
CPU's was measured (docs/benchmarks.md), the GPU's is a guess."""


WORKERS = 2
"""Processes that a federated run's clients are thought to be spread over."""


def federated(parts: Parts) -> tuple[Passes, Passes]:
    """One round at full participation: all clients together, and the server."""
    return passes_of(parts, holdings(parts))(range(len(parts.split.client)))


def passes_of(parts: Parts, counts: Sequence[Int64[Tensor, "k"]]) -> Callable[[Sequence[int]], tuple[Passes, Passes]]:
    """What a round costs that these clients do: all of them together, and the server."""
    algorithm, config = parts.algorithm(), parts.config
    if not parts.scales:
        return lambda clients: algorithm.passes([counts[client] for client in clients])
    assert isinstance(config, FederatedRun)
    own = {scale: parts.algorithm(scale=scale) for scale in set(parts.scales)}
    made = [
        held if config.method is None else held.clamp(max=scaled_method(config.method, scale, config.budgets).ipc)
        for held, scale in zip(counts, parts.scales, strict=True)
    ]  # the server trains on no more than that of a client's

    def passes(clients: Sequence[int]) -> tuple[Passes, Passes]:
        theirs = sum((own[parts.scales[client]].passes([counts[client]])[0] for client in clients), Passes())
        return theirs, algorithm.passes([made[client] for client in clients])[1]

    return passes


def holdings(parts: Parts) -> list[Int64[Tensor, "k"]]:
    """Images of each class at each client."""
    labels, classes = parts.dataset.train.labels, parts.dataset.num_classes
    return [torch.bincount(labels[torch.from_numpy(held)], minlength=classes) for held in parts.split.client]


def other_networks(parts: Parts, counts: Sequence[Int64[Tensor, "k"]]) -> float:
    """Operations of the server's round in networks that are not the run's, where its algorithm has some."""
    flops = getattr(parts.algorithm(), "other_networks", None)
    return flops(parts.dataset.image_shape, counts) if flops is not None else 0.0


def round_flops(parts: Parts) -> Flops:
    """Operations of a round that these clients answer: theirs together, and the server's.

    What a failed or rejected client computed is not known and does not count.
    """
    counts = holdings(parts)
    passes = passes_of(parts, counts)
    network = parts.fresh()(parts.streams.generator("template"))
    each = flops_per_image(network, parts.dataset.image_shape)

    def flops(clients: Sequence[int]) -> tuple[float, float]:
        theirs, server = passes(clients)
        return theirs.flops(each), server.flops(each) + other_networks(parts, [counts[client] for client in clients])

    return flops


def central(parts: Parts) -> Passes:
    """The condensation of one set."""
    method = getattr(parts.config, "method", None)
    return parts.distiller(method).passes(parts.images(parts.split.train).counts(parts.dataset.num_classes))


def scoring(parts: Parts) -> Passes:
    """The training of the networks that score one set, and of their teacher if there is one."""
    config: Any = parts.config
    counts = parts.images(parts.split.train).counts(parts.dataset.num_classes)
    images = int(counts.clamp(max=config.method.ipc).sum())
    images *= getattr(config.method, "formation", 1) ** 2
    return Passes(training=config.evaluation.images_seen(images, int(counts.sum())))


def flops_per_image(network: Network, image_shape: tuple[int, int, int]) -> float:
    """Operations of one forward pass of one image (a multiplication and an addition are two)."""
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((1, *image_shape), device=device))
    return float(counter.get_total_flops())


def settle_compile(compute: Compute, passes: Passes, network: Network, image_shape: tuple[int, int, int]) -> Compute:
    """Resolve `compile`, `channels_last` and `ensemble` for a process that computes `passes` with such a network."""
    device = compute.device.partition(":")[0]
    compiled = compute.compile
    if compiled == "auto":
        pays = passes.flops(flops_per_image(network, image_shape)) >= WORTH[device]
        compiled = pays and has_compiler(device)
    elif compiled and not has_compiler(device):
        missing = "a C++ compiler (g++ or $CXX) and Python's headers" if device == "cpu" else "Triton"
        raise UserError(f"compute.compile: true needs {missing}, which is not here; install it or give compile=false")
    ensemble = stacked(compute, network)
    layout = compute.channels_last if compute.channels_last != "auto" else compiled or device == "cuda"
    return compute.model_copy(update={"compile": compiled, "channels_last": layout, "ensemble": ensemble})


def stacked(compute: Compute, network: Network) -> Literal["loop", "vmap"]:
    """Resolve `ensemble`: vmap on a GPU without batch norm."""
    if compute.ensemble == "auto":
        return "vmap" if compute.device.startswith("cuda") and not has_batch_norm(network) else "loop"
    if compute.ensemble == "vmap" and has_batch_norm(network):
        raise UserError("compute.ensemble: vmap cannot stack a batch norm; give loop, or a model with another norm")
    return compute.ensemble


def settled(parts: Parts) -> Parts:
    """The same run with every `auto` of `compute` resolved, by the work of its longest process.

    The scoring of a condensed set counts with its condensation, unless its networks are stacked, which are not
    compiled; how many workers there are does not count.
    """
    config, compute = parts.config, parts.config.compute
    if compute.compile is False and "auto" not in {compute.channels_last, compute.ensemble}:
        return parts
    network = parts.fresh()(parts.streams.generator("template"))
    if isinstance(config, FederatedRun):
        clients, server = federated(parts)
        share = config.rounds * config.participation.fraction / WORKERS  # not compute.workers: it changes no result
        passes = max(clients.times(share), server.times(config.rounds), key=lambda work: work.flops(1.0))
    else:
        looped = stacked(compute, network) == "loop"
        passes = (central(parts) + (scoring(parts) if looped else Passes())).times(getattr(config, "sets", 1))
    return parts.computed(settle_compile(config.compute, passes, network, parts.dataset.image_shape))
