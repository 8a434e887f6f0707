"""How the records of a training split are dealt to clients; every record goes to exactly one client.

    iid                 a random permutation cut into equal parts
    dirichlet           of each class c, shares p_c ~ Dir(α·1) over the clients: label skew
    classes_per_client  every client holds a fixed number of classes: pathological label skew
    quantity            shares p ~ Dir(α·1) of the whole over the clients: size skew

Source  Hsu, Qi, Brown, arXiv 1909.06335 (2019), Dirichlet label skew; Li, Diao, Chen, He, "Federated Learning
        on Non-IID Data Silos", ICDE 2022, arXiv 2102.02079 (shares drawn per class; quantity skew);
        McMahan et al., AISTATS 2017, arXiv 1602.05629, section 3 (few classes per client).
Differs a draw that leaves a client too small is repeated up to `MAX_DRAWS` times, then an error; classes are
        dealt so that each has an owner and owner counts differ by at most one, instead of sorted shards.
Cost    O(n + draws · clients · classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from pydantic import Field

from fedsim.config import Section
from fedsim.types import UserError

Labels = Int[np.ndarray, "n"]
"""Class of each record, 0..k-1."""

Positions = np.ndarray
"""Sorted int64 positions of records, shape (m,)."""

MAX_DRAWS = 1000
"""Draws of Dirichlet shares before `min_size` is declared out of reach."""


class PartitionConfig(Section):
    """Settings every partition has."""

    name: Any
    """Kind of partition; each one narrows it to its own name."""
    clients: int = Field(default=10, ge=1)
    """Number of clients."""
    min_class: int = Field(default=0, ge=0)
    """A class of which a client holds fewer records than this (but some) is withheld from it."""


@runtime_checkable
class Partition(Protocol):
    """Deals records to clients."""

    @property
    def config(self) -> PartitionConfig:
        """Its settings."""
        ...

    def __call__(self, labels: Labels, num_classes: int, rng: np.random.Generator) -> list[Positions]:
        """Sorted positions of each client; together every position 0..n-1 once."""
        ...


class IIDConfig(PartitionConfig):
    """Settings of IID."""

    name: Literal["iid"] = "iid"
    """Kind of partition."""


class IID:
    """Equal random parts; sizes differ by at most one."""

    Config = IIDConfig

    def __init__(self, config: IIDConfig) -> None:
        self.config = config

    def __call__(self, labels: Labels, num_classes: int, rng: np.random.Generator) -> list[Positions]:
        """Sorted positions of each client; `UserError` for more clients than records."""
        _check(labels, num_classes, self.config.clients)
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), self.config.clients)]


class SharesConfig(PartitionConfig):
    """Settings of the partitions whose shares are Dirichlet draws."""

    alpha: float = Field(default=0.5, gt=0)
    """Concentration α: near 0 one client gets nearly all of what is shared, large values share evenly."""
    min_size: int = Field(default=10, ge=0)
    """Fewest records of a client, before `min_class` withholds any."""


class DirichletConfig(SharesConfig):
    """Settings of Dirichlet."""

    name: Literal["dirichlet"] = "dirichlet"
    """Kind of partition."""


class Dirichlet:
    """Label skew: the shares of each class over the clients are one Dirichlet draw."""

    Config = DirichletConfig

    def __init__(self, config: DirichletConfig) -> None:
        self.config = config

    def __call__(self, labels: Labels, num_classes: int, rng: np.random.Generator) -> list[Positions]:
        """Sorted positions of each client; `UserError` when `min_size` cannot be met."""
        _check(labels, num_classes, self.config.clients, self.config.min_size)
        sizes_per_class = _draw_sizes(self.config, np.bincount(labels, minlength=num_classes), rng)
        parts: list[list[np.ndarray]] = [[] for _ in range(self.config.clients)]
        for label, sizes in enumerate(sizes_per_class):
            records = rng.permutation(np.flatnonzero(labels == label))
            for part, piece in zip(parts, np.split(records, np.cumsum(sizes)[:-1]), strict=True):
                part.append(piece)
        return [np.sort(np.concatenate(part)) for part in parts]


class ClassesPerClientConfig(PartitionConfig):
    """Settings of ClassesPerClient."""

    name: Literal["classes_per_client"] = "classes_per_client"
    """Kind of partition."""
    classes: int = Field(default=2, ge=1)
    """Classes dealt to each client."""


class ClassesPerClient:
    """Every client owns `classes` classes; a class is split evenly among its owners, none is orphaned."""

    Config = ClassesPerClientConfig

    def __init__(self, config: ClassesPerClientConfig) -> None:
        self.config = config

    def __call__(self, labels: Labels, num_classes: int, rng: np.random.Generator) -> list[Positions]:
        """Sorted positions of each client; `UserError` when the classes cannot be dealt.

        Only classes with records are dealt; one with fewer records than owners leaves some without it.
        """
        clients, classes = self.config.clients, self.config.classes
        _check(labels, num_classes, clients)
        present = np.unique(labels)
        if classes > len(present):
            raise UserError(
                f"partition.classes={classes}; the data hold {len(present)} classes, give 1..{len(present)}"
            )
        if clients * classes < len(present):
            raise UserError(
                f"partition: {clients} clients × {classes} classes cannot own {len(present)} classes; "
                f"raise partition.clients or partition.classes to at least {len(present)} in product"
            )
        owned = _deal(clients, classes, len(present), rng)
        parts: list[np.ndarray] = [np.empty(0, np.int64) for _ in range(clients)]
        for column, label in enumerate(present):
            owners = rng.permutation(np.flatnonzero(owned[:, column]))
            # The smallest owners come first because array_split gives the first pieces the remainder.
            owners = owners[np.argsort([len(parts[owner]) for owner in owners], kind="stable")]
            records = rng.permutation(np.flatnonzero(labels == label))
            for owner, piece in zip(owners, np.array_split(records, len(owners)), strict=True):
                parts[owner] = np.concatenate([parts[owner], piece])
        return [np.sort(part) for part in parts]


class QuantityConfig(SharesConfig):
    """Settings of Quantity."""

    name: Literal["quantity"] = "quantity"
    """Kind of partition."""


class Quantity:
    """Size skew: the clients' shares of all records are one Dirichlet draw; classes are mixed."""

    Config = QuantityConfig

    def __init__(self, config: QuantityConfig) -> None:
        self.config = config

    def __call__(self, labels: Labels, num_classes: int, rng: np.random.Generator) -> list[Positions]:
        """Sorted positions of each client; `UserError` when `min_size` cannot be met."""
        _check(labels, num_classes, self.config.clients, self.config.min_size)
        sizes = _draw_sizes(self.config, np.array([len(labels)]), rng)[0]
        return [np.sort(part) for part in np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1])]


