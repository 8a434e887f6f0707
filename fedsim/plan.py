"""What `--dry-run` prints: the resolved config, and estimates of time, memory and bytes from a moment's measurement."""

from __future__ import annotations

import time
from typing import Any, cast

import torch

from fedsim.admission import check
from fedsim.build import Parts
from fedsim.config import to_yaml
from fedsim.distill.cost import Passes
from fedsim.distill.soft_labels import learns_labels
from fedsim.federated.base import Broadcast
from fedsim.federated.blocks import node_count
from fedsim.federated.messages import payload_bytes, write_broadcast
from fedsim.federated.wire import as_received, encode
from fedsim.models.network import Network
from fedsim.schema import Experiment, FederatedRun
from fedsim.workload import central, federated, flops_per_image, holdings, other_networks, settled


def plan(config: Experiment) -> str:
    """Nothing is written. Times are of this machine, from one forward and one backward pass, not compiled."""
    torch.set_num_threads(config.compute.threads)
    parts = Parts(config)
    check(parts)
    parts = settled(parts)
    config = parts.config
    network = parts.fresh()(parts.streams.generator("template"))
    forward, backward = _pass_seconds(network, parts)
    lines = [to_yaml(config).rstrip(), "", f"# train {len(parts.split.train)} images, val {len(parts.split.val)}, "
             f"test {len(parts.dataset.test)}, weights {sum(p.numel() for p in network.parameters()):,}"]  # fmt: skip
    if isinstance(config, FederatedRun):
        lines += _federated(parts, config, forward, backward)
    else:
        sets, seconds = getattr(config, "sets", 1), _seconds(central(parts), forward, backward)
        lines.append(f"# condensation about {seconds:,.0f} s for each of {sets} set(s), without evaluation")
    lines.append(f"# real images in memory {parts.dataset.train.pixels.numel() / 1e6:.0f} MB per process")
    lines.append(_epsilon(parts))
    return "\n".join(lines)


def _epsilon(parts: Parts) -> str:
    if parts.privacy is None:
        return "# epsilon: none; no differential privacy is applied"
    planned, agreed = parts.privacy.planned(), parts.privacy.config
    simulated = "; simulated_dp: the noise is seeded and protects nobody" * (agreed.noise == "seeded")
    return (
        f"# epsilon: {planned:.3g} at delta {agreed.delta:g} for one record of one client, noise multiplier "
        f"{parts.privacy.sigma:.4g}, {parts.privacy.number} releases{simulated}"
    )


def run_seconds(parts: Parts) -> float:
    """Estimate for one federated run in one process, without controls."""
    network = parts.fresh()(parts.streams.generator("template"))
    forward, backward = _pass_seconds(network, parts)
    config = parts.config
    assert isinstance(config, FederatedRun)
    clients, server = (_seconds(passes, forward, backward) for passes in federated(parts))
    return config.rounds * (clients + server + _other_networks(parts, forward))


def seconds_of(passes: Passes, parts: Parts) -> float:
    """Estimate for so many images through the run's network, in one process, on its device."""
    return _seconds(passes, *_pass_seconds(parts.fresh()(parts.streams.generator("template")), parts))


def _federated(parts: Parts, config: FederatedRun, forward: float, backward: float) -> list[str]:
    clients = parts.split.client
    share = parts.roll.share(config.participation.fraction, config.rounds, parts.streams)
    algorithm = parts.algorithm()
    first = as_received(algorithm.broadcast(algorithm.init(parts.setting), [0]), config.wire)[0]
    down = payload_bytes(encode(write_broadcast(first), config.wire))
    per_class = algorithm.budget(parts.setting)
    images = 0
    like = write_broadcast(Broadcast(1, algorithm.uploaded(parts.setting) or {}))
    up = payload_bytes(encode(like, config.wire)) * len(clients)
    if per_class:
        counts = [parts.images(positions).counts(parts.dataset.num_classes) for positions in clients]
        images = sum(int(count.clamp(max=per_class).sum()) for count in counts)
        soft = 2 * parts.dataset.num_classes if learns_labels(config.method) else 0
        up = images * (parts.dataset.train.pixels[0].numel() * config.wire.pixel_bytes + 8 + soft)
    all_clients, server = (_seconds(passes, forward, backward) for passes in federated(parts))
    server += _other_networks(parts, forward)
    workers = min(max(1, config.compute.workers), node_count(len(clients), config.participation.per_node))
    wall = config.rounds * share * (all_clients / workers + server)
    return [
        f"# {len(clients)} clients, {images} synthetic images a round at full participation",
        f"# uplink about {share * up:,.0f} and downlink {share * down * len(clients):,.0f} bytes a round",
        f"# time about {wall:,.0f} s for {config.rounds} round(s), {config.compute.workers} worker(s), no controls",
        *_attackers(config),
    ]


def _attackers(config: FederatedRun) -> list[str]:
    """Who lies, and whether the run without them is made first."""
    who = [f"{one.name} by {', '.join(map(str, one.clients))}" for one in cast(Any, config.attackers)]
    beside = "; the same run without them is made first, or found" * config.controls.without_attackers
    return [f"# attackers: {'; '.join(who)}{beside}"] if who else []


def _seconds(passes: Passes, forward: float, backward: float) -> float:
    return passes.forward * forward + (passes.pixels + passes.training) * (forward + backward)


def _other_networks(parts: Parts, forward: float) -> float:
    """Seconds of a round in the server's other networks, at the pace of a forward pass of the run's."""
    network = parts.fresh()(parts.streams.generator("template"))
    return other_networks(parts, holdings(parts)) / flops_per_image(network, parts.dataset.image_shape) * forward


def _pass_seconds(network: Network, parts: Parts) -> tuple[float, float]:
    """Seconds per image of a forward and of a backward pass, the second of two tries."""
    images = torch.zeros((parts.execution.chunk or 32, *parts.dataset.image_shape), device=parts.device)
    forward = backward = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss = network(images).square().mean()
        forward = time.perf_counter() - start
        loss.backward()
        backward = time.perf_counter() - start - forward
    return forward / len(images), backward / len(images)
