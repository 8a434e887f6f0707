"""What one client has paid: every release is charged on disk before its noise is drawn, and leaves at most once.

    charge → noise → store → send        privacy.jsonl grows by a line         released/<key>.safetensors

    killed before the charge             nothing happened; asked again, the release is charged and made
    killed while it is written           as before it: a line without its end is no charge, as no noise was drawn yet
    killed between charge and store      charged, and nothing has left; asked again, it is drawn and charged AGAIN
    killed between store and send        the stored release is sent as it is, byte for byte, without a charge

So an ε is never too small, and at most too large by what a kill cost. A store without its charge (a ledger that was
lost, or put back from an older copy) is refused: it would make paid releases free. A charge is appended and synced, so
a thousand small ones write a thousand lines. Processes that share a ledger charge one after the other (a lock beside
it). A charge beyond twice the agreed number of releases is refused: kills do not explain it.

The ledger belongs to the client and stays with it: what a report needs of it is `statement`, which names no count of
its records. Adaptive composition covers charges whose network depends on earlier releases; clients hold different
records, so the ε of a federation is that of the worst client.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from fedsim.privacy.accountant import Adjacency, Guarantee, guarantee
from fedsim.privacy.mechanism import Mechanism
from fedsim.runs import load_tensors, save_tensors, write_atomic
from fedsim.types import UserError

FILE, FOLDER = "privacy.jsonl", "released"

Status = Literal["enforced", "assumed", "violated"]
"""By this program; by whoever runs it; by what was seen."""

SIMULATED = "simulated_dp"
"""Label of every number that a seeded stream of noise stands behind."""


@dataclass(frozen=True)
class Known:
    """What the agreement of a run says of it beside the mechanism; the premises need it (premises.py)."""

    planned: int | None = None
    """Releases of one client in the whole run, at most; None: not agreed."""
    data: Status = "assumed"
    """Whether normalisation and class list are public."""
    model: Status = "assumed"
    """Whether the network is the catalog's."""


UNKNOWN = Known()
"""Nothing is agreed."""


@dataclass(frozen=True)
class Charge:
    """`number` releases of one mechanism, paid together."""

    key: str
    """What they answer; the same question is the same key."""
    clip: float
    kappa: float
    sigma: float
    rate: float
    number: int
    simulated: bool
    """Whether their noise was from a seeded stream."""

    @classmethod
    def of(cls, key: str, mechanism: Mechanism, number: int, *, simulated: bool) -> Charge:
        """The price of `number` releases."""
        return cls(key, mechanism.clip, mechanism.kappa, mechanism.sigma, mechanism.rate, number, simulated)

    @property
    def mechanism(self) -> Mechanism:
        """What was charged for; its numbers are checked."""
        return Mechanism(self.clip, self.kappa, self.sigma, self.rate)


