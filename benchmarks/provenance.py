"""What a kept figure was measured with: commit, versions, device. Read before a result makes the checkout another."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from typing import Any

import torch

from fedsim.config import Section
from fedsim.runs import manifest


class _Nothing(Section):
    """There is no config."""


def commit() -> str | None:
    """HEAD, or what the environment's FEDSIM_COMMIT says where git is not there."""
    return facts("cpu")["git"]["commit"]


def facts(device: str) -> dict[str, Any]:
    """Commit (of git, else of the environment's FEDSIM_COMMIT), versions, and the device that `auto` or `device` stands for."""
    found = manifest(_Nothing(), device, [])
    git = found["git"] or {"commit": os.environ.get("FEDSIM_COMMIT"), "dirty": None}
    on_gpu = device != "cpu" and torch.cuda.is_available()
    machine = {"device": torch.cuda.get_device_name() if on_gpu else platform.machine(), "cores": os.cpu_count()}
    return {"git": git, "versions": found["versions"], "machine": machine}


def fingerprint(values: Any) -> str:
    """10 hex digits of plain values: what was made under other settings lies elsewhere."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
