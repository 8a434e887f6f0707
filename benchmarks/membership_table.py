"""The survey's membership table redone: `python benchmarks/membership_table.py [--parts mnist_dm …] [--device cuda]`.

Of MNIST and CIFAR-10 (JPEG), 500 members and 500 others of each class; the members are condensed into 1, 5 and 10 images of
each class (ratios 0.002, 0.01, 0.02) by Distribution Matching from noise and from real images, by DSA, and by `random`, which
publishes members as they are; beside them a network trained on the members themselves. Rows of members are drawn in complementary
pairs, every row is a target once and a shadow of the others (membership_rows.py).

Three attacks of `attacks/` as they are: the survey's loss threshold (2206.00240; τ from other rows, never from the target), LiRA
on three statistics and their sum, and the exact test on the records nearest to what was released. Holm's correction is over the
three registered tests of a line. The negative control of a line: LiRA's scores against membership drawn anew.

A line is kept under benchmarks/results/audit_table/ as soon as it is judged; sets lie under --work, a second call goes on. The
p-value of LiRA needs all scores again for every drawn row and no GPU: it is computed in processes beside.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import packed_images
import torch
from kept_parts import chosen, run_or_exit, there
from membership_lines import Line, lines, model
from membership_rows import Ground, Rows, computed, ground
from provenance import facts, fingerprint

from attacks.extraction import Config as ExtractionConfig
from attacks.extraction import Extraction
from attacks.lira import Config as LiRAConfig
from attacks.lira import LiRA
from attacks.loss_threshold import Config as LossConfig
from attacks.loss_threshold import LossThreshold
from attacks.membership_likelihoods import leave_pairs_out
from attacks.membership_statistics import Laboratory
from fedsim.audit import controls as known
from fedsim.audit.card import judged
from fedsim.audit.types import Finding, Scores, Truth
from fedsim.compute import Compute, settle
from fedsim.data.synthetic import SyntheticSet
from fedsim.runs import write_atomic
from fedsim.seeding import Streams
from fedsim.training.evaluate import EvaluationConfig, score
from fedsim.training.train import TrainConfig, accuracy

RESULTS = Path(__file__).parent / "results/audit_table"


def attacks_of(line: Line, options: argparse.Namespace) -> tuple[LiRA, LossThreshold, *tuple[Extraction, ...]]:
    """What is tried on a line."""
    told: dict[str, Any] = {"release": "client_sets" if line.ipc else "server_model", "networks": options.networks}
    statistics = ("model", "nn_embedding", "align") if line.ipc else ("model",)
    more: dict[str, Any] = {"random_networks": options.random_networks, "permutations": options.permutations}
    lira = LiRA(LiRAConfig(statistics=statistics, **more, **told))
    loss = LossThreshold(LossConfig(**told))
    return (lira, loss, Extraction(ExtractionConfig())) if line.ipc else (lira, loss)


def likelihoods(attack: LiRA, rows: Rows, members: np.ndarray, streams: Streams) -> list[Scores]:
    """What `LiRA.run` gives for every target, measured once for each row; without the ceiling of the exact mean, whose
    kernel over 10,000 records takes 800 MB."""
    laboratory = Laboratory.of(rows.view(0, attack.threat), attack.config, streams)
    released = [rows.released(row, attack.threat) for row in range(rows.count)]
    found: dict[str, np.ndarray] = {}
    for name in attack.config.statistics:
        values = np.stack([laboratory.measure(name, one) for one in released])
        found |= {
            f"value.{name}": values,
            f"score.{name}": leave_pairs_out(values, members, attack.config.prior_degrees),
        }
    found["score.combo"] = np.sum([found[f"score.{name}"] for name in attack.config.statistics], axis=0)
    shadows = {"shadow_runs": np.array(rows.count - 2)}
    return [shadows | {name: values[row] for name, values in found.items()} for row in range(rows.count)]


def attacked(line: Line, rows: Rows, options: argparse.Namespace) -> list[tuple[Any, list[Scores]]]:
    """Every attack with its scores of all rows."""
    found = []
    for attack in attacks_of(line, options):
        streams = Streams(options.seed, ("attack", attack.config.name))
        if isinstance(attack, LiRA):
            found.append((attack, likelihoods(attack, rows, rows.ground.members(rows.count), streams)))
        else:
            found.append((attack, [attack.run(rows.view(row, attack.threat), streams) for row in range(rows.count)]))
    return found


def utility(line: Line, rows: Rows, options: argparse.Namespace) -> list[float]:
    """Test accuracy of networks trained on what the first two rows released."""
    public, test = rows.ground.public, rows.ground.data.test
    if not line.ipc:
        models = [rows.released(row, attacks_of(line, options)[1].threat).server_model() for row in (0, 1)]
        return [accuracy(public.with_weights(one), test, public.normalise) for one in models]
    sets = [SyntheticSet.load(rows.set_file(row)).as_images().to(public.device) for row in (0, 1)]
    config = EvaluationConfig(nets=options.networks, train=public.train or TrainConfig())
    streams = Streams(options.seed, ("table", "utility"))
    found = score(sets, test, public.normalise, config, public.fresh, streams, execution=public.execution)
    return [value for row in found.values for value in row]


def concluded(
    path: Path, kept: dict[str, Any], done: list[tuple[Any, list[Scores]]], truths: list[Truth], seed: int
) -> str:
    """Findings and control from the scores; writes the line."""
    started, findings = time.monotonic(), []
    for attack, scores in done:
        findings += attack.evaluate(scores, truths)
    lira, scores = done[0]
    controls = [known.judge_permuted(scores, known.permuted(truths, seed), lira.statistic)]
    if kept["line"]["method"] == "random":
        nearest = next(found for attack, found in done if isinstance(attack, Extraction))
        controls.append(known.judge_published({"nearest": nearest[0]["nearest"]}, truths[0]))
    kept["findings"] = [plain(one) for one in judged(findings, controls)]
    kept["controls"] = [asdict(one) for one in controls]
    kept["seconds"] |= {"judged": round(time.monotonic() - started, 1)}
    write_atomic(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return path.name


def plain(one: Finding) -> dict[str, Any]:
    """A finding without its curves."""
    values = asdict(one) | {"release": str(one.release), "status": str(one.status)}
    kept = ("targets", "p_holm", "members_drawn", "drawn", "expected", "held_out_rate", "per_class", "fpr", "threshold")
    return values | {"details": {name: one.details[name] for name in kept if name in one.details}}


def main() -> None:
    """Every line that was asked for and is not there."""
    options = parsed()
    torch.set_num_threads(1)
    provenance = facts(options.device)
    compute = settle(Compute(device=options.device))
    grounds: dict[str, Ground] = {}
    waiting: list[Future[str]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=options.beside, mp_context=context) as beside:
        every = {line.name: line for line in lines()}
        for line in [every[name] for name in chosen(list(every), options.parts)]:
            path = options.out / f"{line.name}.json"
            if there(path, asked_of(options)):
                continue
            if line.data not in grounds:
                grounds[line.data] = prepared(line.data, computed(compute.device), options)
            waiting.append(beside.submit(concluded, path, *one(line, grounds[line.data], provenance, options)))
        for future in waiting:
            print(f"kept {future.result()}", flush=True)


def one(line: Line, ground: Ground, provenance: dict[str, Any], options: argparse.Namespace) -> tuple[Any, ...]:
    """All of a line that needs a GPU: what `concluded` asks for."""
    started, settings = time.monotonic(), line.settings(options)
    depends = [settings, model(options), options.members, options.auxiliary, options.seed]
    rows = Rows(ground, line.name, options.work / f"{line.name}-{fingerprint(depends)}", options.rows)
    if line.ipc:
        rows.make_sets(settings, together=line.method == "dm")
    else:
        rows.make_models(TrainConfig(**settings["train"]))
    made = time.monotonic()
    done, accuracies = attacked(line, rows, options), utility(line, rows, options)
    seconds = {"made": round(made - started, 1), "attacked": round(time.monotonic() - made, 1)}
    print(f"{line.name}: accuracy {np.mean(accuracies):.3f}, {seconds}", flush=True)
    about: dict[str, Any] = {
        "rows": rows.count, "members_per_class": options.members, "records": len(ground.pool.positions), "model": model(options),
        "attack_networks": options.networks, "attack_epochs": options.epochs, "random_networks": options.random_networks,
        "auxiliary_per_class": options.auxiliary, "permutations": options.permutations, "seed": options.seed,
    }  # fmt: skip
    kept = {
        "asked": asked_of(options),
        "line": asdict(line),
        "method": settings,
        "settings": about,
        "accuracy": accuracies,
        "seconds": seconds,
        **provenance,
    }
    truths = [{"members": ground.pool.members(row), "labels": ground.pool.labels} for row in range(rows.count)]
    return kept, done, truths, options.seed


def asked_of(options: argparse.Namespace) -> dict[str, int]:
    """What a line depends on, of what was asked for."""
    return {name: value for name, value in vars(options).items() if isinstance(value, int) and name != "beside"}


def prepared(data: str, compute: Compute, options: argparse.Namespace) -> Ground:
    """The pool of a data set."""
    train = TrainConfig(epochs=options.epochs)
    return ground(
        packed_images.load(data, options.data),
        options.members,
        options.auxiliary,
        model(options),
        train,
        compute,
        options.seed,
    )


def parsed() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", help="beginnings of names, such as mnist_dm cifar10_random")
    parser.add_argument("--data", help="folder of mnist.npz and cifar10.npz")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("runs/audit_table"))
    numbers = {"members": 500, "rows": 12, "iterations": 0, "width": 64, "networks": 5, "epochs": 100,
               "real-epochs": 40, "random-networks": 16, "auxiliary": 100, "permutations": 199, "seed": 0, "beside": 2}  # fmt: skip
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    run_or_exit(main)
