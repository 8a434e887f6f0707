from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.partition import (
    IID,
    ClassesPerClient,
    Dirichlet,
    Partition,
    Quantity,
    cells,
    withhold_small,
)
from fedsim.types import UserError

CHECKED = settings(max_examples=25, deadline=None)


@st.composite
def labelled(draw: st.DrawFn, least: int = 30) -> tuple[np.ndarray, int, int]:
    """Labels with ragged (some empty) classes, their number of classes, a seed."""
    num_classes = draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(0, 40), min_size=num_classes, max_size=num_classes))
    counts[draw(st.integers(0, num_classes - 1))] += least
    seed = draw(st.integers(0, 10_000))
    labels = np.repeat(np.arange(num_classes), counts)
    return np.random.default_rng(seed).permutation(labels), num_classes, seed


def deal(partition: Partition, data: tuple[np.ndarray, int, int]) -> list[np.ndarray]:
    """The parts, after the checks that hold for every partition."""
    labels, num_classes, seed = data
    parts = partition(labels, num_classes, np.random.default_rng(seed))
    again = partition(labels, num_classes, np.random.default_rng(seed))
    assert len(parts) == partition.config.clients
    assert sorted(position for part in parts for position in part) == list(range(len(labels)))
    assert all(one < two for part in parts for one, two in pairwise(part))
    assert all(np.array_equal(one, two) and one.dtype == np.int64 for one, two in zip(parts, again, strict=True))
    return parts


@CHECKED
@given(labelled(), st.integers(1, 20))
def test_iid_parts_are_equal_to_one_record(data: tuple[np.ndarray, int, int], clients: int) -> None:
    sizes = [len(part) for part in deal(IID(IID.Config(clients=clients)), data)]
    assert max(sizes) - min(sizes) <= 1


@CHECKED
@given(labelled(), st.integers(1, 5), st.floats(0.2, 50), st.integers(0, 3))
def test_dirichlet_keeps_min_size(data: tuple[np.ndarray, int, int], clients: int, alpha: float, least: int) -> None:
    partition = Dirichlet(Dirichlet.Config(clients=clients, alpha=alpha, min_size=least))
    assert min(len(part) for part in deal(partition, data)) >= least


@CHECKED
@given(labelled(), st.integers(1, 5), st.floats(0.5, 50), st.integers(0, 3))
def test_quantity_keeps_min_size(data: tuple[np.ndarray, int, int], clients: int, alpha: float, least: int) -> None:
    partition = Quantity(Quantity.Config(clients=clients, alpha=alpha, min_size=least))
    assert min(len(part) for part in deal(partition, data)) >= least


@CHECKED
@given(labelled(), st.integers(1, 12), st.data())
def test_classes_are_split_evenly_among_owners(
    data: tuple[np.ndarray, int, int], clients: int, more: st.DataObject
) -> None:
    labels, num_classes, _ = data
    present = np.unique(labels)
    fewest = -(-len(present) // clients)
    classes = more.draw(st.integers(fewest, max(fewest, len(present))))
    partition = ClassesPerClient(ClassesPerClient.Config(clients=clients, classes=classes))
    table = cells(deal(partition, data), labels, num_classes)
    owners = (table > 0).sum(axis=0)
    assert (owners[present] >= 1).all()
    assert ((table > 0).sum(axis=1) <= classes).all()
    for label in present:
        held = table[table[:, label] > 0, label]
        assert held.max() - held.min() <= 1
    if np.bincount(labels)[present].min() >= clients:
        assert ((table > 0).sum(axis=1) == classes).all()
        assert np.ptp(owners[present]) <= 1


def test_alpha_moves_label_skew_from_one_owner_to_iid() -> None:
    labels = np.repeat(np.arange(4), 500)
    largest = {}
    for alpha in (0.01, 1000.0):
        partition = Dirichlet(Dirichlet.Config(clients=5, alpha=alpha, min_size=0))
        table = cells(deal(partition, (labels, 4, 3)), labels, 4)
        largest[alpha] = (table.max(axis=0) / 500).mean()
    assert largest[0.01] > 0.9
    assert largest[1000.0] < 0.25


def test_quantity_skews_sizes_and_not_classes() -> None:
    labels = np.tile(np.arange(2), 2000)
    parts = deal(Quantity(Quantity.Config(clients=4, alpha=1.0, min_size=200)), (labels, 2, 0))
    sizes = np.array([len(part) for part in parts])
    assert sizes.max() > 2 * sizes.min()
    assert np.abs(cells(parts, labels, 2)[:, 0] / sizes - 0.5).max() < 0.15


def test_cells_and_withholding() -> None:
    labels = np.array([0, 0, 0, 1, 2, 0, 1, 1])
    parts = [np.array([0, 1, 3, 4]), np.array([2, 5, 6, 7])]
    assert cells(parts, labels, 4).tolist() == [[2, 1, 1, 0], [2, 2, 0, 0]]
    kept, withheld = withhold_small(parts, labels, 2)
    assert [part.tolist() for part in kept] == [[0, 1], [2, 5, 6, 7]]
    assert withheld.tolist() == [3, 4]
    for nothing in (0, 1):
        kept, withheld = withhold_small(parts, labels, nothing)
        assert [len(part) for part in kept] == [4, 4]
        assert len(withheld) == 0


LABELS = np.repeat(np.arange(4), 25)


@pytest.mark.parametrize(
    ("partition", "text"),
    [
        (IID(IID.Config(clients=101)), "100 are there; lower partition.clients"),
        (Dirichlet(Dirichlet.Config(clients=11)), "min_size=10 need 110 records"),
        (Quantity(Quantity.Config(clients=2, min_size=51)), "min_size=51 need 102 records"),
        (Dirichlet(Dirichlet.Config(clients=10, alpha=0.01)), "no draw of 1000 .* raise partition.alpha"),
        (Quantity(Quantity.Config(clients=10, alpha=0.01)), "no draw of 1000 .* raise partition.alpha"),
        (ClassesPerClient(ClassesPerClient.Config(clients=5, classes=5)), "hold 4 classes, give 1..4"),
        (ClassesPerClient(ClassesPerClient.Config(clients=3, classes=1)), "cannot own 4 classes"),
    ],
)
def test_what_cannot_be_dealt_is_a_user_error(partition: Partition, text: str) -> None:
    with pytest.raises(UserError, match=text):
        partition(LABELS, 4, np.random.default_rng(0))


def test_labels_out_of_range_are_a_user_error() -> None:
    with pytest.raises(UserError, match=r"give 0\.\.2"):
        IID(IID.Config(clients=2))(LABELS, 3, np.random.default_rng(0))
