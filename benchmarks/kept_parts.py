"""Parts of a benchmark, each a small JSON that is written once, whole, with the machine and the commit it came from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import facts

from fedsim.compute import Compute, settle
from fedsim.runs import write_atomic

ROOT = Path(__file__).parent / "results"


def chosen_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` as a device of this machine; `UserError` where it is not there."""
    return torch.device(settle(Compute(device=name)).device)


def provenance(device: torch.device) -> dict[str, Any]:
    """Device, versions and commit; asked for before a result makes the checkout another."""
    found = facts(str(device))
    return {**found["machine"], "torch": torch.__version__, "commit": found["git"]["commit"]}


def keep(path: Path, source: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The part at `path`, made by `work` unless it is there; a killed run leaves no half of one."""
    if path.is_file():
        print(f"{path.stem}: kept", flush=True)
        return json.loads(path.read_text())
    started = time.monotonic()
    found = work()
    found = {"source": source, "seconds": round(time.monotonic() - started, 1), **found}
    write_atomic(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{path.stem}: {found['seconds']} s", flush=True)
    return found


def kept(folder: str, prefix: str = "") -> list[dict[str, Any]]:
    """Every part of a folder of results whose name begins so, by name."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / folder).glob(f"{prefix}*.json"))]
