"""The runs behind equal_utility.py: six protocols on two data sets, and how many rounds each needs for one accuracy."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim import api
from fedsim.audit.schema import AuditRun
from fedsim.audit.targets import alone
from fedsim.config import validate
from fedsim.experiment import execute
from fedsim.runs import RunDirectory, write_atomic
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import numpy_stream

PROTOCOLS = ("fedavg", "feddm", "fedmk")
TARGET = {"digits": 0.88, "mnist": 0.90}
"""A*: accuracy on val, mean over pilot seeds, that decides the rounds: about what one round of FedDM brings."""
NEAR = 0.02
"""A protocol whose best number of rounds is further than this from A* is shown, and not compared."""
ROUNDS: dict[str, tuple[int, ...]] = {
    "fedavg": (1, 2, 3, 4, 6, 8, 12, 16), "feddm": (1, 2, 3), "fedmk": (1, 2, 3),
    "fedavg_dp": (3, 6, 12, 24), "feddm_dp": (1, 2, 3), "fedmk_dp": (1, 2),
}  # fmt: skip
"""Rounds that are looked at; under privacy a run of so many, since ε is for all of a run's rounds."""
EPSILON, DELTA = 10.0, 1e-5
PILOTS = (101, 102)
"""Seeds of the runs that choose; the audited ones have seed 0."""
MNIST_TRAIN, MNIST_TEST = 4000, 5000

Raw = dict[str, Any]


def data_of(name: str, scratch: Path) -> Raw:
    """The `data` section; of MNIST a file with the first 4,000 and 5,000 of a shuffle, made where there is none.

    MNIST is read from `mnist.npz` in the folder FEDSIM_DATA where that is there, else as the catalog does.
    """
    if name == "digits":
        return {"name": "digits", "val": 0.2}
    path = scratch / "mnist_small.npz"
    if not path.is_file():
        file, rng = Path(os.environ.get("FEDSIM_DATA", "")) / "mnist.npz", numpy_stream(0, "equal_utility", "mnist")
        whole = api.load("npz", path=str(file)) if file.is_file() else api.load("mnist")
        parts = {}
        for split, images, size in (("train", whole.train, MNIST_TRAIN), ("test", whole.test, MNIST_TEST)):
            chosen = images.take(torch.from_numpy(rng.permutation(len(images))[:size]))
            parts |= {f"x_{split}": chosen.pixels.numpy(), f"y_{split}": chosen.labels.numpy().astype(np.uint8)}
        parts["classes"] = np.array([str(digit) for digit in range(10)])
        content = io.BytesIO()
        np.savez(content, **parts)
        write_atomic(path, content.getvalue())  # several processes may make it at once
    # published constants: those of the file would be computed from private images
    return {"name": "npz", "path": str(path), "val": 0.2, "mean": [0.1307], "std": [0.3081]}


