"""Who can be reached in which round: availability traces of `participation.trace`.

    bernoulli   a client is there in a round with probability p, whatever it or others did before
    cyclic      client k is there while (r − 1 + φ_k) mod P < ⌈s P⌉: its share s of every P rounds, at one time of day
    file        as recorded

    r  round, from 1      P  period in rounds      φ_k  phase: clients in a random order are spread evenly over P

What is drawn depends on the run's seed and the round alone: a resumed run meets the same clients.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fedsim.config import Section
from fedsim.seeding import Streams
from fedsim.types import UserError


@runtime_checkable
class Trace(Protocol):
    """Says who can be reached."""

    def available(self, clients: int, number: int, streams: Streams) -> set[int]:
        """Those of clients 0 … `clients` − 1 that can be reached in round `number`; `streams` are the run's."""
        ...

    def check(self, clients: int, rounds: int) -> None:
        """`UserError` where it does not fit a run of so many clients and rounds."""
        ...


class BernoulliConfig(Section):
    """Every client comes and goes by chance."""

    name: Literal["bernoulli"] = "bernoulli"
    rate: float = Field(default=0.8, gt=0, le=1)
    """p, probability that a client is there in a round."""


class CyclicConfig(Section):
    """Every client is there at its time of day."""

    name: Literal["cyclic"] = "cyclic"
    period: int = Field(default=24, ge=2)
    """P, rounds of a day."""
    share: float = Field(default=0.5, gt=0, le=1)
    """s, share of the day that a client is there."""


class FileConfig(Section):
    """Who was there is read from a file: CSV with the columns round,client, or JSON {"1": [0, 3], "2": [1]}."""

    name: Literal["file"] = "file"
    path: str
    """The file; rounds count from 1, clients from 0. A round that a CSV does not list has nobody."""
    sha256: str | None = None
    """What the file must be, 16 hex digits; filled in, so that a changed file is another run."""

    @model_validator(mode="before")
    @classmethod
    def _recognise(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("path"), str) and values.get("sha256") is None:
            try:
                return values | {"sha256": _fingerprint(_content(values["path"]))}
            except UserError as error:
                raise PydanticCustomError("fedsim", "{line}", {"path": ".path", "line": str(error)}) from error
        return values


class Bernoulli:
    """See the file's head."""

    Config = BernoulliConfig

    def __init__(self, config: BernoulliConfig) -> None:
        self.rate = config.rate

    def available(self, clients: int, number: int, streams: Streams) -> set[int]:
        """One draw of each client."""
        draws = torch.rand(clients, generator=streams.at("round", number).generator("trace"))
        return set((draws < self.rate).nonzero().flatten().tolist())

    def check(self, clients: int, rounds: int) -> None:
        """Fits every run."""


class Cyclic:
    """See the file's head."""

    Config = CyclicConfig

    def __init__(self, config: CyclicConfig) -> None:
        self.period, self.share = config.period, config.share

    def available(self, clients: int, number: int, streams: Streams) -> set[int]:
        """Those whose time it is."""
        place = torch.randperm(clients, generator=streams.generator("trace"))
        phase = place * self.period // clients
        there = (number - 1 + phase) % self.period < math.ceil(self.share * self.period - 1e-9)
        return set(there.nonzero().flatten().tolist())

    def check(self, clients: int, rounds: int) -> None:
        """Fits every run."""


class File:
    """See the file's head."""

    Config = FileConfig

    def __init__(self, config: FileConfig) -> None:
        self.config = config

    @cached_property
    def rounds(self) -> dict[int, set[int]]:
        """Round → its clients."""
        path, content = self.config.path, _content(self.config.path)
        if _fingerprint(content) != self.config.sha256:
            raise UserError(
                f"participation.trace: {path} is not the file it was (sha256 {_fingerprint(content)}, not "
                f"{self.config.sha256}); restore it, or leave sha256 out for a new run"
            )
        read = _json if path.endswith(".json") else _csv
        try:
            return read(content.decode())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"participation.trace: {path} is no trace ({' '.join(str(error).split())}); give lines round,client "
                'under this header, or a .json file such as {"1": [0, 3], "2": [1]}'
            ) from error

    def available(self, clients: int, number: int, streams: Streams) -> set[int]:
        """As recorded."""
        return self.rounds.get(number, set())

    def check(self, clients: int, rounds: int) -> None:
        """Every round must be there, and nobody who is not."""
        last = max(self.rounds, default=0)
        if last < rounds:
            raise UserError(
                f"participation.trace: {self.config.path} ends with round {last}; give one of {rounds} rounds or more, "
                f"or rounds={last}"
            )
        strangers = set().union(*self.rounds.values()) - set(range(clients))
        if strangers or min(self.rounds) < 1:
            odd = f"client {min(strangers)}" if strangers else f"round {min(self.rounds)}"
            raise UserError(
                f"participation.trace: {self.config.path} names {odd}; clients are 0 to {clients - 1}, rounds from 1"
            )


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file of CSV or JSON") from error


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _csv(text: str) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    table = csv.DictReader(text.splitlines())
    if table.fieldnames != ["round", "client"]:
        raise ValueError(f"its header is {','.join(table.fieldnames or [])}")
    for row in table:
        found.setdefault(int(row["round"]), set()).add(int(row["client"]))
    return found


def _json(text: str) -> dict[int, set[int]]:
    found = {int(number): clients for number, clients in json.loads(text).items()}
    for number, clients in found.items():
        if not isinstance(clients, list) or not all(type(one) is int for one in clients):
            raise ValueError(f"round {number} is no list of client numbers")
    return {number: set(clients) for number, clients in found.items()}
