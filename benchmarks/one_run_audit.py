"""Lower bounds on ε of FedDM's noisy sums on MNIST, by one run each: `python benchmarks/one_run_audit.py [--kinds crafted]`.

Every client draws its own networks and releases its class sums once, by the distiller's own `prepare` through the door of
a private owner; canaries are in by a coin each and are decoded from all sums, pooled over clients (attacks/one_run_canaries.py).
Noise and coins are seeded, so that a figure can be had again. Data: the folder FEDSIM_DATA. Results go to
benchmarks/results/one_run/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import machine

from attacks.canary_bounds import Kind
from attacks.one_run_canaries import Config, OneRunCanaries, coins, decoded, largest_cosine
from fedsim.catalog import resolve
from fedsim.data.canaries import Planted, disguised
from fedsim.data.images import Dataset, Images
from fedsim.data.partition import DirichletConfig, IIDConfig
from fedsim.data.sources import MNIST, TorchvisionConfig
from fedsim.data.transforms import Normalise
from fedsim.distill.base import Task
from fedsim.distill.distribution.dm import Config as DMConfig
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.distill.pool import PoolConfig
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.execution import Execution, Runner
from fedsim.models.network import build_network
from fedsim.privacy.features import Config as Privacy
from fedsim.privacy.features import Features
from fedsim.privacy.observed import ObservedOwner
from fedsim.runs import manifest
from fedsim.seeding import Streams, numpy_stream

RESULTS = Path(__file__).parent / "results/one_run"
DELTA, CLIP, KAPPA, BOUND = 1e-5, 8.0, 2.0, 60000


@dataclass(frozen=True)
class Setting:
    """One audit; all that its figures depend on beside the data."""

    kind: Kind
    epsilon: float
    partition: str
    clients: int
    canaries: int
    """Of each client."""
    records: int
    """Real ones, of all clients together."""
    networks: int
    width: int
    seed: int
    guesses: float
    """Share of the canaries that is guessed in, and as many out."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.kind}_eps{self.epsilon:g}_{self.partition}_guess{self.guesses:g}_s{self.seed}"


def held(setting: Setting, data: Dataset) -> list[Images]:
    """Records of every client: the first `records` of a shuffled train split, dealt out."""
    rng = numpy_stream(setting.seed, "records")
    images = data.train.take(torch.from_numpy(rng.permutation(len(data.train))[: setting.records]))
    chosen = (
        IIDConfig(clients=setting.clients) if setting.partition == "iid"
        else DirichletConfig(clients=setting.clients, alpha=0.5, min_size=10)
    )  # fmt: skip
    parts = resolve("partition", chosen.name)(chosen)(images.labels.numpy(), data.num_classes, rng)
    return [images.take(torch.from_numpy(positions)) for positions in parts]


def canaries_of(kind: Kind, held: Images, count: int, num_classes: int, rng: torch.Generator) -> tuple[Images, Images]:
    """The records beside `count` canaries, and these; natural and mislabelled ones are taken out of the rest."""
    if kind in ("crafted", "ood_noise"):
        pixels = torch.zeros((count, *held.pixels.shape[1:]), dtype=torch.uint8)
        return held, disguised(kind, Images(pixels, torch.arange(count) % num_classes), num_classes, rng)
    order = torch.randperm(len(held), generator=rng)
    return held.take(order[count:]), disguised(kind, held.take(order[:count]), num_classes, rng)