def cells(parts: Sequence[Positions], labels: Labels, num_classes: int) -> Int[np.ndarray, "clients k"]:
    """Records of each class at each client."""
    return np.array([np.bincount(labels[part], minlength=num_classes) for part in parts], dtype=np.int64)


def withhold_small(parts: Sequence[Positions], labels: Labels, min_class: int) -> tuple[list[Positions], Positions]:
    """Kept parts, and sorted withheld positions: every (client, class) cell of 0 < size < `min_class`."""
    kept: list[Positions] = []
    withheld: list[Positions] = [np.empty(0, np.int64)]
    for part in parts:
        small = np.bincount(labels[part])[labels[part]] < min_class
        kept.append(part[~small])
        withheld.append(part[small])
    return kept, np.sort(np.concatenate(withheld))


def _check(labels: np.ndarray, num_classes: int, clients: int, min_size: int = 1) -> None:
    """Refuse what no draw can meet."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise UserError(f"labels go from {labels.min()} to {labels.max()}; give 0..{num_classes - 1}")
    needed = clients * max(min_size, 1)
    if needed > len(labels):
        size, remedy = ("", "") if min_size <= 1 else (f" of min_size={min_size}", " or partition.min_size")
        raise UserError(
            f"partition.clients={clients}{size} need {needed} records, {len(labels)} are there; "
            f"lower partition.clients{remedy}"
        )


def _draw_sizes(config: SharesConfig, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Records of each client, (rows, clients): `counts` cut at whole records by Dirichlet draws."""
    concentration = np.full(config.clients, config.alpha)
    for _ in range(MAX_DRAWS):
        shares = rng.dirichlet(concentration, size=len(counts))
        borders = np.floor(np.cumsum(shares, axis=1) * counts[:, None]).astype(np.int64)
        # The shares' sum is 1 only up to rounding; the last border is the count itself.
        borders = np.minimum(borders, counts[:, None])
        borders[:, -1] = counts
        sizes = np.diff(borders, axis=1, prepend=0)
        if sizes.sum(axis=0).min() >= config.min_size:
            return sizes
    raise UserError(
        f"partition: no draw of {MAX_DRAWS} with alpha={config.alpha} gave each of {config.clients} clients"
        f" min_size={config.min_size} records; raise partition.alpha, or lower partition.min_size or clients"
    )


def _deal(clients: int, classes: int, available: int, rng: np.random.Generator) -> np.ndarray:
    """Who owns what, bool (clients, available): `classes` per row, column sums differ by at most 1."""
    owned = np.zeros((clients, available), dtype=bool)
    for client in range(clients):
        # Each client takes the classes with the fewest owners so far, ties at random.
        order = np.lexsort((rng.random(available), owned.sum(axis=0)))
        owned[client, order[:classes]] = True
    return owned
