"""Training images from a weight change, by width: `python benchmarks/ntk_reconstruction.py [--parts …] [--device …]`.

A part is one kind of training; all its seeds are one batch. Networks: `wide`, a perceptron of one hidden layer in the NTK
parametrisation, and `usual`, fedsim's `mlp` as it is (2 × 128). MNIST records, pixels in 0..1, mean squared error on ±1 for
the parity of a digit, or on one-hot minus a tenth for the digit. Training is linear in the weights, or gradient descent to
a mean squared error of 1e-4. For every part:

    residual         ρ of the evaluator (fedsim/audit/tangent.py); above 0.2 the part is INCONCLUSIVE, whatever was found
    identified       records whose matched reconstruction is nearer to them than to 99 held-out ones of the same digit
    null             the same count where held-out records of the same digits take the places of the training records
                     (attacks/exchange.py), mean of 999 draws; p = (1 + draws that count as many or more) / 1000
    accuracy         10,000 test images: trained on the records, on the reconstructions with the labels of their duals (RKIP),
                     on as many other records; each from weights of its own

A finished part is benchmarks/results/ntk/PART.json and PART.png (records, reconstructions, the same for one null draw; the
best matched first); it is not computed again. `--tiny` is a quick look on a CPU, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept_parts import chosen_device, run_or_exit, there
from ntk_evidence import DRAWS, Digits, panel
from ntk_training import SHAPE, Problem, linear, problem, trained
from pairs import machine
from provenance import commit
from torch import Tensor

from attacks.exchange import Exchange, exchanged, p_value
from attacks.gradient_matching import Observed, Reconstruction, stack
from attacks.ntk_reconstruction import Config, NTKReconstruction
from fedsim.audit.tangent import LAZY, residual
from fedsim.config import dump
from fedsim.data.transforms import Normalise
from fedsim.seeding import numpy_stream, stream
from fedsim.types import UserError

RESULTS = Path(__file__).parent / "results/ntk"
RETRAINING = 2000
"""Most steps of a retraining: some sets of reconstructions cannot be fitted."""
PLAIN = Normalise((0.0,), (1.0,))


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    task: str
    """parity or digit."""
    network: str
    width: int
    linear: bool
    records: int = 20
    seeds: int = 5
    depth: int = 1
    candidates: int = 1


PARTS = {
    "parity_1024_linear": Part("parity", "wide", 1024, True),
    "parity_256": Part("parity", "wide", 256, False),
    "parity_1024": Part("parity", "wide", 1024, False),
    "parity_4096": Part("parity", "wide", 4096, False),
    "digit_1024_linear": Part("digit", "wide", 1024, True),
    "digit_256": Part("digit", "wide", 256, False),
    "digit_1024": Part("digit", "wide", 1024, False),
    "digit_4096": Part("digit", "wide", 4096, False),
    "digit_usual": Part("digit", "usual", 128, False, depth=2),
    "digit_100_4096_linear": Part("digit", "wide", 4096, True, records=100, seeds=3),
    "digit_100_4096": Part("digit", "wide", 4096, False, records=100, seeds=3),
    "digit_1024_linear_twice": Part("digit", "wide", 1024, True, candidates=2),
}


def targets(labels: Tensor, task: str) -> Tensor:
    """What outputs are to be."""
    return (labels[:, None] % 2) * 2.0 - 1 if task == "parity" else torch.eye(10, device=labels.device)[labels] - 0.1


def accuracy(given: Problem, data: dict[str, np.ndarray], task: str) -> float:
    """Of a network trained by gradient descent on the problem, on the test images."""
    weights = trained(given, RETRAINING)[0]
    pixels = torch.from_numpy(data["x_test"])[:, None].to(given.images) / 255
    labels = torch.from_numpy(data["y_test"]).long().to(given.images.device)
    with torch.no_grad():
        outputs = given.outputs(given.params | weights, pixels)
    right = (outputs[:, 0] > 0).long() == labels % 2 if task == "parity" else outputs.argmax(1) == labels
    return float(right.float().mean())


def retrained(
    part: Part, seed: int, true: Digits, found: Tensor, named: Tensor, data: dict[str, np.ndarray]
) -> dict[str, float]:
    """Accuracies of networks with fresh weights: RKIP beside the records themselves and as many others."""
    sets = {
        "records": (true.images, true.labels),
        "reconstructions": (found, named),
        "others": (true.held, true.held_labels),
    }
    result = {}
    for name, (images, labels) in sets.items():
        count = len(true.images)
        fresh = problem(
            part.network, part.width, part.depth, seed + 1000, images[:count], targets(labels[:count], part.task)
        )
        result[name] = accuracy(fresh, data, part.task)
    return result


def attacked(part: Part, data: dict[str, np.ndarray], config: Config, device: str, picture: Path) -> dict[str, Any]:
    """All seeds of a part."""
    truths = [Digits.of(data, part.records, seed, device) for seed in range(part.seeds)]
    problems = [
        problem(part.network, part.width, part.depth, seed, true.images, targets(true.labels, part.task))
        for seed, true in enumerate(truths)
    ]
    rows, changes = [], []
    for given in problems:
        weights, error, steps = (linear(given), 0.0, 0) if part.linear else trained(given)
        change = {name: weights[name] - given.params[name] for name in weights}
        rho = residual(given.network, given.params, change, given.images)
        rows.append({"training_error": error, "training_steps": steps, "residual": rho})
        changes.append({name: -value for name, value in change.items()})
        print(f"  trained: {rows[-1]}", flush=True)
    outputs = problems[0].targets.shape[1]
    params = stack([given.params for given in problems])
    observed = Observed(problems[0].network, params, stack(changes), SHAPE, outputs, PLAIN, part.records)
    found = NTKReconstruction(config).reconstruct(observed, stream(0, "ntk"))
    for seed, true in enumerate(truths):
        others = true.others(seed)
        seen = exchanged(found.images[seed], true.images, others, DRAWS, numpy_stream(seed, "exchange"))
        if seed == 0:
            panel(picture, found.images[0], true, others, seen)
        rows[seed] |= outcome(part, seed, true, seen, found) | {
            "accuracy": retrained(part, seed, true, found.images[seed], found.labels[seed], data)
        }
    return summed(part, rows)


def outcome(part: Part, seed: int, true: Digits, seen: Exchange, found: Reconstruction) -> dict[str, Any]:
    """Of one seed."""
    labels = true.labels % 2 if part.task == "parity" else true.labels
    named = found.labels[seed][torch.from_numpy(seen.place).to(labels.device)]
    errors, count = seen.errors / np.prod(SHAPE), int(seen.identified.sum())
    return {
        "loss": float(found.gradient_loss[seed]),
        "identified": count,
        "null_mean": float(seen.null.mean()),
        "null_most": int(seen.null.max()),
        "p": p_value(count, seen.null),
        "mse_median": float(np.median(errors)),
        "mse_below_0.01": int((errors < 0.01).sum()),
        "mse_below_0.001": int((errors < 0.001).sum()),
        "labels_right": int((named == labels).sum()),
    }


def summed(part: Part, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The part in one line."""
    worst, count = max(row["residual"] for row in rows), part.records * len(rows)
    mean_accuracy = {name: float(np.mean([row["accuracy"][name] for row in rows])) for name in rows[0]["accuracy"]}
    keys = ("identified", "mse_below_0.01", "mse_below_0.001", "labels_right", "null_mean")
    return {
        "status": "INCONCLUSIVE" if worst > LAZY else "MEASURED",
        "residual_worst": worst,
        "records": count,
        **{key: sum(row[key] for row in rows) for key in keys},
        "p_worst": max(row["p"] for row in rows),
        "accuracy": mean_accuracy,
        "seeds": rows,
    }


