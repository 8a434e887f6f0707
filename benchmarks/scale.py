"""What a client costs: `python benchmarks/scale.py [CELL …] [--workers 2] [--table]` runs the cells of docs/scale.md.

Each cell is one `fedsim run` in a process of its own, watched from outside: processor seconds and peak memory of the
server and of its workers from /proc, bytes and files of the run directory by kind, messages from what was asked. What
it gave is kept under benchmarks/results/scale/CELL/ (cost.json beside config, manifest and result); a kept cell is not run
again, delete its folder to do so. `--table` only prints the table of what is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scale"
CONFIG = "configs/federated/mnist_1000_clients.yaml"
TICK = os.sysconf("SC_CLK_TCK")
NO_CONTROL = "controls.upload_real_subset=false"
FEDAVG = (
    "algorithm=fedavg", "method=", "server=", "algorithm.local.epochs=1", "algorithm.local.batch_size=16",
    "model.width=64", "rounds=1",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run: how many clients, how many of them one node serves, and what else differs from the config."""

    clients: int
    per_node: int
    more: tuple[str, ...] = ()

    def words(self, name: str, workers: int) -> list[str]:
        """The command line's overrides."""
        # Fewer clients get as many images each: the rest is held out, so that every cell loads the same data.
        held = {1000: (), 100: ("audit.holdout=0.89",), 10: ("audit.holdout=0.9", "data.val=0.09")}
        return [
            f"name={name}", f"partition.clients={self.clients}", f"participation.per_node={self.per_node}",
            "participation.min_replies=1", f"compute.workers={workers}", NO_CONTROL,
            *held.get(self.clients, ()), *self.more,
        ]  # fmt: skip


CELLS = {
    "shared-10": Cell(10, 25),
    "shared-100": Cell(100, 25),
    "shared-1000": Cell(1000, 25),
    "own-100": Cell(100, 1, ("method.networks.shared=false",)),
    "fedavg-100": Cell(100, 25, FEDAVG),
    "fedavg-1000": Cell(1000, 25, (*FEDAVG, "transcript=none")),
    "shared-10000": Cell(10000, 100, ("method.iterations=20", "method.networks.size=5", "server.epochs=5")),
}
"""Cells by name. The last holds 5 or 6 images a client and takes 20 steps."""


class Watch:
    """Peaks of a process and its children, looked at while they run."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.seen: dict[int, dict[str, float]] = {}

    def look(self) -> None:
        """Take the figures of this moment; a process that just ended keeps its last ones."""
        for pid in [self._pid, *self._children()]:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            now = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.endswith(" kB")}
            old = self.seen.setdefault(pid, {"peak": 0.0, "own": 0.0, "seconds": 0.0})
            old["peak"] = max(old["peak"], float(now.get("VmHWM", 0)))
            old["own"] = max(old["own"], float(now.get("RssAnon", 0)))
            old["seconds"] = max(old["seconds"], (int(ticks[11]) + int(ticks[12])) / TICK)

    def _children(self) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()]
        except OSError:
            return []

    def cost(self) -> dict[str, Any]:
        """MB (of 10⁶ bytes) and seconds of the server and of the workers; the largest worker for memory."""
        workers = [one for pid, one in self.seen.items() if pid != self._pid]
        server = self.seen[self._pid]
        return {
            "server_peak_mb": server["peak"] * 1.024e-3,
            "server_own_peak_mb": server["own"] * 1.024e-3,
            "worker_peak_mb": max(one["peak"] for one in workers) * 1.024e-3,
            "worker_own_peak_mb": max(one["own"] for one in workers) * 1.024e-3,
            "server_seconds": server["seconds"],
            "worker_seconds": sum(one["seconds"] for one in workers),
        }


def disk(folder: Path) -> dict[str, list[int]]:
    """[files, bytes] of each part of a run directory."""
    found: dict[str, list[int]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            entry = found.setdefault(path.relative_to(folder).parts[0], [0, 0])
            entry[0] += 1
            entry[1] += path.stat().st_size
    return dict(sorted(found.items()))


def run(name: str, workers: int, scratch: Path) -> None:
    """Run one cell unless it is kept."""
    kept, cell = RESULTS / name, CELLS[name]
    if (kept / "cost.json").is_file():
        return
    words = [sys.executable, "-m", "fedsim", "run", CONFIG, *cell.words(name, workers), "--out", str(scratch)]
    load, started = os.getloadavg(), time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(0.2)
        wall = time.monotonic() - started
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")
    folder = Path(lines[-1])
    keep(kept, folder, scratch)
    result = json.loads((folder / "result.json").read_text())
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    asked = sum(len(record["asked"]) for record in records)
    cost = {
        "clients": cell.clients, "per_node": cell.per_node, "rounds": len(records), "workers": workers,
        "wall_seconds": wall, "load_average_before": load[0], **watch.cost(),
        "messages": sum(len({client // cell.per_node for client in record["asked"]}) for record in records),
        "uplink_per_client": result["uplink_bytes"] / asked, "downlink_per_client": result["downlink_bytes"] / asked,
        "seconds_by_round": [record["seconds"] for record in records], "disk": disk(folder),
    }  # fmt: skip
    (kept / "cost.json").write_text(json.dumps(cost, indent=2) + "\n")


def keep(kept: Path, folder: Path, scratch: Path) -> None:
    """Config, manifest and result; of the small cells, which are one line per client and class, their number."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "manifest.json", "metrics.jsonl"):  # where the scratch folder lay is nobody's business
        (kept / name).write_text((folder / name).read_text().replace(str(scratch), "runs"))
    result = json.loads((folder / "result.json").read_text())
    result["small_classes"] = len(result["small_classes"])
    (kept / "result.json").write_text(json.dumps(result, indent=2) + "\n")


HEAD = (
    "cell", "clients", "clients a node", "messages", "accuracy", "wall s", "worker s a client and round", "server s",
    "server peak MB (anonymous)", "worker peak MB (anonymous)", "up B a client", "down B a client", "disk B a client and round",
)  # fmt: skip


def table() -> str:
    """The kept cells as Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for name in CELLS:
        if not (RESULTS / name / "cost.json").is_file():
            continue
        cost = json.loads((RESULTS / name / "cost.json").read_text())
        result = json.loads((RESULTS / name / "result.json").read_text())
        parts = cost["clients"] * cost["rounds"]
        stored = sum(size for part, (_, size) in cost["disk"].items() if part in {"clients", "synthetic", "transcript"})
        rows.append((
            name, f"{cost['clients']:,}", f"{cost['per_node']}", f"{cost['messages']:,}", f"{result['accuracy']:.3f}",
            f"{cost['wall_seconds']:.0f}", f"{cost['worker_seconds'] / parts:.3f}", f"{cost['server_seconds']:.0f}",
            f"{cost['server_peak_mb']:.0f} ({cost['server_own_peak_mb']:.0f})",
            f"{cost['worker_peak_mb']:.0f} ({cost['worker_own_peak_mb']:.0f})",
            f"{cost['uplink_per_client']:,.0f}", f"{cost['downlink_per_client']:,.0f}", f"{stored / parts:,.0f}",
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Run cells that are not kept, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of {', '.join(CELLS)}; none: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path("runs"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    for name in [] if options.table else options.cells or CELLS:
        run(name, options.workers, options.scratch)
    print(table())


if __name__ == "__main__":
    main()
