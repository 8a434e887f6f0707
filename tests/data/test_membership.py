"""Rows of a membership audit: halves of one pool, in complementary pairs, nothing lost, nothing else moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.membership import pool_of, with_members
from fedsim.data.partition import IID, IIDConfig
from fedsim.data.split import AuditConfig, Split, draw_split
from fedsim.types import UserError


def drawn(seed: int = 0, holdout: float = 0.4, clients: int = 3) -> tuple[Split, np.ndarray]:
    labels = np.random.default_rng(seed).integers(0, 4, 300)
    split = draw_split(labels, 4, 0.1, AuditConfig(holdout=holdout), IID(IIDConfig(clients=clients)), seed)
    return split, labels


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), row=st.integers(0, 20), client=st.integers(0, 2))
def test_a_row_moves_records_of_the_pool_and_no_others(seed: int, row: int, client: int) -> None:
    split, labels = drawn(seed)
    pool = pool_of(split, client, labels, seed)
    moved = with_members(split, pool, row)
    everything = np.concatenate([moved.train, moved.val, moved.holdout, moved.canaries, moved.withheld])
    assert np.array_equal(np.sort(everything), np.arange(len(labels)))
    for other in range(3):
        if other != client:
            assert np.array_equal(moved.client[other], split.client[other])
    members = pool.members(row)
    assert set(pool.positions[members]) <= set(moved.client[client])
    assert not set(pool.positions[~members]) & set(moved.train)
    assert np.array_equal(np.bincount(labels[moved.client[client]]), np.bincount(labels[split.client[client]]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), pair=st.integers(0, 10))
def test_pairs_are_complements_and_every_class_is_halved(seed: int, pair: int) -> None:
    split, labels = drawn(seed)
    pool = pool_of(split, 0, labels, seed)
    first, second = pool.members(2 * pair), pool.members(2 * pair + 1)
    assert np.array_equal(first, ~second)
    for label in np.unique(pool.labels):
        here = pool.labels == label
        assert first[here].sum() * 2 == here.sum()


def test_rows_differ_and_members_are_as_often_of_the_holdout_as_of_the_client() -> None:
    split, labels = drawn()
    pool = pool_of(split, 0, labels, 0)
    rows = np.stack([pool.members(row) for row in range(0, 400, 2)])
    assert len(np.unique(rows, axis=0)) == 200
    out = np.isin(pool.positions, split.holdout)
    share = rows[:, out].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(rows[:, out].size / 2)


@pytest.mark.parametrize(
    ("holdout", "client", "said"), [(0.0, 0, "audit.holdout=0"), (0.4, 3, "valid: 0 to 2"), (0.4, 7, "valid: 0 to 2")]
)
def test_no_pool_is_refused(holdout: float, client: int, said: str) -> None:
    split, labels = drawn(holdout=holdout)
    with pytest.raises(UserError, match=said):
        pool_of(split, client, labels, 0)
