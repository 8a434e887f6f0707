"""What `--dry-run` prints: the resolved config, and estimates of time, memory and bytes from a moment's measurement."""

from __future__ import annotations

import time
from typing import Any

import torch

from fedsim.build import Parts, check
from fedsim.config import to_yaml
from fedsim.federated.base import Broadcast
from fedsim.federated.blocks import node_count
from fedsim.federated.messages import payload_bytes, write_broadcast
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.schema import Experiment, FederatedRun


def plan(config: Experiment) -> str:
    """Nothing is written. Times are of this machine, from one forward and one backward pass of 32 images."""
    parts = Parts(config)
    torch.set_num_threads(config.compute.threads)
    check(parts)
    network = parts.fresh()(parts.streams.generator("template"))
    forward, backward = _pass_seconds(network, parts)
    lines = [to_yaml(config).rstrip(), "", f"# train {len(parts.split.train)} images, val {len(parts.split.val)}, "
             f"test {len(parts.dataset.test)}, weights {sum(p.numel() for p in network.parameters()):,}"]  # fmt: skip
    if isinstance(config, FederatedRun):
        lines += _federated(parts, config, network, forward, backward)
    else:
        method: Any = getattr(config, "method", None)
        images = int(parts.images(parts.split.train).counts(parts.dataset.num_classes).clamp(max=method.ipc).sum())
        steps = method.iterations * _step(parts, config, images, len(parts.split.train), forward, backward)
        lines.append(
            f"# condensation about {steps:,.0f} s for each of {getattr(config, 'sets', 1)} set(s), without evaluation"
        )
    lines.append(f"# real images in memory {parts.dataset.train.pixels.numel() / 1e6:.0f} MB per process")
    lines.append("# epsilon: none; no differential privacy is applied")
    return "\n".join(lines)


def _federated(parts: Parts, config: FederatedRun, network: Network, forward: float, backward: float) -> list[str]:
    clients = parts.split.client
    share = config.participation.fraction
    down = payload_bytes(write_broadcast(Broadcast(1, state(network))))
    per_class = parts.algorithm().budget(parts.setting)
    seconds, images, up = 0.0, 0, down * len(clients)
    if per_class:
        method: Any = config.method
        counts = [
            parts.images(positions).counts(parts.dataset.num_classes).clamp(max=per_class).sum()
            for positions in clients
        ]
        images = int(sum(counts))
        up = images * (parts.dataset.train.pixels[0].numel() + 8)
        for positions, count in zip(clients, counts, strict=True):
            seconds += method.iterations * _step(parts, config, int(count), len(positions), forward, backward)
        assert config.server is not None
        server = config.server.epochs * images * (forward + backward)
    else:
        algorithm: Any = config.algorithm
        seconds = algorithm.local.epochs * len(parts.split.train) * (forward + backward)
        server = 0.0
    workers = min(config.compute.workers, node_count(len(clients), config.participation.per_node))
    wall = config.rounds * config.participation.fraction * (seconds / workers + server)
    return [
        f"# {len(clients)} clients, {images} synthetic images a round at full participation",
        f"# uplink about {share * up:,.0f} and downlink {share * down * len(clients):,.0f} bytes a round",
        f"# time about {wall:,.0f} s for {config.rounds} round(s), {config.compute.workers} worker(s), no controls",
    ]


def _step(parts: Parts, config: Any, synthetic: int, real: int, forward: float, backward: float) -> float:
    """Seconds of one condensation step: the synthetic side, and the real side unless a pool has cached it."""
    method: Any = config.method
    networks = getattr(method, "networks", None)
    if networks is None:
        return 0.0
    classes = parts.dataset.num_classes
    seen = min(real, classes * method.batch_real) if method.batch_real else real
    passes = networks.size / method.iterations if networks.name == "pool" else 1.0
    return synthetic * (forward + backward) + passes * seen * forward


def _pass_seconds(network: Network, parts: Parts) -> tuple[float, float]:
    """Seconds per image of a forward and of a backward pass, the second of two tries."""
    images = torch.zeros((32, *parts.dataset.image_shape), device=parts.device)
    forward = backward = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss = network(images).square().mean()
        forward = time.perf_counter() - start
        loss.backward()
        backward = time.perf_counter() - start - forward
    return forward / len(images), backward / len(images)
