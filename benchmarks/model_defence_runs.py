"""The models behind model_defences.py: federations and networks trained centrally, and a finished one as a defence sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attacks.poisoning import poisoned_rows
from fedsim.backdoors import left, success
from fedsim.build import Parts
from fedsim.config import merge
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger
from fedsim.experiment import execute
from fedsim.federated.base import network_with
from fedsim.models.network import Network
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, accuracy, fit
from fedsim.workload import settled

EPSILONS = (None, 10.0, 1.0)
"""None: no privacy."""
POOL = {"name": "pool", "size": 5, "around": "server", "radius": {"relative": 0.22}}
START = {"name": "dm", "init": "noise", "optimiser": "adam", "lr": 0.2}
RUNS: dict[str, dict[str, Any]] = {
    "digits": {
        "clients": 5, "square": 2, "model": {"depth": 2, "width": 16},
        "method": {"ipc": 5, "iterations": 60, "batch_real": 0, "networks": POOL},
        "server": {"epochs": 60, "lr": 0.01, "batch_size": 64},
    },
    "mnist": {
        "clients": 10, "square": 4, "model": {"depth": 3, "width": 16},
        "method": {"ipc": 10, "iterations": 100, "batch_real": 0, "networks": POOL},
        "server": {"epochs": 30, "lr": 0.01, "batch_size": 128},
    },
}  # fmt: skip
"""By data set; the square is the trigger's side in pixels."""
CENTRAL, STAMPED = TrainConfig(epochs=30, lr=0.05, batch_size=64), 0.5
"""Training of the networks without a federation, and the share of the records that is stamped and relabelled."""


@dataclass(frozen=True)
class Finished:
    """A run, its model and the images that are looked at."""

    network: Network
    normalise: Normalise
    held: Images
    """The server's held-out images."""
    test: Images
    trigger: Trigger | None
    """What its attacker left; None: it had none."""
    measured: dict[str, Any]
    """Accuracy, success, lift."""

    @property
    def device(self) -> torch.device:
        """Where its network lives."""
        return next(self.network.parameters()).device


def raw_run(name: str, data: dict[str, Any], device: str, seed: int) -> dict[str, Any]:
    """The run without an attacker as a config file would say it."""
    told = RUNS[name]
    return {
        "name": f"model_defences_{name}", "seed": seed, "rounds": 2, "data": data,
        "compute": {"device": device, "workers": 0, "compile": False},
        "partition": {"name": "iid", "clients": told["clients"]},
        "model": {"name": "convnet", "norm": "instance", **told["model"]}, "algorithm": {"name": "feddm"},
        "method": {**START, **told["method"]}, "server": told["server"],
        "controls": {"upload_real_subset": False, "noisy_class_means": False},
    }  # fmt: skip


def private(raw: dict[str, Any], epsilon: float | None) -> dict[str, Any]:
    """One round of it, and under privacy the noisy sums of that ε."""
    terms = {"name": "features", "target_epsilon": epsilon, "delta": 1e-5, "public_bound": 2000, "noise": "seeded"}
    return merge(raw, {"rounds": 1, **({} if epsilon is None else {"privacy": terms})})


def finished(base: dict[str, Any], attack: str, name: str, scratch: Path, *epsilon: float | None) -> Finished:
    """The run with that attacker (`clean`: none), made or found; with an `epsilon`, one round of it under privacy."""
    raw = private(base, *epsilon) if epsilon else base
    if attack != "clean":
        raw = merge(raw, {"attackers": [{"name": attack, "clients": [1], "size": RUNS[name]["square"]}]})
    config = resolve(FederatedRun, raw)
    run, parts = RunDirectory(execute(config, scratch)), settled(Parts(config))
    stored = run.last_round()
    assert stored is not None, "the run is finished"
    weights = {key.removeprefix("weights."): value for key, value in stored[1].items() if key.startswith("weights.")}
    found, triggers = run.read_json("result"), left(run, config.rounds)
    measured = {"accuracy": found["accuracy"]}
    if "backdoor" in found:
        one = found["backdoor"]
        measured |= {key: one[key] for key in ("asr", "asr_clean", "asr_random_patch", "lift", "accuracy_clean")}
    return Finished(
        network_with(parts.setting, weights).eval(), parts.normalise, parts.images(parts.split.val), parts.dataset.test,
        triggers[0].trigger if triggers else None, measured,
    )  # fmt: skip


def central(base: dict[str, Any], trigger: Trigger, seed: int) -> dict[str, Finished]:
    """The control with a backdoor for certain: one network on all clients' records, half of them stamped, and its clean twin."""
    config = resolve(FederatedRun, base)
    parts, streams = settled(Parts(config)), Streams(seed, ("model_defences", "central"))
    records = parts.images(parts.split.train)
    rows = poisoned_rows(records, trigger.target, STAMPED, streams.generator("rows"))
    networks = {}
    for name, images in {"central clean": records, "central naive": trigger.poison(records, rows)}.items():
        networks[name] = parts.fresh()(streams.generator("weights"))
        fit(networks[name], images.to(parts.device), parts.normalise, CENTRAL, streams.generator("train"))
    test, normalise = parts.dataset.test, parts.normalise
    right = {name: accuracy(one, test, normalise) for name, one in networks.items()}
    hits = {name: float(success(one, test, trigger, normalise).double().mean()) for name, one in networks.items()}
    clean, bad = networks
    measured = {
        clean: {"accuracy": right[clean]},
        bad: {"accuracy": right[bad], "asr": hits[bad], "asr_clean": hits[clean], "lift": hits[bad] - hits[clean],
              "accuracy_clean": right[clean]},
    }  # fmt: skip
    held = parts.images(parts.split.val)
    return {
        name: Finished(one.eval(), normalise, held, test, trigger, measured[name]) for name, one in networks.items()
    }