def raw_run(protocol: str, private: bool, name: str, data: Raw, device: str) -> Raw:
    """A run as a config file would say it, but for rounds and seed."""
    small = name == "digits"
    sizes: Raw = {"local": 32, "dm": 80, "mk": 10} if small else {"local": 32, "dm": 150, "mk": 20}
    found: Raw = {
        "name": f"equal_{name}_{protocol}" + "_dp" * private, "data": data, "audit": {"holdout": 0.4},
        "partition": {"name": "iid", "clients": 2},
        "model": {"name": "convnet", "depth": 2 if small else 3, "width": 16, "norm": "instance"},
        "participation": {"fraction": 1.0, "min_replies": 2, "timeout": 600}, "transcript": "all",
        "compute": {"device": device, "workers": 0, "compile": False},
        "controls": {"upload_real_subset": False, "noisy_class_means": False},
    }  # fmt: skip
    terms: Raw = {"target_epsilon": EPSILON, "delta": DELTA, "noise": "seeded"}
    server = {"epochs": 60, "lr": 0.01, "batch_size": 32}
    start: Raw = {"ipc": 5, "init": "noise", "optimiser": "adam"}
    if protocol == "fedavg":
        how = {"epochs": 1, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
        noisy = how | {"lr": 1.0}
        found["algorithm"] = {"name": "fedavg", "local": noisy if private else how | {"batch_size": sizes["local"]}}
        terms |= {"name": "dp_sgd", "public_bound": 500 if small else 1000, "rate": 0.2, "clip": 1.0}
    elif protocol == "feddm":
        networks = {"name": "pool", "size": 8, "around": "server", "radius": {"relative": 0.22}}
        found |= {"algorithm": {"name": "feddm"}, "server": server}
        found["method"] = start | {
            "name": "dm", "iterations": sizes["dm"], "lr": 0.2, "batch_real": 0, "networks": networks,
        }  # fmt: skip
        terms |= {"name": "features", "public_bound": 2000}
    else:
        pseudo = {"steps": 120, "batch": 64, "pseudo": 10}
        found |= {"algorithm": {"name": "fedmk", "generator": pseudo}, "server": server}
        found["method"] = start | {
            "name": "meta_knowledge", "iterations": sizes["mk"], "lr": 0.5, "batch_real": 0 if private else 16,
            "inner_steps": 5, "inner_lr": 0.2 if small else 0.02,
            "networks": {"name": "perturb", "radius": {"relative": 0.22}} if small else "fresh",
        }  # fmt: skip
        terms |= {"name": "gradients", "public_bound": 2000}
    return found | ({"privacy": terms} if private else {})


def pilot(raw: Raw, key: str, target: float, scratch: Path) -> Raw:
    """Accuracy on val by number of rounds, mean over pilot seeds, and the number that comes nearest to `target`.

    `near` says whether that is within `NEAR` of it.
    """
    private, found = "privacy" in raw, {}
    if not private:
        most = max(ROUNDS[key])
        curves = [_val(raw, most, seed, scratch) for seed in PILOTS]
        found = {rounds: float(np.mean([one[rounds - 1] for one in curves])) for rounds in ROUNDS[key]}
    else:
        for rounds in ROUNDS[key]:
            found[rounds] = float(np.mean([_val(raw, rounds, seed, scratch)[-1] for seed in PILOTS]))
            if found[rounds] >= target:
                break
    rounds = min(found, key=lambda rounds: (abs(found[rounds] - target), rounds))
    return {"val": found, "rounds": rounds, "target": target, "near": abs(found[rounds] - target) <= NEAR}


def _val(raw: Raw, rounds: int, seed: int, scratch: Path) -> list[float]:
    config = alone(resolve(FederatedRun, raw | {"rounds": rounds, "seed": seed, "transcript": "uploads"}))
    return RunDirectory(execute(config, scratch / "pilots")).read_json("result")["accuracy_by_round"]


def audit_of(raw: Raw, rounds: int, rows: int, workers: int, inversion: int) -> AuditRun:
    """The audit of one protocol: LiRA and identification, on what its server sees."""
    weights = raw["algorithm"]["name"] == "fedavg"
    release = "update" if weights else "client_sets"
    lira: Raw = {"name": "lira", "release": release, "networks": 1, "random_networks": 16}
    named: Raw = {"name": "identification", "release": release, "random_networks": 16}
    if weights:
        lira["statistics"] = ["model"]
        named |= {
            "statistics": [
                "gain",
                "inverted",
            ],  # as many as of sets: what the strongest of more scores names grows by chance
            "inversion": {"name": "inverting_gradients", "iterations": inversion},
        }
    run = resolve(FederatedRun, raw | {"rounds": rounds, "seed": 0})
    off = {"publish_subset": False, "overfit": 0, "single": False, "disjoint": False, "permuted": True}
    return validate(AuditRun, {
        "name": raw["name"], "run": run, "rows": rows, "workers": workers, "attacks": [lira, named], "controls": off,
    })  # fmt: skip
