"""Cells of the federated tables: every algorithm on the same clients, FedMK's parts one by one, privacy and its price.

Settings that are chosen are chosen on val, each algorithm from a grid of four, by the accuracy after the last round of
seed 0; `chosen` reads it from the kept cells of the grid, so that nothing is typed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import private_cells
from cell import Cell, seeds

RESULTS = Path(__file__).parent / "results"
DIGITS, MNIST = "configs/federated/digits_comparison.yaml", "configs/federated/mnist_comparison.yaml"

LOCAL = (
    "local: {{epochs: {epochs}, lr: {lr}, momentum: 0.0, weight_decay: 0.0, batch_size: {batch}, schedule: constant}}"
)
WEIGHTS: dict[str, tuple[tuple[float, ...], str, tuple[float, ...]]] = {
    "fedavg": ((0.05, 0.1, 0.2, 0.4), "", ()),
    "fedprox": ((0.2, 0.4), "mu", (0.01, 0.1)),
    "scaffold": ((0.05, 0.1, 0.2, 0.4), "", ()),
    "fednova": ((0.05, 0.1, 0.2, 0.4), "", ()),
    "fedavgm": ((0.1, 0.2), "server_lr", (0.3, 1.0)),
    "fedadam": ((0.1, 0.2), "server_lr", (0.03, 0.1)),
    "fedyogi": ((0.1, 0.2), "server_lr", (0.03, 0.1)),
}
"""Local learning rates of each algorithm, and another setting with its values: four trials each."""

Trials = dict[str, tuple[str, ...]]
"""Name of a trial → its overrides."""


def trials(algorithm: str, epochs: int, batch: int) -> Trials:
    """The grid of an algorithm that sends weights."""
    rates, setting, values = WEIGHTS[algorithm]
    found: Trials = {}
    for lr, value in product(rates, values or (None,)):
        extra = f", {setting}: {value}" if setting else ""
        words = f"algorithm={{name: {algorithm}{extra}, {LOCAL.format(epochs=epochs, lr=lr, batch=batch)}}}"
        found[f"lr{lr:g}" + (f"-{setting}{value:g}" if setting else "")] = (words, "method=", "server=")
    return found


def condensing(algorithm: str, method: str, rates: tuple[float, ...], more: tuple[str, ...] = ()) -> Trials:
    """The grid of one that sends images: step size on the images, and the server's learning rate."""
    return {
        f"lr{lr:g}-server{server:g}": (
            f"algorithm={algorithm}", f"method={{{method}, lr: {lr}}}", f"server.lr={server}", *more
        )
        for lr, server in product(rates, (0.01, 0.03))
    }  # fmt: skip


DM = "name: dm, ipc: 5, iterations: 200, init: noise, optimiser: adam, batch_real: 64, networks: {{name: pool, size: 10, {}}}"
MK = "name: meta_knowledge, ipc: 5, iterations: {}, init: noise, optimiser: adam, batch_real: 16, inner_steps: 10, inner_lr: 0.2{}"
AROUND, RADIUS = "around: server, radius: {relative: 0.22}", ", networks: {name: perturb, radius: {relative: 0.22}}"
ONCE = ("rounds=1",)


def digits_grids() -> dict[str, Trials]:
    """Four trials of each of the eleven."""
    fedmk = "{name: fedmk, generator: {steps: 120, batch: 64, pseudo: 10}}"
    return {name: trials(name, 5, 32) for name in WEIGHTS} | {
        "feddm": condensing("feddm", DM.format(AROUND), (0.1, 0.2)),
        "fedmk": condensing(fedmk, MK.format(24, RADIUS), (0.3, 0.5), ("rounds=2",)),
        "one_shot_dm": condensing("one_shot", DM.format("around: fresh"), (0.1, 0.2), ONCE),
        "one_shot_fedmk": condensing("one_shot", MK.format(24, ""), (0.3, 0.5), ONCE),
    }


