"""AUC by ranks against every pair; rows drawn as the audit draws them; a pair left out of everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attacks.membership_randomisation import areas, drawn_rows, null_areas, without_each_pair
from fedsim.data.membership import Pool
from fedsim.seeding import numpy_stream
from tests.reference.membership import area


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_area_is_the_share_of_pairs_in_order(rows):
    scores, members = np.array([float(s) for s, _ in rows]), np.array([m for _, m in rows])
    if members.all() or not members.any():
        return
    both = areas(np.stack([scores, -scores]), np.stack([members, members]))
    assert abs(both[0] - area(scores, members)) < 1e-12
    assert abs(both.sum() - 1) < 1e-12


def test_rows_are_drawn_as_those_of_the_audit():
    """Half of every class, complements side by side, every record as often."""
    labels, rng = np.array([0] * 6 + [1] * 4), numpy_stream(0)
    pool = Pool(0, np.arange(10), labels, 0)
    rows = np.stack([pool.members(row) for row in range(6)])
    drawn = np.stack([drawn_rows(rows, labels, rng) for _ in range(400)])
    assert (drawn[:, ::2] == ~drawn[:, 1::2]).all()
    assert (drawn[:, :, :6].sum(2) == 3).all()
    assert (drawn[:, :, 6:].sum(2) == 2).all()
    shares = drawn[:, ::2].mean((0, 1))
    assert np.abs(shares - 0.5).max() < 4 * 0.5 / np.sqrt(1200)
    assert len(np.unique(drawn[:, 0], axis=0)) > 60  # of 20 · 6


def test_every_draw_makes_its_own_scores():
    labels, rng = np.arange(8) % 2, numpy_stream(0)
    rows = drawn_rows(np.tile(np.arange(8) < 4, (4, 1)) ^ (np.arange(4) % 2 == 1)[:, None], np.zeros(8, int), rng)
    seen = []

    def again(kept, members):
        seen.append((kept.tolist(), members))
        return {"right": members * 1.0, "wrong": 1.0 - members}

    null = null_areas(again, rows, labels, 5, rng)
    assert (null["right"] == 1).all()
    assert (null["wrong"] == 0).all()
    assert len(np.unique(np.stack([members for _, members in seen]), axis=0)) == 5
    seen.clear()
    left = without_each_pair(again, rows)
    assert [kept for kept, _ in seen] == [[2, 3], [0, 1]]
    assert all(np.array_equal(members, rows[kept]) for kept, members in seen)
    assert [len(one) for one in left["right"]] == [2, 2]
