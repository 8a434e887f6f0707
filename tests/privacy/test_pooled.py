"""One sum over all classes with noisy counts: its equation, its sensitivity, and ways to get it wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedsim.privacy import pooled as module
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.pooled import PooledSum, release_pooled
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference.mechanism import CENTRE, CLASSES, WIDTH, Records, farthest_neighbours, literal, neighbours, records
from tests.reference.private_gradients import Silent

MECHANISM = Mechanism(clip=2.0, kappa=0.5, sigma=3.0)


def pooled(data: Records, mechanism: Mechanism, noise: SeededNoise) -> Any:
    pieces = zip(data.vectors.split(2), data.labels.split(2), strict=True) if len(data.labels) else []
    return release_pooled(pieces, CENTRE, CLASSES, mechanism, noise)


@pytest.mark.parametrize("number", [0, 1, 2, 17])
def test_without_noise_it_is_the_total_of_the_literal_class_sums_and_their_counts(number):
    data = records(number, stream(number))
    found = pooled(data, MECHANISM, Silent(stream(0)))
    expected = torch.tensor(literal(data, MECHANISM), dtype=torch.float64)
    assert found.values.shape == (WIDTH + CLASSES,)
    assert torch.allclose(found.total, expected[:, :-1].sum(0), rtol=0, atol=(number + 1) * MECHANISM.grid)
    assert torch.equal(found.counts, torch.bincount(data.labels, minlength=CLASSES).double())


def test_neighbours_are_no_farther_apart_than_stated():
    added, replaced = farthest_neighbours(pooled, 300)
    assert 0.999 < added <= 1.0
    assert 0.7 < replaced <= 1.0


def test_a_count_of_its_own_beside_it_is_noticed():
    """Counts with more weight than is stated: κ left out of the bound."""

    def heavy(data: Records, mechanism: Mechanism, noise: SeededNoise) -> Any:
        loud = Mechanism(mechanism.clip, 2 * mechanism.kappa, mechanism.sigma)
        return SimpleNamespace(values=pooled(data, loud, Silent(stream(0))).values)

    assert any(added > 1.0 for added, _ in neighbours(heavy, 200))


def test_rows_that_are_not_clipped_are_noticed(monkeypatch):
    own = module.contributions
    monkeypatch.setattr(module, "contributions", lambda rows, *words: 2 * own(rows, *words))
    assert any(added > 1.0 for added, _ in neighbours(pooled, 200))


def test_a_mean_is_over_the_counts_that_are_given_and_a_sample_is_scaled_up():
    found = PooledSum(torch.tensor([6.0, -3.0, 0.5, 1.0, -0.25]).double(), 3, kappa=0.5, rate=0.5, simulated=True)
    assert found.counts.tolist() == [2.0, 4.0, -1.0]
    assert found.total.tolist() == [12.0, -6.0]
    assert found.mean(found.counts, 1.0).tolist() == [2.0, -1.0]
    assert found.mean(found.counts, 12.0).tolist() == [1.0, -0.5]
    with pytest.raises(UserError, match="least: got 0"):
        found.mean(found.counts, 0.0)
