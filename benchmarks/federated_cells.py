"""Cells of the federated tables: every algorithm on the same clients, FedMK's parts one by one, privacy and its price.

Settings that are chosen are chosen on val, each algorithm from a grid of four, by the accuracy after the last round of
seed 0; `chosen` reads it from the kept cells of the grid, so that nothing is typed over.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from cell import Cell, seeds

RESULTS = Path(__file__).parent / "results"
DIGITS, MNIST = "configs/federated/digits_comparison.yaml", "configs/federated/mnist_comparison.yaml"

LOCAL = (
    "local: {{epochs: {epochs}, lr: {lr}, momentum: 0.0, weight_decay: 0.0, batch_size: {batch}, schedule: constant}}"
)
WEIGHTS: dict[str, tuple[tuple[float, ...], str, tuple[float, ...]]] = {
    "fedavg": ((0.02, 0.05, 0.1, 0.2), "", ()),
    "fedprox": ((0.1, 0.2), "mu", (0.01, 0.1)),
    "scaffold": ((0.02, 0.05, 0.1, 0.2), "", ()),
    "fednova": ((0.02, 0.05, 0.1, 0.2), "", ()),
    "fedavgm": ((0.05, 0.1), "server_lr", (0.3, 1.0)),
    "fedadam": ((0.05, 0.1), "server_lr", (0.01, 0.03)),
    "fedyogi": ((0.05, 0.1), "server_lr", (0.01, 0.03)),
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


def grid_cells(grids: dict[str, Trials], config: str) -> list[Cell]:
    """Every trial, seed 0, no control."""
    words = ("seed=0", "controls.upload_real_subset=false")
    return [
        Cell(f"{name}-{trial}", "run", config, (*overrides, *words))
        for name, found in grids.items()
        for trial, overrides in found.items()
    ]


def chosen(grids: dict[str, Trials], group: str) -> dict[str, tuple[str, ...]]:
    """The trial of each with the highest accuracy on val, of those whose whole grid is kept."""
    best = {}
    for name, found in grids.items():
        scores = {}
        for trial in found:
            path = RESULTS / group / f"{name}-{trial}" / "result.json"
            if path.is_file():
                scores[trial] = json.loads(path.read_text())["accuracy_by_round"][-1]
        if len(scores) == len(found):
            best[name] = found[max(scores, key=lambda trial: scores[trial])]
    return best


def compared(grids: dict[str, Trials], group: str, config: str, extra: tuple[str, ...], over: range) -> list[Cell]:
    """The chosen settings of each algorithm for several seeds; the centralised bound beside FedAvg."""
    bound = "controls.centralised={epochs: 15, lr: 0.05, momentum: 0.9, weight_decay: 0.0, batch_size: 32}"
    return [
        cell
        for name, words in chosen(grids, group).items()
        for cell in seeds(name, "run", config, (*words, *extra, *((bound,) if name == "fedavg" else ())), over)
    ]


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
    digits = digits_grids()
    skewed = ("partition.alpha=0.05", "name=digits_skewed")
    return {
        "digits_federated_grid": grid_cells(digits, DIGITS),
        "digits_federated": compared(digits, "digits_federated_grid", DIGITS, (), range(5)),
        "digits_federated_skewed": compared(digits, "digits_federated_grid", DIGITS, skewed, range(5)),
        "digits_fedmk_ablations": ablations(),
    }
