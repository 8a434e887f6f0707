"""Who would be a member: complementary rows over the audited client's records and as many held-out ones.

A membership audit compares records that a client held with records that it could as well have held. The pool P has,
of every class c, n_c records of the client and n_c of the holdout (n_c: the smaller of what the two have). Row r says
which half of the pool the client holds in the r-th run of the audit, the other half is held out; rows 2j and 2j + 1 are
each other's complement, so every record is in half of the runs, and every run holds n_c records of each class.

        M ∈ {0, 1}^{2J×N},  M[2j] drawn class by class,  M[2j+1] = 1 − M[2j]

Records of the client beyond the pool stay with it in every row; so do those of all other clients.

Source  models in complementary pairs: Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks",
        ICML 2024, arXiv 2312.03262; shadows: Carlini et al., "Membership Inference Attacks From First Principles",
        IEEE S&P 2022, arXiv 2112.03570.
Differs members and non-members are halves of one pool drawn from one source split; never the train and the test split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from fedsim.data.partition import Positions
from fedsim.data.split import Split
from fedsim.seeding import numpy_stream
from fedsim.types import UserError


@dataclass(frozen=True)
class Pool:
    """Records that are asked about, and how the rows over them are drawn."""

    client: int
    positions: Positions
    """N sorted positions into the source train split."""
    labels: Int[np.ndarray, "N"]
    seed: int

    def members(self, row: int) -> Bool[np.ndarray, "N"]:
        """Row `row` of M: whether the client holds each record of the pool."""
        rng = numpy_stream(self.seed, "membership", self.client, row // 2)
        chosen = np.zeros(len(self.positions), bool)
        for label in np.unique(self.labels):
            where = np.flatnonzero(self.labels == label)
            chosen[rng.permutation(where)[: len(where) // 2]] = True
        return chosen if row % 2 == 0 else ~chosen


def pool_of(split: Split, client: int, labels: Int[np.ndarray, "n"], seed: int) -> Pool:
    """P of a client: n_c of its records and n_c of the holdout in every class that both have.

    `split` is the one without membership, `labels` those of the source train split. `UserError` where there is no such
    client, nothing is held out, or no class is in both.
    """
    if client >= len(split.client):
        raise UserError(f"audit.membership.client={client}; valid: 0 to {len(split.client) - 1}")
    if not len(split.holdout):
        raise UserError("audit.holdout=0: there are no non-members to compare with; set it, for example to 0.4")
    rng, found = numpy_stream(seed, "membership", client, "pool"), []
    for label in np.unique(labels):
        held, out = (part[labels[part] == label] for part in (split.client[client], split.holdout))
        size = min(len(held), len(out))
        found += [rng.permutation(held)[:size], rng.permutation(out)[:size]]
    positions = np.sort(np.concatenate(found))
    if not len(positions):
        raise UserError(f"client {client} and the holdout share no class; raise audit.holdout")
    return Pool(client, positions, labels[positions], seed)


def with_members(split: Split, pool: Pool, row: int) -> Split:
    """The split in which the client holds exactly the pool's members of this row, and what it has beyond the pool."""
    members = pool.members(row)
    inside, outside = pool.positions[members], pool.positions[~members]
    client = list(split.client)
    client[pool.client] = np.sort(np.concatenate([np.setdiff1d(client[pool.client], pool.positions), inside]))
    holdout = np.sort(np.concatenate([np.setdiff1d(split.holdout, pool.positions), outside]))
    return replace(split, train=np.sort(np.concatenate(client)), holdout=holdout, client=client)
