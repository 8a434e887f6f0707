"""Run the cells of the published tables and keep what they gave: `python benchmarks/cells.py GROUP [--workers 2]`.

A cell is a config with overrides and a seed. Its config, manifest (commit, versions, machine), metrics and result.json
are kept under benchmarks/results/GROUP/CELL/; a kept cell is not run again, delete its folder to do so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KEPT = ("config.yaml", "manifest.json", "metrics.jsonl", "result.json")


@dataclass(frozen=True)
class Cell:
    """One run of one table."""

    name: str
    command: str
    config: str
    overrides: tuple[str, ...] = ()


def _seeds(name: str, command: str, config: str, overrides: tuple[str, ...], seeds: range) -> list[Cell]:
    return [Cell(f"{name}-s{seed}", command, config, (*overrides, f"seed={seed}")) for seed in seeds]


MNIST, FEDAVG = "configs/federated/mnist_feddm.yaml", "configs/federated/mnist_fedavg.yaml"
TWO_CLASSES = ("partition=classes_per_client", "partition.clients=10", "partition.classes=2")
GRID = [(lr, epochs) for epochs in (1, 5) for lr in (0.03, 0.1)]
"""FedAvg's local learning rate and epochs; the choice is made on val."""


def groups() -> dict[str, list[Cell]]:
    """Every table's cells."""
    table: dict[str, list[Cell]] = {
        "digits_feddm": _seeds("feddm", "run", "configs/quickstart/feddm_digits.yaml", (), range(5)),
        "mnist_feddm": _seeds("ipc10", "run", MNIST, (), range(3)),
        "mnist_feddm_ipc1": _seeds("ipc1", "run", MNIST, ("method.ipc=1",), range(3)),
        "mnist_feddm_2classes": _seeds("ipc10", "run", MNIST, TWO_CLASSES, range(3)),
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
    return table


def run(group: str, cell: Cell, workers: int, scratch: Path) -> dict[str, object]:
    """Run one cell unless it is kept; returns its result.json."""
    kept = RESULTS / group / cell.name
    if not (kept / "result.json").is_file():
        words = [
            sys.executable,
            "-m",
            "fedsim",
            cell.command,
            cell.config,
            *cell.overrides,
            f"compute.workers={workers}",
        ]
        done = subprocess.run([*words, "--out", str(scratch)], stdout=subprocess.PIPE, text=True, check=True)
        folder = Path(done.stdout.strip().splitlines()[-1])
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:  # where the scratch folder lay is nobody's business
            (kept / name).write_text((folder / name).read_text().replace(str(scratch), "runs"))
    return json.loads((kept / "result.json").read_text())


def main() -> None:
    """Run a group of cells, printing a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=sorted(groups()))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for cell in groups()[options.group]:
        result = run(options.group, cell, options.workers, options.scratch)
        controls = {name: control["accuracy"] for name, control in result["controls"].items()}  # type: ignore[union-attr]
        print(cell.name, f"{result['accuracy']:.4f}", controls, f"{result['wall_seconds']} s", flush=True)


if __name__ == "__main__":
    main()