def main() -> None:
    """The parts that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDSIM_DATA", "data")) / "mnist.npz")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="*", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=0, help="0: as many as the part says")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="width 256 at most, one seed, 300 steps")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.device = str(chosen_device(chosen.device))
    folder, revision = chosen.out / "tiny" if chosen.tiny else chosen.out, commit()
    folder.mkdir(parents=True, exist_ok=True)
    if not chosen.data.is_file():
        raise UserError(f"--data {chosen.data}: no such file; give mnist.npz, or FEDSIM_DATA that holds it")
    with np.load(chosen.data) as stored:
        data = {name: stored[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    for name in chosen.parts:
        one(name, chosen, data, folder, revision)


def one(name: str, chosen: argparse.Namespace, data: dict[str, np.ndarray], folder: Path, revision: str | None) -> None:
    """A part, unless it is kept."""
    file, part = folder / f"{name}.json", PARTS[name]
    config = Config(iterations=300 if chosen.tiny else chosen.iterations, candidates=part.candidates)
    if chosen.tiny:
        part = replace(part, width=min(part.width, 256), seeds=1, records=min(part.records, 20))
    part = replace(part, seeds=chosen.seeds or part.seeds)
    asked = {"part": vars(part), "attack": dump(config)}
    if there(file, asked):
        print(f"{name}: kept", flush=True)
        return
    print(name, flush=True)
    started = time.perf_counter()
    result = attacked(part, data, config, chosen.device, folder / f"{name}.png")
    facts = {**asked, "asked": asked, "data": chosen.data.name, "commit": revision}
    facts |= {
        "machine": machine(chosen.threads),
        "device": chosen.device,
        "seconds": round(time.perf_counter() - started, 1),
    }
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(facts | result, indent=1) + "\n")
    partial.replace(file)
    print(
        f"  {json.dumps({key: value for key, value in result.items() if key != 'seeds'})} {facts['seconds']} s",
        flush=True,
    )


if __name__ == "__main__":
    run_or_exit(main)
