"""Two ways of doing one thing, timed in turn in one process: A B A B …, medians, and each side's memory on its own."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch


@dataclass(frozen=True)
class Row:
    """One pair."""

    name: str
    literal_seconds: float
    ours_seconds: float
    ratio: float
    """Median over pairs of literal / ours."""
    ratio_range: tuple[float, float]
    literal_gflops: float
    """GFLOP/s."""
    ours_gflops: float
    literal_mb: float
    """Peak memory above what the process held before, in a process of its own."""
    ours_mb: float
    pairs: int
    first_seconds: float
    """First call of ours: compilation, if any."""


def interleave(
    name: str, literal: Callable[[], object], ours: Callable[[], object], *,
    literal_gflop: float, ours_gflop: float, pairs: int, memory: tuple[float, float],
) -> Row:  # fmt: skip
    """Time `pairs` pairs after one warm-up of each."""
    literal()
    first = seconds(ours)
    times = [(seconds(literal), seconds(ours)) for _ in range(pairs)]
    slow, fast = median(one for one, _ in times), median(other for _, other in times)
    ratios = sorted(one / other for one, other in times)
    row = Row(
        name, slow, fast, median(ratios), (ratios[0], ratios[-1]), literal_gflop / slow, ours_gflop / fast,
        *memory, pairs, first,
    )  # fmt: skip
    print(f"{name}: literal {slow:.3f} s, ours {fast:.3f} s, {row.ratio:.2f}x", flush=True)
    return row


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_mb(script: str, *words: str) -> float:
    """What a process of its own says it needed: it prints the megabytes."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def resident_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(threads: int) -> dict[str, object]:
    """What the figures were measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bfloat16": torch.cpu._is_avx512_bf16_supported(),
    }


def keep(path: Path, rows: list[Row], threads: int, extra: dict[str, object]) -> None:
    """Write the rows and the machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"machine": machine(threads), "rows": [asdict(row) for row in rows], **extra}
    path.write_text(json.dumps(values, indent=1) + "\n")