class Ledger:
    """The charges of one client, in a folder of its own that outlives rounds and processes."""

    def __init__(self, folder: Path, delta: float, adjacency: Adjacency, known: Known = UNKNOWN) -> None:
        self._folder, self.delta, self.known = folder, delta, known
        self.adjacency: Adjacency = adjacency
        self._whole: int | None = None  # bytes of whole lines, where a torn one follows them
        self._bytes = 0  # of the file, as last read or written
        self.charges = self._read()

    def once(self, charge: Charge, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The release of that key: the stored one, or `make()`, charged on disk before it is called."""
        path = self._folder / FOLDER / f"{hashlib.sha256(charge.key.encode()).hexdigest()[:32]}.safetensors"
        if path.is_file():
            return self._stored(path, charge)
        self._pay(charge)
        tensors = make()
        save_tensors(path, tensors, {"paid": len(self.charges) - 1, "charge": asdict(charge)})
        return load_tensors(path)[0]

    def spent(self) -> Guarantee:
        """(ε, δ) of all charges so far."""
        paid = [one.mechanism.releases(one.number) for one in totals(self.charges)]
        return guarantee(paid, self.delta, self.adjacency)

    @property
    def made(self) -> int:
        """Releases that were charged for."""
        return sum(one.number for one in self.charges)

    @property
    def simulated(self) -> bool:
        """Whether any noise could be repeated from a seed."""
        return any(one.simulated for one in self.charges)

    def _stored(self, path: Path, charge: Charge) -> dict[str, Tensor]:
        try:
            tensors, meta = load_tensors(path)
        except UserError as error:
            raise UserError(f"{path}: a paid release is damaged; restore it: made again, it is paid again") from error
        self._refresh()
        paid = meta.get("paid", -1)
        if not 0 <= paid < len(self.charges) or asdict(self.charges[paid]) != meta.get("charge"):
            raise UserError(
                f"{path} was released and {self._folder / FILE} has no charge for it; restore that ledger, or delete "
                "the run's folder and count what it sent as spent"
            )
        if meta["charge"] != asdict(charge):
            raise UserError(f"{path} was released with other settings of privacy; take them back, or run under "
                            "another name")  # fmt: skip
        return tensors

    def _pay(self, charge: Charge) -> None:
        """One line more, synced to the disk; the first charge makes the file, whose first line holds the terms."""
        path, line = self._folder / FILE, json.dumps(asdict(charge)) + "\n"
        with _locked(path):
            self._refresh()
            self._check_plan(charge)
            if path.is_file():
                _append(path, line, self._whole)
            else:
                write_atomic(path, json.dumps({"delta": self.delta, "adjacency": self.adjacency}) + "\n" + line)
                _sync(self._folder)
                _sync(self._folder.parent)
            self._bytes, self._whole = path.stat().st_size, None
            self.charges.append(charge)

    def _refresh(self) -> None:
        """Read again, where another process charged."""
        path = self._folder / FILE
        if path.is_file() and path.stat().st_size != self._bytes:
            self.charges = self._read()

    def _check_plan(self, charge: Charge) -> None:
        planned = self.known.planned
        if planned is not None and self.made + charge.number > 2 * planned:
            raise UserError(
                f"{self._folder / FILE} holds {self.made} releases, {planned} were agreed on, and {charge.number} more "
                "would be beyond twice that; this client can release nothing further in this run: give it more rounds "
                "or steps to plan for, under another name"
            )

    def _read(self) -> list[Charge]:
        """The charges whose lines are whole. A torn last line is cut off when the next is written."""
        path = self._folder / FILE
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._bytes, self._whole = len(content), len(whole) if len(whole) < len(content) else None
        try:
            first, *lines = [json.loads(line) for line in whole.decode().splitlines()]
            charges = [Charge(**one) for one in lines]
            terms = (first["delta"], first["adjacency"])
            for one in charges:
                one.mechanism.releases(one.number)
        except (ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"{path} is damaged ({said}); restore it: what was released stays released") from error
        if terms != (self.delta, self.adjacency):
            raise UserError(f"{path} is kept under delta={terms[0]}, {terms[1]}, not delta={self.delta}, "
                            f"{self.adjacency}; both are fixed before the first release: take them back")  # fmt: skip
        return charges


def totals(charges: Sequence[Charge]) -> list[Charge]:
    """Charges of one mechanism as one, without their keys, in the order in which they began."""
    found: Counter[Charge] = Counter()
    for one in charges:
        found[replace(one, key="", number=1)] += one.number
    return [replace(one, number=number) for one, number in found.items()]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system releases the lock when it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(folder: Path) -> None:
    """Make the names in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _append(path: Path, text: str, whole: int | None) -> None:
    """Add to a file and sync it before returning; what follows its first `whole` bytes is cut off before."""
    try:
        with path.open("r+b") as file:
            if whole is not None:
                file.truncate(whole)
            file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # none for a full disk
        raise


def check_delta(delta: float, public_bound: int) -> None:
    """Refuse a δ that would let one record in `public_bound` be published outright."""
    if not 0 < delta < 1 / public_bound:
        raise UserError(f"delta: got {delta}; valid: more than 0 and less than 1/public_bound ({1 / public_bound:g})")
