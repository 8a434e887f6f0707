"""Run the cells of the published tables and keep what they gave: `python benchmarks/cells.py GROUP [--compute workers=2]`.

A cell is a config with overrides and a seed. Its config, manifest (commit, versions, machine), metrics and result.json
are kept under benchmarks/results/GROUP/CELL/; a kept cell is not run again, delete its folder to do so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import federated_cells
from cell import Cell, seeds

from fedsim.config import override, read
from fedsim.experiment import execute
from fedsim.schema import load_distillation, load_run

RESULTS = Path(__file__).parent / "results"
KEPT = ("config.yaml", "manifest.json", "metrics.jsonl", "result.json")


MNIST, FEDAVG = "configs/federated/mnist_feddm.yaml", "configs/federated/mnist_fedavg.yaml"
TWO_CLASSES = ("partition=classes_per_client", "partition.clients=10", "partition.classes=2")
GRID = [(lr, epochs) for epochs in (1, 5) for lr in (0.03, 0.1)]
"""FedAvg's local learning rate and epochs; the choice is made on val."""


METHODS = (
    "dm", "dc", "dsa", "cafe", "datadam", "idc", "model_augmentation", "ncfm",
    "random", "herding", "k_center", "forgetting", "k_means",
)  # fmt: skip
SIAMESE = "augment: {strategy: [color, crop, cutout, scale, rotate]}"
ADAM, POOL = "init: noise, optimiser: adam", "networks: {name: pool, size: 30}"
ON_TRAINED = f"{ADAM}, lr: 0.1, batch_real: 64"
CORESET = "pretrain: {epochs: 2, batch_size: 64}"
SHELF = {
    "dm": f"iterations: 1000, {ADAM}, lr: 0.2, {SIAMESE}, {POOL}",
    "datadam": f"iterations: 1000, {ADAM}, lr: 0.2, batch_real: 256, {SIAMESE}, {POOL}",
    "ncfm": f"iterations: 1000, {ADAM}, lr: 0.05, batch_real: 256, frequencies: 1024, {SIAMESE}, {POOL}",
    "cafe": f"iterations: 300, {ADAM}, lr: 0.1, batch_real: 32, query: 32, network_steps: 10, inner_epochs: 5, {SIAMESE}",
    "dc": f"{ON_TRAINED}, iterations: 400, outer: 5, inner: 5",
    "dsa": f"{ON_TRAINED}, iterations: 400, outer: 5, inner: 5, {SIAMESE}",
    "idc": f"{ON_TRAINED}, iterations: 300, outer: 10, train_images: 256",
    "model_augmentation": f"{ON_TRAINED}, iterations: 150, outer: 10, train_images: 256, networks: {{name: early, size: 2, epochs: 1}}",
    "random": "",
    "herding": CORESET,
    "k_center": CORESET,
    "k_means": CORESET,
    "forgetting": "train: {epochs: 5, batch_size: 64}",
}
"""MNIST: settings of each method for a budget of minutes on one core; chosen beforehand from the papers' and the digits'
quickstarts, tuned on nothing."""
ONE_PROTOCOL = (
    "compute.compile=true",
    "compute.precision=bfloat16",
    "evaluation.train.epochs=300",
    "controls.random_subset=false",
)


def shelf(ipc: int) -> list[Cell]:
    """Every method on MNIST under one protocol; the control is the cell `random`."""
    cells = []
    for name in METHODS:
        settings = ", ".join(part for part in (f"name: {name}", f"ipc: {ipc}", SHELF[name]) if part)
        sets = ("sets=5", "evaluation.nets=1") if name == "random" else ("sets=1", "evaluation.nets=3")
        words = (f"method={{{settings}}}", f"name=mnist_{name}_ipc{ipc}", *ONE_PROTOCOL, *sets)
        cells.append(Cell(name, "distill", "configs/distill/mnist_dm.yaml", words))
    return cells


HOUR = {"dm": (2000, (0, 250, 500, 1000, 2000)), "dsa": (100, (0, 50, 100))}
"""CIFAR-10: iterations that an hour of one core allows, and where the sets are scored on the way."""


def cifar10_hour() -> list[Cell]:
    """The published settings (real start, SGD, fresh networks) for an hour each; needs data/cifar10.npz."""
    data = "data={name: npz, path: data/cifar10.npz, val: 0.0}"
    words = (data, "sets=1", *ONE_PROTOCOL[:-1], "evaluation.nets=3")
    return [
        Cell(name, "distill", f"configs/paper/{name}_cifar10_ipc10.yaml",
             (*words, f"method.iterations={iterations}", f"curve={list(curve)}"))
        for name, (iterations, curve) in HOUR.items()
    ]  # fmt: skip


DC_PAPER = ("method.batch_real=64", "sets=1", "evaluation.nets=3", "compute.compile=true", "compute.precision=bfloat16")
"""The published settings but for a quarter of the real images and fewer networks in the evaluation."""
OTHERS = (
    "architectures=[{name: convnet, depth: 3, width: 128, norm: batch}, lenet, mlp, alexnet, vgg11, resnet18, "
    "{name: resnet18, norm: batch}, vit]"
)


def mnist_architectures() -> list[Cell]:
    """Sets of one image per class under other networks than the one they were condensed with."""
    cells = {cell.name: cell for cell in shelf(1)}
    words = (OTHERS, "controls.random_subset=true", "evaluation.nets=2")
    return [
        Cell(name, "distill", cells[name].config, (*cells[name].overrides, f"name=mnist_{name}_architectures", *words))
        for name in ("dm", "idc")
    ]


