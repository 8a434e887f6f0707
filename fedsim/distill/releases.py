"""What the methods of a private owner share that ask for a release in every step: its name, its width, its counts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from fedsim.distill.base import Task
from fedsim.distill.distribution.private_dm import believed
from fedsim.models.functional import model_sha256
from fedsim.privacy.owner import Embed, PrivateImages
from fedsim.types import UserError

ENTRIES = 2**22
"""Numbers in the rows of one pass, at most."""
MOST = 256
"""Records of one pass, at most."""


@dataclass
class Counted:
    """What a result is cut by; a state has it beside what is optimised."""

    counts: Float64[Tensor, "k"]
    """n̂, mean over the releases so far."""


def nothing_counted(task: Task) -> Float64[Tensor, "k"]:
    """Counts before the first release."""
    return torch.zeros(task.num_classes, dtype=torch.float64)


def count(counts: Float64[Tensor, "k"], noisy: Float64[Tensor, "k"], before: Float[Tensor, ""]) -> None:
    """Take another step's n̂ into the mean, in place, after so many steps before it."""
    counts += (noisy - counts) / (int(before) + 1)


def remaining(task: Task, counts: Float64[Tensor, "k"], least: float) -> tuple[Task, Bool[Tensor, "m"]]:
    """The task of the classes that are believed in, and which synthetic images are theirs."""
    kept = believed(counts, least)
    rows = kept[task.labels().cpu()].to(task.device)
    return replace(task, budget=torch.where(kept, task.budget.cpu(), 0)), rows


def owner(task: Task) -> PrivateImages:
    """The private owner of the task."""
    if not isinstance(task.real, PrivateImages):
        raise UserError("privacy: got a client's open images; valid: PrivateImages, which only noisy sums leave")
    return task.real


def question(task: Task, what: str, step: int, described: Mapping[str, Tensor | None], facts: Sequence[str]) -> str:
    """A name for everything that a sum depends on beside the records.

    The server's weights and the step are in it. Two sums of one name would get the same noise, so nothing may be left
    out; a step that is asked again after a kill has the name it had.
    """
    tensors = {name: value for name, value in described.items() if value is not None}
    parts = [model_sha256(task.start) if task.start is not None else "", str(step), model_sha256(tensors), *facts]
    return f"{what} {hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def ask(release: Callable[..., Any], task: Task, name: str, rows: Embed, width: int) -> Any:
    """A release of rows that wide, which are centred on zero, in passes that fit."""
    chunk = task.runner.rows(0) or MOST
    centre = torch.zeros(width, dtype=torch.float64)
    return release(name, rows, centre, task.network, rows=max(1, min(chunk, MOST, ENTRIES // width)))
