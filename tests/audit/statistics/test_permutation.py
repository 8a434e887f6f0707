"""Permutation within classes: the loop, every permutation there is, uniform p-values, classes that differ."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.audit.statistics import permutation as module
from fedsim.audit.statistics.permutation import (
    area,
    mean_difference,
    nearest_gap,
    permutation_test,
    permuted_members,
)
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)


def halves(n: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of each class members, drawn at random."""
    labels = np.arange(n) % classes
    members = np.zeros(n, dtype=bool)
    for label in range(classes):
        places = rng.permutation(np.flatnonzero(labels == label))
        members[places[: len(places) // 2]] = True
    return members, labels


@LIGHT
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 6))
def test_it_is_the_loop_over_the_same_memberships(seed, classes, values):
    rng = np.random.default_rng(seed)
    members, labels = halves(6 * classes, classes, rng)
    scores = rng.integers(0, values, len(labels)).astype(float)
    found = permutation_test(area(scores), members, labels, np.random.default_rng(seed), 19)
    rows = permuted_members(members, labels, 19, np.random.default_rng(seed))
    null = [literal.auc(scores[row].tolist(), scores[~row].tolist()) for row in rows]
    assert found.value == pytest.approx(literal.auc(scores[members].tolist(), scores[~members].tolist()))
    assert found.null == pytest.approx(null)
    assert found.p == pytest.approx(literal.permutation_p(found.value, null))
    assert 0 < found.p_randomised <= found.p


def test_it_nears_the_share_of_all_permutations():
    scores = np.array([3.0, 1.0, 2.5, 0.2, 0.7, 4.0, 1.1, 0.9])
    members = np.array([True, False, True, False, True, True, False, False])
    truth = scores[members].mean() - scores[~members].mean()
    sums = [sum(scores[list(chosen)]) for chosen in itertools.combinations(range(8), 4)]
    exact = np.mean([2 * one / 4 - scores.sum() / 4 >= truth - 1e-12 for one in sums])
    found = permutation_test(mean_difference(scores), members, np.zeros(8, dtype=int), np.random.default_rng(0), 3999)
    assert found.value == pytest.approx(truth)
    assert found.p == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 4000))


def test_every_class_keeps_its_members():
    members = np.array([True, True, False, False, False, True, False])
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    rows = permuted_members(members, labels, 500, np.random.default_rng(0))
    for label, number in ((0, 2), (1, 1), (2, 0)):
        assert (rows[:, labels == label].sum(1) == number).all()
    assert np.abs(rows[:, :3].mean(0) - 2 / 3).max() < 0.1
    assert np.abs(rows[:, 3:6].mean(0) - 1 / 3).max() < 0.1


@pytest.mark.parametrize("values", [2, 1000])
def test_p_values_are_uniform_where_nothing_leaks(values):
    """With two values nearly all statistics tie: p is conservative, the randomised one is uniform all the same."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        members, labels = halves(24, 2, rng)
        scores = rng.integers(0, values, 24) + 10.0 * labels
        found.append(permutation_test(mean_difference(scores), members, labels, rng, 99))
    assert stats.kstest([one.p_randomised for one in found], "uniform").pvalue > 0.01
    assert sum(one.p <= 0.05 for one in found) <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_unequal_classes_are_no_evidence():
    """Class 1 scores higher and has more members: no leak, and only a permutation within classes sees that."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    members = np.zeros(80, dtype=bool)
    members[rng.permutation(40)[:8]] = members[40 + rng.permutation(40)[:32]] = True
    scores = rng.normal(size=80) + 3.0 * labels
    within = permutation_test(mean_difference(scores), members, labels, np.random.default_rng(1))
    across = permutation_test(mean_difference(scores), members, np.zeros(80, dtype=int), np.random.default_rng(1))
    assert across.p == 1 / 1000
    assert within.p > 0.05


def test_a_leak_is_found():
    rng = np.random.default_rng(3)
    members, labels = halves(200, 4, rng)
    scores = rng.normal(size=200) + 1.0 * members
    for statistic in (mean_difference(scores), area(scores)):
        assert permutation_test(statistic, members, labels, rng).p == 1 / 1000


def test_where_all_values_tie_p_is_one_and_the_randomised_one_still_uniform():
    members, labels = np.tile([True, False, False], 4), np.repeat([0, 1], 6)
    scores = np.full(12, 0.1) + 0.2 * labels
    found = [
        permutation_test(mean_difference(scores), members, labels, np.random.default_rng(seed), 1)
        for seed in range(200)
    ]
    assert all(one.p == 1 for one in found)
    assert stats.kstest([one.p_randomised for one in found], "uniform").pvalue > 0.01


@pytest.mark.parametrize(("difference", "p"), [(1e-13, 1.0), (1e-6, 0.05)])
def test_what_rounding_leaves_of_a_tie_is_no_evidence(difference, p):
    def statistic(rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), 3.0 if len(rows) == 1 else 3.0 - difference)

    members = np.tile([True, False], 5)
    assert permutation_test(statistic, members, np.zeros(10, dtype=int), np.random.default_rng(0), 19).p == p


def test_it_works_piece_by_piece(monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 100)
    rng = np.random.default_rng(4)
    members, labels = halves(40, 2, rng)
    found = permutation_test(area(rng.normal(size=40) + 2 * members), members, labels, rng, 99)
    assert found.null.shape == (99,)
    assert found.p == 1 / 100


@LIGHT
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_nearest_gap_is_the_loop(seed, images):
    rng = np.random.default_rng(seed)
    members, labels = halves(12, 2, rng)
    distances = rng.random((images, 12))
    own = np.arange(images) % 2
    distances[own[:, None] != labels[None, :]] = np.inf
    rows = permuted_members(members, labels, 7, rng)
    expected = [literal.nearest_gap(distances, row.tolist()) for row in rows]
    assert nearest_gap(distances)(rows) == pytest.approx(expected)


def test_images_near_members_are_found_by_the_nearest_gap():
    rng = np.random.default_rng(5)
    records = rng.normal(size=(80, 5))
    members, labels = halves(80, 1, rng)
    near = records[members][:10] + 0.3 * rng.normal(size=(10, 5))
    far = rng.normal(size=(10, 5))
    for images, found in ((near, True), (far, False)):
        distances = np.linalg.norm(images[:, None] - records[None], axis=2)
        assert (permutation_test(nearest_gap(distances), members, labels, rng, 199).p <= 0.05) is found


def test_wrong_input():
    members, labels = np.array([True, False]), np.zeros(2, dtype=int)
    with pytest.raises(UserError, match="permutations: got 0"):
        permutation_test(area(np.zeros(2)), members, labels, np.random.default_rng(0), 0)
    with pytest.raises(UserError, match="classes: got 3 for 2 records"):
        inspect.unwrap(permuted_members)(members, np.zeros(3, dtype=int), 5, np.random.default_rng(0))
    with pytest.raises(UserError, match="scores"):
        area(np.array([np.nan]))
    alone = np.array([[1.0, np.inf]])  # a class with a member only: no non-member to be near
    with pytest.raises(UserError, match="members and non-members in every class"):
        permutation_test(nearest_gap(alone), members, np.array([0, 1]), np.random.default_rng(0), 19)
