"""What the local engine costs beside computing: `python benchmarks/overhead.py [--workers 2]`.

The MNIST run of configs/federated/mnist_feddm.yaml, and the same run with nothing to compute: clients upload random real
images (as many per class), the server trains one epoch. Both are timed from outside, from the start of the command to its
end: what the second takes is processes started, torch imported, images loaded, messages encoded, checked and stored, scores
on val, the report. Progress messages and checkpoints of half-done condensations are in the first alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairs import machine

CONFIG = "configs/federated/mnist_feddm.yaml"
NOTHING = ("method=random", "method.ipc=10", "server.epochs=1")


def wall(out: str, *overrides: str) -> float:
    """Seconds of the whole command."""
    words = [
        sys.executable,
        "-m",
        "fedsim",
        "run",
        CONFIG,
        "controls.upload_real_subset=false",
        *overrides,
        "--out",
        out,
    ]
    started = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Run both and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        workers = f"compute.workers={options.workers}"
        empty = [wall(out, workers, *NOTHING, f"seed={seed}") for seed in range(3)]
        whole = wall(out, workers)
    found = {"machine": machine(1), "workers": options.workers, "empty_seconds": empty, "whole_seconds": whole,
             "share": sorted(empty)[1] / whole}  # fmt: skip
    path = Path(__file__).parent / "results/overhead.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
