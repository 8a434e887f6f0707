"""Single costs of docs/scale.md, in processor seconds: `python benchmarks/scale_parts.py [--pairs 9]` prints Markdown.

Clients condensed together against each with networks of its own, in interleaved pairs of one process; what the server
does with one upload; what a million known clients take in memory and time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from fedsim.build import Parts
from fedsim.data.partition import IID, IIDConfig
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.federated.algorithms.feddm import Sets
from fedsim.federated.base import Broadcast, Setting, Upload
from fedsim.federated.blocks import Envelopes, read_answer, write_answers
from fedsim.federated.client import Node
from fedsim.federated.messages import Contract, payload_bytes, read_upload, write_upload
from fedsim.federated.participation import sample
from fedsim.federated.record import RoundRecord
from fedsim.federated.serve import serve
from fedsim.federated.transcript import StoredUploads, Transcript
from fedsim.schema import load_run
from fedsim.seeding import Streams, numpy_stream, stream
from fedsim.workload import settled

CONFIG = Path("configs/federated/mnist_1000_clients.yaml")
SIZES = {
    "59 or 60 images, 50 steps, 25 a node": (),
    "5 or 6 images, 20 steps, 100 a node": (
        "partition.clients=10000", "participation.per_node=100", "method.iterations=20", "method.networks.size=5",
    ),
}  # fmt: skip


def parts(*overrides: str) -> Parts:
    """The config of a thousand clients."""
    return settled(Parts(load_run(CONFIG, overrides)))


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def node_of(made: Parts) -> Callable[[int], float]:
    """Block number → processor seconds of one client of that block."""
    algorithm, clients, per_node = made.algorithm(), made.split.client, made.config.participation.per_node
    node = Node(algorithm, made.setting, lambda client: made.images(clients[client]))
    broadcast = Broadcast(1, algorithm.init(made.setting).weights)

    def cost(block: int) -> float:
        asked = range(block * per_node, (block + 1) * per_node)
        return seconds(lambda: serve(node, dict.fromkeys(asked, broadcast))) / per_node

    return cost


def together_or_alone(pairs: int) -> None:
    """Medians and the range of the ratio."""
    for name, overrides in SIZES.items():
        joint, own = node_of(parts(*overrides)), node_of(parts(*overrides, "method.networks.shared=false"))
        joint(0), own(0)
        found = [(own(block), joint(block)) for block in range(1, pairs + 1)]
        ratios = sorted(alone / one for alone, one in found)
        alone, one = (1000 * statistics.median(side) for side in zip(*found, strict=True))
        print(
            f"| condensation, {name} | {one:.0f} ms together, {alone:.0f} ms each with networks of its own | "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), {pairs} interleaved pairs |"
        )


def random_upload(client: int, setting: Setting) -> Upload:
    """Ten images of noise, one per class, with a loss curve."""
    images = torch.randint(0, 256, (10, 1, 28, 28), generator=stream(client), dtype=torch.uint8)
    mean, std = setting.normalise.mean, setting.normalise.std
    losses = [(1, 123.4567891), (25, 12.34567891), (50, 1.234567891)]
    return Upload(client, 1, 60, SyntheticSet(images, torch.arange(10), setting.classes, mean, std), None, losses)


def server_steps(count: int, per_node: int) -> None:
    """Milliseconds of the server for one upload of ten images, by step."""
    made = parts()
    setting, algorithm = made.setting, made.algorithm()
    contract = Contract.agree(setting, 1, None, made.config.upload_limits)
    blocks = [range(first, first + per_node) for first in range(0, count, per_node)]

    wire = [
        write_answers({client: write_upload(random_upload(client, setting)) for client in block}) for block in blocks
    ]
    sent = [recorddict_to_proto(content).SerializeToString() for content in wire]
    came, receipts, cost = [], [], {}
    weights = Broadcast(1, algorithm.init(setting).weights)
    record = RoundRecord(1, *[list(range(count))] * 2, {}, {}, *[dict.fromkeys(range(count), 32451)] * 2)
    record.losses = {client: list(random_upload(client, setting).losses) for client in range(count)}
    with tempfile.TemporaryDirectory() as folder:
        transcript = Transcript(Path(folder), "uploads", "run")

        def check_and_store() -> None:
            for block, content in zip(blocks, came, strict=True):
                for client in block:
                    own = read_answer(content, client)
                    payload_bytes(own)
                    receipts.append(transcript.accept(read_upload(own, client, 1, contract)))

        def broadcast() -> None:
            envelopes = Envelopes(dict.fromkeys(range(count), weights))
            for block in blocks:
                recorddict_to_proto(envelopes.write(block)).SerializeToString()

        cost["decode"] = seconds(
            lambda: came.extend(recorddict_from_proto(ProtoRecordDict.FromString(b)) for b in sent)
        )
        cost["check and store"] = seconds(check_and_store)
        cost["map and join"] = seconds(lambda: union(Sets(StoredUploads(receipts))))
        cost["encode the broadcast"] = seconds(broadcast)
        cost["record"] = seconds(lambda: json.dumps(asdict(record), indent=2))
    each = ", ".join(f"{name} {1000 * value / count:.2g}" for name, value in cost.items())
    print(f"| server: {each} | {1000 * sum(cost.values()) / count:.1f} ms | {count} uploads, {per_node} to a message |")


def known_clients(count: int, images: int) -> None:
    """Memory and time of a partition, and of drawing a hundredth of it."""

    def own_bytes() -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) * 1024

    labels = np.random.default_rng(0).integers(0, 10, images * count)
    before, dealt = own_bytes(), []
    deal = seconds(lambda: dealt.extend(IID(IIDConfig(clients=count))(labels, 10, numpy_stream(0))))
    each = (own_bytes() - before) / count
    draw = seconds(lambda: sample(range(count), 0.01, Streams(0)))
    print(f"| {count:,} known clients of {images} images | deal {deal:.1f} s, draw {draw:.2f} s | {each:.0f} B each |")


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    together_or_alone(options.pairs)
    server_steps(1000, 25)
    known_clients(1_000_000, 6)


if __name__ == "__main__":
    main()