def digits_shelf() -> list[Cell]:
    """Every method's quickstart at one image per class, five sets, beside as many random subsets."""
    words = ("method.ipc=1", "sets=5", "evaluation.nets=2")
    return [Cell(name, "distill", f"configs/quickstart/distill_{name}_digits.yaml", words) for name in METHODS]


OPTIONS = {
    "dm": ("dm", ()),
    "dm, zca 0.1": ("dm", ("data.zca=0.1",)),
    "dm, teacher's labels": ("dm", ("evaluation.labels=teacher",)),
    "ncfm": ("ncfm", ()),
    "ncfm, learned frequencies": ("ncfm", ("method.frequencies_from=learned",)),
    "dc": ("dc", ()),
    "dc, learned labels": ("dc", ("method.labels=learned", "evaluation.labels=soft")),
    "dc, learned with labels, scored hard": ("dc", ("method.labels=learned",)),
}
"""What an option changes, beside the method without it."""


def digits_options() -> list[Cell]:
    """Options of the shelf at one image per class, five sets each."""
    words = ("method.ipc=1", "sets=5", "evaluation.nets=2", "compute.compile=false")
    return [
        Cell(
            name.replace(", ", "-").replace(" ", "_").replace("'", ""), "distill",
            f"configs/quickstart/distill_{method}_digits.yaml", (*words, *option),
        )
        for name, (method, option) in OPTIONS.items()
    ]  # fmt: skip


def groups() -> dict[str, list[Cell]]:
    """Every table's cells."""
    table: dict[str, list[Cell]] = {
        "digits_feddm": seeds("feddm", "run", "configs/quickstart/feddm_digits.yaml", (), range(5)),
        "mnist_feddm": seeds("ipc10", "run", MNIST, (), range(3)),
        "mnist_feddm_ipc1": seeds("ipc1", "run", MNIST, ("method.ipc=1",), range(3)),
        "mnist_feddm_2classes": seeds("ipc10", "run", MNIST, TWO_CLASSES, range(3)),
        "digits_shelf": digits_shelf(),
        "digits_options": digits_options(),
        "mnist_shelf_ipc1": shelf(1),
        "mnist_shelf_ipc10": shelf(10),
        "cifar10_hour": cifar10_hour(),
        "mnist_architectures": mnist_architectures(),
        "mnist_dc": [Cell("ipc1-s0", "distill", "configs/paper/dc_mnist_ipc1.yaml", DC_PAPER)],
        "mnist_dm": [Cell("ipc10-s0", "distill", "configs/distill/mnist_dm.yaml")],
    }
    for group, extra in (("mnist_fedavg", ()), ("mnist_fedavg_2classes", TWO_CLASSES)):
        table[group] = [
            Cell(
                f"lr{lr:g}-e{epochs}-s0",
                "run",
                FEDAVG,
                (*extra, f"algorithm.local.lr={lr:g}", f"algorithm.local.epochs={epochs}"),
            )
            for lr, epochs in GRID
        ]
    return table | federated_cells.groups()


def run(group: str, cell: Cell, compute: list[str], scratch: Path) -> dict[str, Any]:
    """Run one cell unless it is kept, with settings of `compute` such as `device=cuda`; returns its result.json."""
    kept = RESULTS / group / cell.name
    if not (kept / "result.json").is_file():
        words = [cell.command, cell.config, *cell.overrides, *(f"compute.{word}" for word in compute)]
        alone = override(read(Path(cell.config)), words[2:]).get("compute", {}).get("workers") == 0
        folder = (_here if alone else _elsewhere)(words, scratch)
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:  # where the scratch folder lay is nobody's business
            (kept / name).write_text((folder / name).read_text().replace(str(scratch), "runs"))
    return json.loads((kept / "result.json").read_text())


def _here(words: list[str], scratch: Path) -> Path:
    """In this process, for runs so small that starting one would take longer."""
    load = load_run if words[0] == "run" else load_distillation
    return execute(load(Path(words[1]), words[2:]), scratch, argv=["fedsim", *words])


def _elsewhere(words: list[str], scratch: Path) -> Path:
    """As a user would."""
    command = [sys.executable, "-m", "fedsim", *words, "--out", str(scratch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def report(cell: Cell, result: dict[str, Any]) -> None:
    """A line for a finished cell."""
    controls = {name: control["accuracy"] for name, control in result["controls"].items()}
    print(cell.name, f"{result['accuracy']:.4f}", controls, f"{result['wall_seconds']} s", flush=True)


def main() -> None:
    """Run a group of cells, printing a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=sorted(groups()))
    parser.add_argument("--cells", nargs="*", help="these cells only, in this order")
    parser.add_argument("--compute", nargs="*", default=[], help="KEY=VALUE of compute; else as the config says")
    parser.add_argument("--processes", type=int, default=1, help="cells at a time, on one GPU or as many cores")
    parser.add_argument("--scratch", type=Path, default=Path("runs"))
    options = parser.parse_args()
    cells = {cell.name: cell for cell in groups()[options.group]}
    wanted = [cells[name] for name in options.cells or cells]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        found = {pool.submit(run, options.group, cell, options.compute, options.scratch): cell for cell in wanted}
        for done in as_completed(found):
            report(found[done], done.result())


if __name__ == "__main__":
    main()
