"""Activation clustering: the parts against scikit-learn; poison is the small far cluster, one cloud has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from defenses.activation_clustering import (
    ActivationClustering,
    Config,
    principal,
    silhouette,
    suspicious,
    two_means,
)
from fedsim.seeding import Streams, numpy_stream
from tests.reference import defences as reference


def clouds(far: float, small: int = 12) -> np.ndarray:
    """60 rows of 8 features, the first `small` of them `far` away."""
    rows = numpy_stream(0, "clouds").standard_normal((60, 8))
    rows[:small, 3] += far
    return rows


def test_two_far_clouds_are_the_clusters() -> None:
    points = principal(torch.from_numpy(clouds(9.0)), 3)
    found = two_means(points)
    assert found.nonzero().flatten().tolist() == list(range(12))
    theirs = KMeans(2, n_init=10, random_state=0).fit(points.numpy()).labels_
    assert len({(int(a), int(b)) for a, b in zip(theirs, found.tolist(), strict=True)}) == 2


@pytest.mark.parametrize("far", [0.0, 3.0, 9.0])
def test_the_silhouette_is_scikit_learns_and_that_of_plain_numbers(far: float) -> None:
    points = principal(torch.from_numpy(clouds(far)), 3)
    second = two_means(points)
    found = float(silhouette(points, second))
    assert found == pytest.approx(silhouette_score(points.numpy(), second.numpy()))
    assert found == pytest.approx(reference.silhouette(points.numpy(), second.tolist()))


def test_a_point_alone_counts_nothing() -> None:
    points = torch.tensor([[0.0], [1.0], [50.0]])
    second = torch.tensor([False, False, True])
    assert float(silhouette(points, second)) == pytest.approx(reference.silhouette(points.numpy(), second.tolist()))


def test_principal_coordinates_keep_distances_where_all_components_are_kept() -> None:
    rows = torch.from_numpy(clouds(3.0))
    assert torch.allclose(torch.cdist(principal(rows, 8), principal(rows, 8)), torch.cdist(rows, rows), atol=1e-5)
    assert principal(rows, 3).shape == (60, 3)


def test_what_is_suspicious_is_small_and_apart() -> None:
    assert suspicious(torch.from_numpy(clouds(9.0)), 3, 0.35)[0].sum() == 12
    even, apart = suspicious(torch.from_numpy(clouds(9.0, small=28)), 3, 0.35)
    assert (int(even.sum()), apart) == (0, 0.0)
    same = torch.ones((12, 4), dtype=torch.float64)
    assert suspicious(same, 3, 0.35)[1] == 0.0


def test_a_client_with_poison_in_one_class_is_flagged_and_scores_what_the_pieces_say() -> None:
    here, uploads = reference.setting(), reference.uploads(7)
    uploads[5] = reference.poisoned(uploads[5])
    found = ActivationClustering(Config()).inspect(here, reference.before(here), uploads, Streams(0))
    assert max(found, key=lambda one: one.score).client == 15
    assert [one.client for one in found if one.flagged] == [15]
    assert found[5].score > 0.3


def test_too_few_rows_are_not_judged() -> None:
    here, defence = reference.setting(), ActivationClustering(Config(components=3))
    for clients, judged in ((8, False), (9, True)):
        found = defence.inspect(here, reference.before(here), reference.uploads(clients, (1, 0, 0, 0)), Streams(0))
        assert {one.judged for one in found} == {judged}
