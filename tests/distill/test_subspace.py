"""Directions for private vectors: orthonormal, the main ones where rows are given, completed where these are few."""

from __future__ import annotations

import pytest
import torch

from fedsim.distill.subspace import basis
from fedsim.seeding import stream
from fedsim.types import UserError


@pytest.mark.parametrize(("rows", "dimension"), [(None, 3), (2, 5), (9, 4), (40, 8)])
def test_columns_are_orthonormal(rows, dimension):
    given = None if rows is None else torch.randn(rows, 8, generator=stream(1))
    found = basis(dimension, 8, stream(0), given)
    assert found.shape == (8, dimension)
    assert torch.allclose(found.T @ found, torch.eye(dimension), atol=1e-6)


def test_main_directions_hold_most_of_the_rows():
    plane = torch.linalg.qr(torch.randn(8, 2, generator=stream(2))).Q
    rows = torch.randn(50, 2, generator=stream(3)) @ plane.T
    found = basis(2, 8, stream(0), rows)
    assert torch.allclose(rows @ found @ found.T, rows, atol=1e-5)
    random = basis(2, 8, stream(0))
    assert float((rows @ random).norm()) < 0.9 * float(rows.norm())


def test_few_rows_are_all_kept_and_the_rest_is_random():
    rows = torch.randn(2, 8, generator=stream(4))
    found, other = basis(5, 8, stream(0), rows), basis(5, 8, stream(1), rows)
    assert torch.allclose(rows @ found @ found.T, rows, atol=1e-5)
    assert not torch.allclose(found @ found.T, other @ other.T)


def test_a_random_basis_is_that_of_its_stream():
    assert torch.equal(basis(3, 8, stream(0)), basis(3, 8, stream(0)))
    assert not torch.equal(basis(3, 8, stream(0)), basis(3, 8, stream(1)))


def test_all_directions_keep_every_distance():
    rows = torch.randn(5, 8, generator=stream(5))
    assert torch.allclose((rows @ basis(8, 8, stream(0))).norm(dim=1), rows.norm(dim=1), atol=1e-5)


def test_more_directions_than_coordinates_are_refused():
    with pytest.raises(UserError, match="got 9; vectors have 8 coordinates; valid: 1 to 8"):
        basis(9, 8, stream(0))
