"""Who holds which record of the source train split: server (val), nobody (the reserved), clients.

Val is carved first and is public, then what the audit reserves, then the rest is dealt to clients. Each is
drawn from its own stream, so asking for a holdout does not move a single record of val.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from fedsim.config import Section
from fedsim.data.partition import Partition, Positions, withhold_small
from fedsim.runs import write_atomic
from fedsim.seeding import numpy_stream
from fedsim.types import UserError

RESERVED = ("val", "holdout", "canaries")
"""What is carved before the clients get their records, in this order."""

_KEYS = ("train", *RESERVED, "withheld")


class MembershipConfig(Section):
    """Which run of a membership audit this is; written by `fedsim audit`, seldom by hand."""

    client: int = Field(ge=0)
    """The audited client."""
    row: int = Field(ge=0)
    """Row of the membership matrix: which half of the pool the client holds. Every row draws anew whatever a run draws,
    but for the server's first weights, which an adversary may know."""


class PlantedConfig(Section):
    """Records planted among those of the clients, for an audit of ε: how many of each kind (canaries.py)."""

    crafted: int = Field(default=0, ge=0)
    """Vectors of the greatest norm under every network, the worst case; under `privacy: features` alone."""
    mislabelled: int = Field(default=0, ge=0)
    """Records under another label."""
    natural: int = Field(default=0, ge=0)
    """Records as they are."""
    ood_noise: int = Field(default=0, ge=0)
    """Images of uniform bytes."""

    @property
    def counts(self) -> dict[str, int]:
        """Kinds that there are some of."""
        return {kind: number for kind, number in self.model_dump().items() if number}

    @property
    def total(self) -> int:
        """m."""
        return sum(self.counts.values())


class AuditConfig(Section):
    """What is reserved for the privacy audit, at partition time or never."""

    later: ClassVar[tuple[str, ...]] = ("membership", "planted")
    holdout: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the source train split kept from every client: non-members of the membership audit."""
    canaries: int = Field(default=0, ge=0)
    """Record slots reserved for planted records, taken out of the clients' data."""
    membership: MembershipConfig | None = None
    """Whose records change places with held-out ones, in a run that an audit makes (membership.py); null: nobody's."""
    planted: PlantedConfig | None = None
    """What is planted in the slots of `canaries`, by a coin each; null: nothing, the slots stay empty."""

    @model_validator(mode="after")
    def _slots(self) -> AuditConfig:
        if self.planted is not None and not 1 <= self.planted.total <= self.canaries:
            raise ValueError(
                f"planted: got {self.planted.total} records for {self.canaries} slots; valid: at least one, at most as "
                "many as audit.canaries"
            )
        return self