def grid_cells(grids: dict[str, Trials], config: str, group: str) -> list[Cell]:
    """Every trial with seed 0, and, once they are kept, those that share the best place with two more; no control."""
    cells = []
    for name, found in grids.items():
        places = [(trial, 0) for trial in found] + [
            (trial, seed) for trial in tied(name, found, group) for seed in MORE
        ]
        cells += [
            Cell(trial_cell(name, trial, seed), "run", config, (*found[trial], f"seed={seed}", "controls.upload_real_subset=false"))
            for trial, seed in places
        ]  # fmt: skip
    return cells


MORE = (1, 2)
"""Seeds that decide between trials which are equal with seed 0: val holds few images."""


def trial_cell(name: str, trial: str, seed: int) -> str:
    """Where a trial is kept."""
    return f"{name}-{trial}" + (f"-s{seed}" if seed else "")


def scores(name: str, found: Iterable[str], group: str, seeds: Sequence[int] = (0,)) -> dict[str, float]:
    """Accuracy on val after the last round, mean over the seeds, of every trial; empty where one is not kept."""
    kept = {}
    for trial in found:
        paths = [RESULTS / group / trial_cell(name, trial, seed) / "result.json" for seed in seeds]
        if not all(path.is_file() for path in paths):
            return {}
        kept[trial] = sum(json.loads(path.read_text())["accuracy_by_round"][-1] for path in paths) / len(paths)
    return kept


def tied(name: str, found: Iterable[str], group: str) -> list[str]:
    """Trials that share the best place with seed 0; none where one has it alone, or one is not kept."""
    first = scores(name, found, group)
    best = [trial for trial, score in first.items() if score == max(first.values())]
    return best if len(best) > 1 else []


def chosen(grids: dict[str, Trials], group: str) -> dict[str, str]:
    """The trial of each with the highest accuracy on val, of those whose whole grid is kept.

    Between equals the mean with two more seeds decides, once that is kept; the first of those that are equal still.
    """
    best = {}
    for name, found in grids.items():
        equal = tied(name, found, group)
        if given := scores(name, equal, group, (0, *MORE)) if equal else scores(name, found, group):
            best[name] = max(given, key=lambda trial: given[trial])
    return best


BOUND = "controls.centralised={{epochs: {}, lr: 0.05, momentum: 0.9, weight_decay: 0.0, batch_size: {}}}"


def _fedmk(iterations: int, lr: float, steps: int, alpha: float, *more: str) -> tuple[str, ...]:
    """FedMK's condensation on MNIST, in overrides of mnist_comparison.yaml."""
    named = {"iterations": iterations, "lr": lr, "inner_steps": steps, "inner_lr": alpha}
    return (*(f"method.{name}={value}" for name, value in named.items()), *more)


TWO = ("partition={name: classes_per_client, clients: 10, classes: 2}", "name=mnist_two_classes")
FEDMK_ON_MNIST: dict[str, Trials] = {
    "fedmk": {
        "as_configured": _fedmk(10, 0.5, 5, 0.02),
        "longer": _fedmk(30, 0.2, 5, 0.02),
        "larger_inner_rate": _fedmk(30, 0.2, 10, 0.1),
        "trained_networks": _fedmk(30, 0.2, 5, 0.02, "method.restart=10"),
    },
    "fedmk_real_start": {
        "as_configured": _fedmk(10, 0.5, 5, 0.02, "method.init=real"),
        "longer": _fedmk(30, 0.2, 5, 0.02, "method.init=real"),
        "small_step": _fedmk(30, 0.05, 5, 0.02, "method.init=real"),
        "trained_networks": _fedmk(30, 0.05, 5, 0.02, "method.init=real", "method.restart=10"),
    },
}
"""FedMK from noise and from real images (private pixels), with two classes per client; the choice is made on val."""


def two_classes(grids: dict[str, Trials]) -> dict[str, Trials]:
    """The same trials with two classes per client."""
    return {name: {trial: (*words, *TWO) for trial, words in found.items()} for name, found in grids.items()}


