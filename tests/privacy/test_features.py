"""`privacy: features`: its settings, what they refuse, and that a Poisson sample estimates what all records give."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from fedsim.privacy.accountant import Releases, guarantee
from fedsim.privacy.features import Config, Features
from fedsim.privacy.mechanism import Mechanism, NoisySum
from fedsim.privacy.noise import SeededNoise, SystemNoise
from fedsim.seeding import Streams
from tests.privacy.test_owner import CENTRE, WIDTH, flat, owner
from tests.reference import dm as loops

TERMS = {"public_bound": 2000, "noise": "seeded", "sigma": 1.0}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"adjacency": "replace", "rate": 0.2}, "adjacency: replace is accounted for with all records"),
        ({"subspace": "random"}, "dimension: got None with subspace: random"),
        ({"dimension": 8}, "dimension: got 8 with subspace: none"),
        ({"rate": 0.0}, "greater than 0"),
        ({"mode": "once"}, "'precomputed' or 'per_step'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ValidationError, match=says):
        Config(**TERMS, **settings)


def test_what_the_parties_agree_on_follows_from_the_settings():
    plain = Features(Config(**TERMS, weighted=False), 3)
    assert (plain.most_weight, plain.sends_previous) == (None, False)
    assert Features(Config(**TERMS, weighted=True), 3).most_weight == 2000.0
    assert Features(Config(**TERMS, subspace="previous", dimension=4), 3).sends_previous
    assert Features(Config(**TERMS, centre="previous"), 3).sends_previous


def test_a_sampled_run_is_accounted_for_with_its_rate():
    terms = {"public_bound": 2000, "noise": "seeded", "target_epsilon": 1.0}
    sampled, whole = (Features(Config(**terms, rate=rate), 2) for rate in (0.01, 1.0))
    assert sampled.planned() <= 1.0
    assert sampled.sigma < whole.sigma
    assert guarantee([Releases(sampled.sigma, 2, 0.01)], 1e-5).method == "prv"


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_targets_and_counts_are_unbiased(tmp_path, rate):
    """Over 300 releases the mean of Σ/q and of n̂ lies within five standard errors of the exact sum and count."""
    images, trials = loops.images((40, 0, 12, 3)), 300
    here, network = owner(tmp_path, images, clip=3.0, kappa=1.0, sigma=0.4, rate=rate), loops.convnet()
    found = [here.release(f"{trial}", flat, CENTRE, network).values for trial in range(trials)]
    values = torch.stack(found) / rate
    vectors = loops.NORMALISE(images.pixels).flatten(1).double()
    vectors *= (3.0 / vectors.norm(dim=1, keepdim=True)).clamp(max=1)
    exact = torch.stack([vectors[images.labels == label].sum(0) for label in range(4)])
    expected = torch.cat([exact, images.counts(4).double().unsqueeze(1)], 1)
    error = values.std(0) / trials**0.5
    assert error.shape == (4, WIDTH + 1)
    assert float(((values.mean(0) - expected).abs() / error).max()) < 5
    with pytest.raises(AssertionError):  # forgetting q is noticed
        assert float(((values.mean(0) * 0.9 - expected).abs() / error).max()) < 5


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise(Streams(0).generator())])
def test_coins_fall_independently_at_the_rate(source):
    fallen = torch.stack([source.chosen(2000, 0.2) for _ in range(20)]).double()
    assert float(fallen.mean()) == pytest.approx(0.2, abs=5 * (0.16 / 40000) ** 0.5)
    assert float(fallen.sum(1).std()) == pytest.approx((2000 * 0.16) ** 0.5, rel=0.6)  # binomial, not a fixed size


def test_the_rate_scales_counts_and_targets():
    values = torch.tensor([[4.0, 8.0, 2.0]], dtype=torch.float64)
    found = NoisySum(values, 1.0, 0.25, simulated=True)
    assert found.counts.tolist() == [8.0]
    assert found.targets(1.0).tolist() == [[2.0, 4.0]]  # sums over the sampled, counts of the sampled
    assert Mechanism(1.0, 1.0, 1.0, 0.25).releases(3).rate == 0.25
