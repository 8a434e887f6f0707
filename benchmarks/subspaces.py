"""Subspaces of private vectors at equal total ε: none, random, of the round before; and one round without any.

    python -m benchmarks.subspaces OUT [seeds=3] [epsilon=3]

Every row spends the same ε over all its rounds, on scikit-learn's digits with four clients. A row of two rounds has √2
times the noise of `once`. Printed are val accuracies, and what each row has over `once` in pairs of equal seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedsim.experiment import execute
from fedsim.schema import load_run
from fedsim.training.intervals import mean_ci

CONFIG = Path(__file__).parent.parent / "configs/quickstart/feddm_private_digits.yaml"
SHARED = (
    "data.val=0.2", "method.iterations=120", "server.epochs=100", "method.networks.size=3", "privacy.clip=2",
    "compute.workers=1",
)  # fmt: skip
TWO, DIRECTIONS = "rounds=2", "privacy.dimension=32"
ROWS = {
    "once": ("rounds=1",),
    "none": (TWO,),
    "random": (TWO, "privacy.subspace=random", DIRECTIONS),
    "previous": (TWO, "privacy.subspace=previous", DIRECTIONS),
    "centre": (TWO, "privacy.centre=previous"),
}


def scores(out: Path, seeds: int, epsilon: float) -> dict[str, list[float]]:
    """Val accuracy after the last round, of every row and seed; runs that are finished are read."""
    found: dict[str, list[float]] = {}
    for name, settings in ROWS.items():
        for seed in range(seeds):
            words = (*SHARED, *settings, f"privacy.target_epsilon={epsilon}", f"seed={seed}")
            folder = execute(load_run(CONFIG, words), out)
            result = json.loads((folder / "result.json").read_text())
            assert result["epsilon"] <= epsilon, f"{name} spent {result['epsilon']}"
            found.setdefault(name, []).append(result["accuracy_by_round"][-1])
    return found


def table(found: dict[str, list[float]]) -> list[str]:
    """A row each: accuracies, their mean, and the mean difference from `once` with its interval."""
    lines = ["| subspace | val accuracy | mean | over once |", "|---|---|---|---|"]
    for name, values in found.items():
        mean, interval = mean_ci([a - b for a, b in zip(values, found["once"], strict=True)])
        over = f"{mean:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval and name != "once" else ""
        shown = " ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {shown} | {sum(values) / len(values):.3f} | {over} |")
    return lines


if __name__ == "__main__":
    given = dict(word.split("=") for word in sys.argv[2:])
    print("\n".join(table(scores(Path(sys.argv[1]), int(given.get("seeds", 3)), float(given.get("epsilon", 3))))))
