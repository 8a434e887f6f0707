"""Pieces hold whole owners, and every synthetic image once."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.distill.pieces import whole_owners

BUDGETS = st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=7)


@given(BUDGETS, st.integers(1, 12))
def test_pieces_are_whole_owners_and_every_row_once(budgets: list[list[int]], most: int) -> None:
    budget = torch.tensor(budgets).flatten()
    pieces = whole_owners(budget, 4, most, torch.device("cpu"))
    labels = torch.cat([piece.labels + piece.segments.start for piece in pieces])
    assert torch.equal(labels, torch.repeat_interleave(torch.arange(len(budget)), budget))
    assert [row for piece in pieces for row in range(piece.rows.start, piece.rows.stop)] == list(range(len(labels)))
    assert torch.equal(torch.cat([piece.budget for piece in pieces]), budget)
    per_owner = budget.view(-1, 4).sum(1).tolist()
    for piece in pieces:
        first, last = piece.segments.start // 4, piece.segments.stop // 4
        assert (piece.segments.start % 4, piece.segments.stop % 4) == (0, 0)
        assert sum(per_owner[first:last]) <= most or last - first == 1
        assert piece.present.tolist() == [at for at, count in enumerate(piece.budget.tolist()) if count]
