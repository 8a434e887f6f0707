"""The t predictive and the ratio: against one observation after another, and where the best is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, polygamma
from scipy.stats import norm

from attacks import membership_likelihoods as module
from attacks.membership_likelihoods import Prior, World, leave_pairs_out, scored
from attacks.membership_randomisation import areas
from fedsim.seeding import numpy_stream
from tests.reference import membership as reference
from tests.reference.membership import toy


def prior_of(records: int, kappa: float, degrees: float, variance: float) -> Prior:
    """Around 0, the same for all records."""
    return Prior(np.zeros((1, records)), *(np.full((1, 1), one) for one in (kappa, degrees, variance)))


@pytest.mark.parametrize("seed", range(3))
def test_the_predictive_is_that_of_one_observation_after_another(seed):
    rng = numpy_stream(seed)
    values, members = rng.normal(size=(10, 6)) * 2 + 1, reference.complementary(5, np.arange(6) % 2, rng)
    target = rng.normal(size=6)
    found = scored(target, values, members, 4.0)
    assert np.allclose(found, reference.likelihood_ratios(target, values, members, 4.0), rtol=0, atol=1e-9)


def test_values_that_were_not_measured_are_left_out():
    values, members, _ = toy(1.0, 4, 6, 0)
    values[2, 3] = values[5, 3] = np.nan
    seen, prior = module.world(values, members), prior_of(6, 2.0, 4.0, 1.5)
    found = module.log_predictive(np.full((1, 6), 0.3), seen, prior)[0]
    for record in range(6):
        observed = values[members[:, record], record].tolist()
        assert found[record] == pytest.approx(reference.predictive(0.3, observed, 0.0, 2.0, 4.0, 1.5), abs=1e-12)
    target = np.zeros(6)
    target[1] = np.nan
    values[:, 4] = np.nan
    ratios = scored(target, values, members, 4.0)
    assert ratios[1] == ratios[4] == 0.0
    assert np.isfinite(ratios).all()


def test_without_a_prior_on_means_and_with_a_sure_one_on_variances_it_is_the_normal_ratio():
    values, members, _ = toy(1.0, 5, 8, 1)
    seen, sure = module.world(values, members), prior_of(8, 0.0, 1e12, 1.7)
    x, means = values[0], np.array([values[members[:, i], i].mean() for i in range(8)])
    expected = norm.logpdf(x, means, math.sqrt(1.7 * (1 + 1 / 5)))
    assert np.allclose(module.log_predictive(x[None], seen, sure)[0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("pairs", "below"), [(4, 0.018), (8, 0.01), (32, 0.002)])
def test_a_gaussian_shift_is_told_nearly_as_well_as_can_be(pairs, below):
    """Φ(d′/√2), and less by what the middle of 2 (pairs − 1) runs is not known: d′² → d′²/(1 + 1/(2 pairs − 2))."""
    values, members, _ = toy(1.0, pairs, 9600 // pairs, 1)
    best = [float(ndtr(1 / math.sqrt(2 * (1 + part)))) for part in (0, 1 / (2 * pairs - 2))]
    found = areas(leave_pairs_out(values, members, None), members).mean()
    assert best[1] - 0.008 < found < best[0] + 0.004
    assert found > best[0] - 0.008 - below


def test_records_that_differ_in_their_noise_are_told_apart():
    """ν₀ by its equation: better than one variance for all, no worse than each its own; and the other way round."""
    rng = numpy_stream(0)
    members, scale = reference.complementary(6, np.arange(600) % 2, rng), np.exp(rng.normal(size=600))
    noise = rng.normal(size=members.shape)
    for deviation, best, worst in ((scale, 0.1, 1e6), (np.ones(600), 1e6, 0.1)):
        values = members + deviation * noise
        found = {d: areas(leave_pairs_out(values, members, d), members).mean() for d in (None, 0.1, 1e6)}
        assert found[None] > max(found[worst] + 0.01, found[best] - 0.004)


def test_degrees_solve_their_equation():
    rng = numpy_stream(0)
    own = 2.0 * 7 / rng.chisquare(7, size=20000)  # scaled inverse χ² of 7 degrees around 2
    values = np.sqrt(own) * rng.normal(size=(8, 20000))
    degrees, variance = module.variances(module.world(values, np.ones(values.shape, bool)), None, 0.0)
    assert degrees[0, 0] == pytest.approx(7, rel=0.1)
    assert variance[0, 0] == pytest.approx(2, rel=0.05)
    logs = np.log(values.var(0, ddof=1))
    assert polygamma(1, degrees[0, 0] / 2) == pytest.approx(logs.var(ddof=1) - polygamma(1, 3.5), rel=1e-3)


def test_shifts_that_differ_between_records_are_told_too():
    values, members, _ = toy(0.0, 32, 200, 0, spread=1.5)
    best = float(np.mean(ndtr(np.abs(1.5 * numpy_stream(1).normal(size=10**5)) / math.sqrt(2))))
    assert areas(leave_pairs_out(values, members, 4.0), members).mean() > best - 0.06


def test_the_deviation_without_a_record_taken_from_runs_with_it_is_noticed(monkeypatch):
    """What the released code does with one variance for all records."""
    values, members, _ = toy(0.0, 16, 200, 0, inside=0.2)
    right = areas(leave_pairs_out(values, members, 1e6), members).mean()
    honest = module.priors

    def planted(inside: World, outside: World, degrees: float, total: float) -> tuple[Prior, Prior]:
        prior_in, prior_out = honest(inside, outside, degrees, total)
        return prior_in, prior_out._replace(variance=prior_in.variance)

    monkeypatch.setattr(module, "priors", planted)
    wrong = areas(leave_pairs_out(values, members, 1e6), members).mean()
    assert right > 0.85
    assert wrong < 0.65
