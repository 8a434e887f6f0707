"""What is left of a backdoor when the attack is over: in rounds without the attacker, and in other networks.

    python benchmarks/backdoor_afterwards.py [--data digits|mnist] [--parts persistence transfer] [--seeds 5] [--device auto]

`persistence`: federations of six rounds whose attacker acts in the first two. FedDM against `naive` and `direct`, FedAvg
against `naive` and `model_replacement` (in round two alone, its last). Success on val under the trigger after every round;
at the end, on the test images, the lift over the run without an attacker.
`transfer`: the sets that a FedDM of two rounds was sent in its last round train networks of several architectures from
scratch, by the server's training with more epochs. Success over test images that are not of the target, and that of the same network (same first
weights, same order) trained on the sets of the run without an attacker, under the same trigger.

The federations are those of model_defence_runs.py. A part is of one seed, kept under benchmarks/results/backdoor_afterwards/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from equal_utility_runs import data_of
from kept_parts import ROOT, parts_of_seeds, run_or_exit
from model_defence_runs import RUNS, raw_run

from fedsim.backdoors import left, success
from fedsim.build import Parts
from fedsim.catalog import resolve as named
from fedsim.config import merge
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.experiment import execute
from fedsim.models.network import build_network
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import stream
from fedsim.training.train import TrainConfig, accuracy, fit
from fedsim.workload import settled

FOLDER = ROOT / "backdoor_afterwards"
ROUNDS, ACTING = 6, [1, 2]
LOCAL = {"epochs": 4, "lr": 0.2, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 32, "schedule": "constant"}
CASES = (("feddm", "naive"), ("feddm", "direct"), ("fedavg", "naive"), ("fedavg", "model_replacement"))
SENT = ("naive", "direct")
"""Attackers whose sets other networks are trained on."""
NETWORKS: dict[str, dict[str, Any]] = {
    "convnet, instance norm": {"name": "convnet", "norm": "instance"},
    "convnet, no norm": {"name": "convnet", "norm": "none"},
    "mlp": {"name": "mlp", "depth": 2, "width": 64},
}
"""ConvNets are as deep and wide as the federation's."""
EPOCHS = 200
"""Of a network that starts from nothing; the server's other settings stay."""


def attacked(raw: dict[str, Any], attack: str, name: str, **more: Any) -> dict[str, Any]:
    """The run with that attacker in the place of client 1."""
    return merge(raw, {"attackers": [{"name": attack, "clients": [1], "size": RUNS[name]["square"], **more}]})


def averaging(raw: dict[str, Any]) -> dict[str, Any]:
    """The same clients and model under FedAvg."""
    rest = {key: value for key, value in raw.items() if key not in {"method", "server", "algorithm"}}
    return rest | {"name": f"{raw['name']}_fedavg", "algorithm": {"name": "fedavg", "local": LOCAL}}


def persistence_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Success after every round."""
    base = merge(raw_run(given.data, data_of(given.data, given.scratch), given.device, seed), {"rounds": ROUNDS})
    rows = []
    for algorithm, attack in CASES:
        raw = averaging(base) if algorithm == "fedavg" else base
        acting = ACTING[-1:] * 2 if attack == "model_replacement" else ACTING
        config = resolve(FederatedRun, attacked(raw, attack, given.data, rounds=acting))
        run = RunDirectory(execute(config, given.scratch))
        lines = {line["round"]: line["value"] for line in run.metrics() if line["name"] == "attack_success.1"}
        found = run.read_json("result")
        measured = {key: found["backdoor"][key] for key in ("asr", "asr_clean", "lift", "accuracy_clean")}
        curve = [lines.get(number) for number in range(1, ROUNDS + 1)]
        rows.append({"algorithm": algorithm, "attack": attack, "acting": acting, "val": curve,
                     "accuracy": found["accuracy"], **measured})  # fmt: skip
    return {"rows": rows}


def sent(run: RunDirectory, round_number: int) -> Images:
    """The union of the sets of a round, as a server trains on it."""
    paths = sorted(run.path.glob(f"synthetic/round_{round_number:03d}/client_*.safetensors"))
    return union([SyntheticSet.load(path) for path in paths])


def transfer_part(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Networks trained on what was sent, with and without the attacker."""
    base = raw_run(given.data, data_of(given.data, given.scratch), given.device, seed)
    configs = {name: resolve(FederatedRun, attacked(base, name, given.data)) for name in SENT}
    clean = RunDirectory(execute(resolve(FederatedRun, base), given.scratch))
    runs = {name: RunDirectory(execute(config, given.scratch)) for name, config in configs.items()}
    parts, rows = settled(Parts(configs[SENT[0]])), []
    for attack, run in runs.items():
        (trigger,) = (one.trigger for one in left(run, base["rounds"]))
        for name in NETWORKS:
            pair = {}
            for kind, made in (("", run), ("_clean", clean)):
                network = trained(name, parts, sent(made, base["rounds"]), given, seed)
                hit = success(network, parts.dataset.test, trigger, parts.normalise)
                pair[f"asr{kind}"] = float(hit.float().mean())
                pair[f"accuracy{kind}"] = accuracy(network, parts.dataset.test, parts.normalise)
            rows.append({"attack": attack, "network": name, **pair, "lift": pair["asr"] - pair["asr_clean"]})
    return {"rows": rows}


def trained(name: str, parts: Parts, images: Images, given: argparse.Namespace, seed: int) -> Any:
    """A new network of that architecture, trained as the server trains; first weights and order are of seed and name."""
    words, device = dict(NETWORKS[name]), torch.device(given.device)
    architecture = named("model", words["name"])
    if words["name"] == "convnet":
        words |= RUNS[given.data]["model"]
    shape, classes = parts.dataset.image_shape, parts.dataset.num_classes
    rng = stream(seed, "backdoor_afterwards", name)
    network = build_network(architecture, architecture.Config(**words), shape, classes, rng, device)
    training = TrainConfig(**RUNS[given.data]["server"] | {"epochs": EPOCHS})
    fit(network, images.to(device), parts.normalise, training, rng)
    return network.eval()


PARTS: dict[str, Callable[[argparse.Namespace, int], dict[str, Any]]] = {
    "persistence": persistence_part, "transfer": transfer_part,
}  # fmt: skip


def asked(part: str, data: str) -> dict[str, Any]:
    """Settings that a kept part was made under."""
    own = {"rounds": ROUNDS, "acting": ACTING, "cases": CASES, "local": LOCAL}
    return {"run": RUNS[data]} | (
        own if part == "persistence" else {"attacks": SENT, "networks": NETWORKS, "epochs": EPOCHS}
    )


def main() -> None:
    """The chosen parts."""
    parts_of_seeds(__doc__, FOLDER, tuple(RUNS), PARTS, asked)


if __name__ == "__main__":
    run_or_exit(main)
