"""Faults on purpose: what a run must survive, switched on by `faults:` to see that it does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from pydantic import Field

from fedsim.config import Section
from fedsim.types import UserError


class Fault(Section):
    """One client misbehaving in one round."""

    name: Literal["raise", "nan", "wrong_shape", "oversize", "silent"]
    """`raise` an exception; upload `nan`, a `wrong_shape`, ten times the agreed size (`oversize`); never answer."""
    client: int = Field(ge=0)
    """Partition id."""
    round: int = Field(default=1, ge=1)
    """Round in which it happens."""


def check_faults(faults: Sequence[Fault], clients: int, rounds: int, *, watched: bool) -> None:
    """Refuse what cannot happen, and a silence that nobody would end: unless `watched`, no process can be killed."""
    for fault in faults:
        if fault.client >= clients:
            raise UserError(f"faults: client {fault.client} does not exist; valid: 0 to {clients - 1}")
        if fault.round > rounds:
            raise UserError(f"faults: round {fault.round} does not exist; valid: 1 to {rounds}")
        if fault.name == "silent" and not watched:
            raise UserError("faults: a silent client would hang a run without workers; give compute.workers=1 or more")


def before_work(faults: Sequence[Fault], client: int, round_number: int) -> None:
    """Raise or fall silent, if that is planned."""
    for fault in _planned(faults, client, round_number):
        if fault.name == "raise":
            raise RuntimeError(f"planned fault: client {client} raises in round {round_number}")
        if fault.name == "silent":
            while True:  # until the worker is killed at participation.timeout
                time.sleep(3600)


def tamper(faults: Sequence[Fault], client: int, round_number: int, content: RecordDict) -> RecordDict:
    """Spoil every array record of an upload, if that is planned."""
    for fault in _planned(faults, client, round_number):
        for key, record in list(content.array_records.items()):
            content[key] = ArrayRecord(
                {name: Array(_spoil(fault.name, value.numpy())) for name, value in record.items()}
            )
    return content


def _planned(faults: Sequence[Fault], client: int, round_number: int) -> list[Fault]:
    return [fault for fault in faults if fault.client == client and fault.round == round_number]


def _spoil(kind: str, value: np.ndarray) -> np.ndarray:
    if kind == "nan" and value.ndim > 0:
        return np.full(value.shape, np.nan, dtype=np.float32)
    if kind == "wrong_shape" and value.ndim > 1:
        return np.ascontiguousarray(value[..., :-1])
    if kind == "oversize" and value.ndim > 0:
        return np.concatenate([value] * 10)
    return value
