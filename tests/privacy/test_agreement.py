"""What the parties of a private run agree on: σ follows from ε, from how often is released, and from the sampling."""

from __future__ import annotations

import pytest

from fedsim.privacy.accountant import Releases, guarantee
from fedsim.privacy.features import Config, Features

TERMS = {"public_bound": 2000, "noise": "seeded"}


@pytest.mark.parametrize(("releases", "rate"), [(1, 1.0), (40, 1.0), (40, 0.1)])
def test_the_noise_is_the_least_that_keeps_epsilon_over_all_releases(releases, rate):
    agreed = Features(Config(**TERMS, target_epsilon=2.0, rate=rate), releases)
    assert 1.99 < agreed.planned() <= 2.0
    assert agreed.mechanism.sigma == agreed.sigma
    assert agreed.mechanism.rate == rate
    less = guarantee([Releases(agreed.sigma * 0.99, releases, rate)], 1e-5)
    assert less.epsilon > 2.0


def test_a_given_sigma_is_taken_as_it_is():
    agreed = Features(Config(**TERMS, sigma=5.0), 10)
    assert agreed.sigma == 5.0
    assert agreed.planned() == pytest.approx(2.594, abs=1e-3)


@pytest.mark.parametrize("both", [{}, {"sigma": 1.0, "target_epsilon": 1.0}])
def test_exactly_one_of_sigma_and_epsilon(both):
    with pytest.raises(ValueError, match="exactly one of sigma and target_epsilon"):
        Config(**TERMS, **both)