def audited(setting: Setting, data: Dataset, own: Images, streams: Streams, folder: Path) -> dict[str, Any]:
    """One client: scores and coins of its canaries, ε by its ledger, and how far its canaries lie apart."""
    terms = Privacy(
        target_epsilon=setting.epsilon, delta=DELTA, clip=CLIP, kappa=KAPPA, public_bound=BOUND, noise="seeded"
    )
    agreed, normalise = Features(terms, setting.networks), Normalise.of(data, data.train)
    rest, canaries = canaries_of(setting.kind, own, setting.canaries, data.num_classes, streams.generator("canaries"))
    included = coins(setting.canaries, streams.generator("coins"))
    planted = Planted(rest, canaries, included, torch.full((setting.canaries,), setting.kind == "crafted"))
    owner = ObservedOwner(
        planted, data.num_classes, normalise, torch.device("cpu"), agreed.mechanism, agreed.noise(streams),
        agreed.ledger(folder), streams.at("crafted"),
    )  # fmt: skip
    network = build_network(
        ConvNet, ConvNetConfig(width=setting.width), data.image_shape, data.num_classes, streams.generator("template")
    )
    task = Task(
        owner, torch.full((data.num_classes,), 10), Runner(network, Execution(256)).frozen(), normalise, data.classes
    )
    method = DMConfig(ipc=10, iterations=1, init="noise", batch_real=0, networks=PoolConfig(size=setting.networks))
    PrivateMatching(method, terms).prepare(task, streams.generator("networks"))
    rows = [one.rows[:, :-1] for one in owner.looks]
    return {
        "scores": decoded(owner.looks, canaries.labels, agreed.mechanism.deviation).numpy(),
        "included": included.numpy(), "epsilon": owner.ledger.spent().epsilon, "releases": owner.ledger.made,
        "sigma": agreed.sigma, "cosine": largest_cosine(rows, canaries.labels),
        "norm": float(torch.stack([one.norm(dim=1) for one in rows]).mean()), "records": len(rest),
    }  # fmt: skip


def run(setting: Setting, data: Dataset) -> dict[str, Any]:
    """All clients, pooled."""
    with tempfile.TemporaryDirectory() as folder:
        found = [
            audited(setting, data, own, Streams(setting.seed, ("client", k)), Path(folder) / str(k))
            for k, own in enumerate(held(setting, data))
        ]
    scores = {"score": np.concatenate([one["scores"] for one in found]), "delta": np.array(DELTA),
              "epsilon": np.array(max(one["epsilon"] for one in found))}  # fmt: skip
    included = np.concatenate([one["included"] for one in found])
    attack = OneRunCanaries(Config(kind=setting.kind, guesses=setting.guesses))
    tested, described = attack.evaluate([scores], [{"included": included}])
    assert described.estimate is not None
    return {
        "status": tested.status.value, "p": tested.p, **tested.details, "note": tested.note, "auc": described.estimate.value,
        "releases": found[0]["releases"], "sigma": found[0]["sigma"], "records": [one["records"] for one in found],
        "largest_cosine": max(one["cosine"] for one in found), "mean_norm_over_clip": float(np.mean([one["norm"] for one in found])) / CLIP,
    }  # fmt: skip


def main() -> None:
    """Every kind at every ε."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kinds", nargs="+", default=["crafted"], choices=["crafted", "mislabelled", "natural", "ood_noise"]
    )
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 3.0, 10.0])
    parser.add_argument("--partition", choices=("iid", "dirichlet"), default="iid")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--canaries", type=int, default=200, help="of each client")
    parser.add_argument("--records", type=int, default=6000, help="real ones, of all clients together")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guesses", type=float, default=0.1, help="share of the canaries guessed in, and as many out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = MNIST(TorchvisionConfig(name="mnist")).load()
    facts = manifest(Config(), "cpu", [])  # before a result makes the checkout another
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind in options.kinds:
        for epsilon in options.epsilons:
            setting = Setting(
                kind, epsilon, options.partition, options.clients, options.canaries, options.records, options.networks,
                options.width, options.seed, options.guesses,
            )  # fmt: skip
            found = run(setting, data)
            kept = {
                "setting": setting.__dict__,
                "machine": machine(1),
                "git": facts["git"],
                "versions": facts["versions"],
                "found": found,
            }
            (RESULTS / f"{setting.name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
            print(f"{setting.name}: {found['status']}, right {found['right']}/{found['guesses']}, ε_LB {found['epsilon_lower']:.2f} "
                  f"(toy {found['toy_lower']:.2f}, most {found['epsilon_max']:.2f}), p {found['p']:.3g}, AUC {found['auc']:.3f}, "
                  f"largest cosine {found['largest_cosine']:.2g}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