@dataclass(frozen=True)
class Split:
    """Sorted int64 positions into the source train split; but for `client`, they cover it without overlap."""

    train: Positions
    """Records of all clients together."""
    val: Positions
    """Records of the server."""
    holdout: Positions
    """Records nobody trains on, for the membership audit."""
    canaries: Positions
    """Slots of planted records."""
    withheld: Positions
    """Records of (client, class) cells smaller than `partition.min_class`."""
    client: list[Positions]
    """Records of each client; together `train`."""

    def save(self, path: Path) -> None:
        """Write split.npz: the positions, `client` = int32 owner of each source record (-1: none), `clients`.

        The file appears whole or not at all. `clients` is there because a last client may hold nothing.
        """
        owner = np.full(sum(len(getattr(self, key)) for key in _KEYS), -1, np.int32)
        for client, positions in enumerate(self.client):
            owner[positions] = client
        arrays = {key: getattr(self, key) for key in _KEYS}
        content = io.BytesIO()
        np.savez(content, **arrays, client=owner, clients=np.int32(len(self.client)))
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read what `save` wrote; `UserError` for a file that is missing, damaged or not a split."""
        if not path.is_file():
            raise UserError(f"split {path} does not exist; give the split.npz of a run directory")
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                arrays = {key: file[key] for key in (*_KEYS, "client", "clients")}
        except (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"split {path} cannot be read ({one_line(error)}); give a run's split.npz") from error
        owner, clients = arrays.pop("client"), arrays.pop("clients")
        covered = np.concatenate([values.ravel() for values in arrays.values()])
        held = np.flatnonzero(owner >= 0)
        if (
            owner.ndim != 1
            or clients.ndim != 0
            or not np.array_equal(np.sort(covered), np.arange(owner.size))
            or not np.array_equal(held, arrays["train"])
            or owner.max(initial=-1) >= clients
        ):
            raise UserError(f"split {path} is inconsistent (records doubled or lost); give a run's split.npz")
        return cls(**arrays, client=[np.flatnonzero(owner == client) for client in range(int(clients))])


def stratified(
    labels: Int[np.ndarray, "n"], size: int, rng: np.random.Generator, setting: str
) -> Int[np.ndarray, "size"]:
    """`size` sorted positions, every class in proportion (largest remainders, ties at random).

    One record of each class always stays behind: `UserError`, naming `setting`, when that cannot be. n ≥ 1.
    """
    classes, counts = np.unique(labels, return_counts=True)
    room = counts - 1
    if size > room.sum():
        smallest = classes[counts.argmin()]
        raise UserError(
            f"{setting} takes {size} of {len(labels)} records and a class would vanish (class {smallest} has "
            f"{counts.min()}); valid: at most {room.sum()} records; lower it"
        )
    take, remainder = np.divmod(size * counts, len(labels))
    order = np.lexsort((rng.random(len(classes)), -remainder))
    while missing := size - int(take.sum()):
        extra = order[take[order] < room[order]][:missing]
        take[extra] += 1
    pieces = [
        rng.permutation(np.flatnonzero(labels == label))[:number] for label, number in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(pieces))


def draw_split(
    labels: Int[np.ndarray, "n"],
    num_classes: int,
    val: float,
    audit: AuditConfig,
    partition: Partition,
    seed: int,
) -> Split:
    """Carve val, holdout and canaries (each stratified), deal the rest, withhold cells under `min_class`.

    `val` and `audit.holdout` are shares of all n records. Raises `UserError` for fewer than two classes, a
    share that rounds to no record, and a class that would vanish from the clients.
    """
    _check(labels, num_classes, val)
    sizes = (round(val * len(labels)), round(audit.holdout * len(labels)), audit.canaries)
    settings = (f"data.val={val}", f"audit.holdout={audit.holdout}", f"audit.canaries={audit.canaries}")
    shares = (val, audit.holdout, 0.0)
    rest, reserved = np.arange(len(labels)), {}
    for purpose, size, share, setting in zip(RESERVED, sizes, shares, settings, strict=True):
        if share > 0 and size < 1:
            raise UserError(f"{setting} of {len(labels)} records is less than 1 record; raise it or set it to 0")
        taken = stratified(labels[rest], size, numpy_stream(seed, "split", purpose), setting)
        reserved[purpose] = rest[taken]
        rest = np.delete(rest, taken)
    parts = partition(labels[rest], num_classes, numpy_stream(seed, "partition"))
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(rest))):
        raise UserError(f"partition {partition.config.name} lost or doubled records; each must go to one client")
    client, withheld = withhold_small([rest[part] for part in parts], labels, partition.config.min_class)
    train = np.sort(np.concatenate(client))
    gone = np.setdiff1d(labels, labels[train])
    if len(gone):
        raise UserError(
            f"partition.min_class={partition.config.min_class} withholds every record of class {gone[0]}; "
            f"lower partition.min_class or partition.clients"
        )
    return Split(train=train, **reserved, withheld=withheld, client=client)


def _check(labels: np.ndarray, num_classes: int, val: float) -> None:
    if not 0 <= val <= 0.5:
        raise UserError(f"data.val={val} is out of range; valid: 0 to 0.5")
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(f"the train split holds {len(present)} class(es); give data of at least 2 classes")
    if present[0] < 0 or present[-1] >= num_classes:
        raise UserError(f"labels go from {present[0]} to {present[-1]}; give 0..{num_classes - 1}")


def one_line(error: Exception) -> str:
    """The text of an error of another library, fit for a `UserError`."""
    return " ".join(str(error).split()) or type(error).__name__
