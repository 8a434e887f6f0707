"""What one client has paid: every release is charged on disk before its noise is drawn, and leaves at most once.

    charge → noise → store → send        privacy.jsonl grows by a line         released/<key>.safetensors

    killed before the charge             nothing happened; asked again, the release is charged and made
    killed while it is written           as before it: a line without its end is no charge, as no noise was drawn yet
    killed between charge and store      charged, and nothing has left; asked again, it is drawn and charged AGAIN
    killed between store and send        the stored release is sent as it is, byte for byte, without a charge

So an ε is never too small, and at most too large by what a kill cost. A store without its charge (a ledger that was
lost, or put back from an older copy) is refused: it would make paid releases free. A charge is appended and synced, so
a thousand small ones write a thousand lines.

The ledger belongs to the client and stays with it: what a report needs of it is `statement`, which names no count of
its records. Adaptive composition covers charges whose network depends on earlier releases; clients hold different
records, so the ε of a federation is that of the worst client.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

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

NOT_COVERED = (
    "several records of one person, or copies of a record: the unit is one record, not one person (group privacy)",
    "that a client takes part, and which client it is: this is no client-level privacy",
    "settings chosen by looking at private data: each run that was looked at is a release that this ledger lacks",
    "the server's own validation and test images, and weights that were pre-trained on private records",
    "time, memory and traffic of a client, which may depend on how many records it holds",
    "the machine itself: who reads the client's disk or memory sees its records",
    "the run directory of a simulation, its page and its terminal: they hold exact counts, and are no release",
)
"""What the (ε, δ) of a ledger does not say."""


@dataclass(frozen=True)
class Assumption:
    """A premise of the proof."""

    name: str
    status: Status
    evidence: str


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

    def __init__(self, folder: Path, delta: float, adjacency: Adjacency) -> None:
        self._folder, self.delta = folder, delta
        self.adjacency: Adjacency = adjacency
        self._whole: int | None = None  # bytes of whole lines, where a torn one follows them
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
    def simulated(self) -> bool:
        """Whether any noise could be repeated from a seed."""
        return any(one.simulated for one in self.charges)

    def _stored(self, path: Path, charge: Charge) -> dict[str, Tensor]:
        try:
            tensors, meta = load_tensors(path)
        except UserError as error:
            raise UserError(f"{path}: a paid release is damaged; restore it: made again, it is paid again") from error
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
        if path.is_file():
            _append(path, line, self._whole)
        else:
            write_atomic(path, json.dumps({"delta": self.delta, "adjacency": self.adjacency}) + "\n" + line)
        self._whole = None
        self.charges.append(charge)

    def _read(self) -> list[Charge]:
        """The charges whose lines are whole. A torn last line is cut off when the next is written."""
        path = self._folder / FILE
        if not path.is_file():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._whole = len(whole) if len(whole) < len(content) else None
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


def assumptions(ledger: Ledger, public_bound: int, records: int) -> list[Assumption]:
    """The premises of the proof, for one client; `records` is compared with the bound and not told."""
    sampled = any(one.rate < 1 for one in ledger.charges)
    counted = all(one.kappa > 0 for one in ledger.charges)
    return [
        Assumption("noise that nobody can repeat", *_noise(ledger.simulated)),
        Assumption("vectors depend on one record each", "enforced", "batch norm is refused; up to rounding"),
        Assumption("bounded contributions", "enforced", "each record's whole vector is clipped; sums are of integers"),
        Assumption("every class is released", "enforced", "all classes, held or not, with equal noise; no exact count")
        if counted else
        Assumption("nothing but the noisy sums", "enforced", "a public divisor and number of steps; no count, no loss"),
        Assumption(
            "participation of records", "enforced",
            "independent coins with one public rate" if sampled else "every record is in every release",
        ),
        Assumption("one charge per release", "enforced", f"{len(ledger.charges)} charges, each before its noise"),
        Assumption("δ below 1 over the records", *_bound(public_bound, records)),
        Assumption("networks chosen by released things only", "assumed", "initial weights and settings are public"),
        Assumption("one record of each person", "assumed", "records are not compared with one another"),
    ]  # fmt: skip


def _noise(simulated: bool) -> tuple[Status, str]:
    seeded = "from a seeded stream: whoever has the config can subtract it"
    return ("violated", f"{SIMULATED}: {seeded}") if simulated else ("enforced", "from the operating system")


def _bound(public_bound: int, records: int) -> tuple[Status, str]:
    if records <= public_bound:
        return "enforced", f"δ < 1/{public_bound}, and the client holds no more than that bound"
    return "violated", f"the client holds more records than the public bound of {public_bound}"


def statement(ledger: Ledger, public_bound: int, records: int) -> dict[str, Any]:
    """What a result says of one client: (ε, δ), how it was computed, premises, and what is not covered."""
    spent = ledger.spent()
    return {
        "label": SIMULATED if ledger.simulated else "dp",
        "unit": "one record of one client",
        **asdict(spent),
        "releases": sum(one.number for one in ledger.charges),
        "charges": [
            {key: value for key, value in asdict(one).items() if key != "key"} for one in totals(ledger.charges)
        ],
        "assumptions": [asdict(one) for one in assumptions(ledger, public_bound, records)],
        "not_covered": list(NOT_COVERED),
    }


def worst(statements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """That of the federation: clients hold different records, so the largest ε of any of them holds for each record."""
    return max(statements, key=lambda one: one["epsilon"])