def fedmk_on_mnist(extra: tuple[str, ...]) -> list[Cell]:
    """The trial of each start that was chosen with two classes per client, three seeds; none before it is."""
    return [
        cell
        for name, trial in chosen(FEDMK_ON_MNIST, "mnist_fedmk_grid").items()
        for cell in seeds(name, "run", MNIST, (*FEDMK_ON_MNIST[name][trial], *extra), range(3))
    ]


def compared(grids: dict[str, Trials], config: str, extra: tuple[str, ...], over: range, bound: str) -> list[Cell]:
    """The settings of each algorithm that were chosen on the digits, for several seeds; the bound beside FedAvg."""
    return [
        cell
        for name, trial in chosen(digits_grids(), "digits_federated_grid").items()
        if name in grids
        for cell in seeds(
            name, "run", config, (*grids[name][trial], *extra, *((bound,) if name == "fedavg" else ())), over
        )
    ]


def mnist_grids() -> dict[str, Trials]:
    """The same trials with one local epoch, and condensation for MNIST's budget; the step on images is not transferred."""
    keys = digits_grids()
    dm = "name: dm, ipc: 10, iterations: 100, init: noise, optimiser: adam, lr: 0.2, batch_real: 256, networks: {{name: pool, size: 5, {}}}"
    images = {
        "feddm": ("algorithm=feddm", f"method={{{dm.format(AROUND)}}}", "server.epochs=30"),
        "one_shot_dm": (
            "algorithm=one_shot", f"method={{{dm.format('around: fresh')}}}", "server.epochs=300", "rounds=1",
            "method.iterations=400", "method.networks.size=20",
        ),
        "one_shot_fedmk": (
            "algorithm=one_shot", "method.networks=", "method.iterations=40", "server.epochs=300", "rounds=1"
        ),
    }  # fmt: skip
    return {name: trials(name, 1, 64) for name in WEIGHTS} | {
        name: {trial: (*words, f"server.lr={trial.partition('server')[2]}") for trial in keys[name]}
        for name, words in images.items()
    }


FEDMK = "configs/quickstart/fedmk_digits.yaml"
ABLATIONS: Trials = {
    "whole": (),
    "no_generator": ("algorithm.generator=",),
    "no_conditional_start": ("algorithm.conditional=false",),
    "equal_weights": ("method.weights=equal",),
    "no_inner_steps": ("method.inner_steps=0",),
}
"""FedMK's quickstart with one mechanism left out."""


def ablations() -> list[Cell]:
    """Five seeds each, paired by seed."""
    here, off = ("compute.workers=0",), ("controls.upload_real_subset=false",)
    return [
        cell
        for name, words in ABLATIONS.items()
        for cell in seeds(name, "run", FEDMK, (*words, *here, *(off if name != "whole" else ())), range(5))
    ]


def groups() -> dict[str, list[Cell]]:
    """Every federated table's cells."""
    digits, mnist = digits_grids(), mnist_grids()
    skewed = ("partition.alpha=0.05", "name=digits_skewed")
    some = {name: mnist[name] for name in ("fedavg", "fedprox", "feddm")}
    bound = BOUND.format(3, 64)
    return {
        "digits_federated_grid": grid_cells(digits, DIGITS, "digits_federated_grid"),
        "digits_federated": compared(digits, DIGITS, (), range(5), BOUND.format(15, 32)),
        "digits_federated_skewed": compared(digits, DIGITS, skewed, range(5), BOUND.format(15, 32)),
        "digits_fedmk_ablations": ablations(),
        "mnist_fedmk_grid": grid_cells(two_classes(FEDMK_ON_MNIST), MNIST, "mnist_fedmk_grid"),
        "mnist_federated": compared(mnist, MNIST, (), range(3), bound) + fedmk_on_mnist(()),
        "mnist_federated_two_classes": compared(some, MNIST, TWO, range(3), bound) + fedmk_on_mnist(TWO),
        "mnist_private": private_cells.cells(),
    }
