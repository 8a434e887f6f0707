"""The release: its equation, its sensitivity, its noise; and every way to get it wrong that is known is noticed."""

from __future__ import annotations

import gc
import math
from dataclasses import fields

import pytest
import torch
from scipy import stats

from fedsim.privacy import mechanism as module
from fedsim.privacy.mechanism import Mechanism, NoisySum, clipped, release
from fedsim.privacy.noise import SeededNoise, SystemNoise
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import mechanism as reference
from tests.reference.mechanism import CENTRE, CLASSES, WIDTH, Records, by_the_library, farthest_neighbours, records

MECHANISM = Mechanism(clip=2.0, kappa=0.5, sigma=3.0)
NOTHING = Records(torch.empty(0, WIDTH), torch.empty(0, dtype=torch.int64))


class Silent(SeededNoise):
    """No noise at all."""

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64)


def noise(seed: int = 0) -> SeededNoise:
    return SeededNoise(stream(seed, "noise"))


@pytest.mark.parametrize("number", [0, 1, 2, 17])
def test_a_release_without_noise_is_the_literal_sum(number):
    data = records(number, stream(number))
    found = by_the_library(data, MECHANISM, Silent(stream(0))).values
    expected = torch.tensor(reference.literal(data, MECHANISM), dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=(number + 1) * MECHANISM.grid)


@pytest.mark.parametrize("trials", [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_neighbours_are_no_farther_apart_than_stated(trials):
    added, replaced = farthest_neighbours(by_the_library, trials)
    assert 0.999 < added <= 1.0  # tight, and never beyond, with no allowance for rounding
    assert 0.7 < replaced <= 1.0


def test_chunks_and_order_change_nothing():
    data = records(9, stream(3))
    whole = release([(data.vectors, data.labels)], CENTRE, CLASSES, MECHANISM, noise()).values
    order = torch.randperm(9, generator=stream(4))
    mixed = Records(data.vectors[order], data.labels[order])
    assert torch.equal(by_the_library(mixed, MECHANISM, noise()).values, whole)


@pytest.mark.parametrize("source", [noise(1), SystemNoise()])
def test_noise_has_the_stated_deviation_in_every_coordinate(source):
    assert deviates(by_noise(source, MECHANISM)) > 1e-7


def by_noise(source, mechanism: Mechanism) -> torch.Tensor:
    """The noise of a release of nothing, counts included, in units of what is stated."""
    found = release([], torch.zeros(1999), 10, mechanism, source).values
    return found / (mechanism.sigma * math.sqrt(mechanism.clip**2 + mechanism.kappa**2))


def deviates(units: torch.Tensor) -> float:
    """Two-sided p-value of Σ z² ~ χ², and of the count column alone; the smaller."""
    values = []
    for part in (units, units[:, -1]):
        below = float(stats.chi2.cdf(float(part.square().sum()), part.numel()))
        values.append(2 * min(below, 1 - below))
    return min(values)


def test_noise_of_the_system_is_normal_and_differs_each_time():
    one, two = (SystemNoise().normal(5000) for _ in range(2))
    assert stats.kstest(one.numpy(), "norm").pvalue > 1e-7
    assert not torch.equal(one, two)
    assert SystemNoise().chosen(20000, 0.25).double().mean() == pytest.approx(0.25, abs=0.03)


def test_a_simulation_is_labelled_and_repeats():
    one, two = (by_the_library(records(5, stream(0)), MECHANISM, noise()) for _ in range(2))
    assert one.simulated
    assert torch.equal(one.values, two.values)
    assert not by_the_library(NOTHING, MECHANISM, SystemNoise()).simulated  # pyright: ignore[reportArgumentType]


def test_targets_and_counts_are_those_of_the_data_up_to_noise():
    vectors, labels = torch.randn(900, WIDTH, generator=stream(1)), torch.arange(900) % 2
    found = by_the_library(Records(vectors, labels), Mechanism(50.0, 5.0, 0.01), noise())
    assert torch.allclose(found.counts, torch.tensor([450.0, 450.0, 0.0]).double(), atol=1)
    means = torch.stack([(vectors - CENTRE)[labels == label].mean(0) for label in (0, 1)]).double()
    assert torch.allclose(found.targets(10.0)[:2], means, atol=0.01)
    assert float(found.targets(10.0)[2].abs().max()) < 0.5  # noise over n_min, not over a count of about zero
    assert bool((found.weights >= 0).all())


def test_a_sampled_release_estimates_the_whole():
    found = NoisySum(torch.tensor([[3.0, 5.0]]).double(), kappa=0.5, rate=0.1, simulated=True)
    assert found.counts.tolist() == [100.0]
    assert found.targets(1.0).tolist() == [[0.3]]


def test_nothing_exact_is_left_after_a_release():
    data = records(6, stream(2))
    found = by_the_library(data, MECHANISM, noise())
    exact = by_the_library(data, MECHANISM, Silent(stream(0))).values
    assert {entry.name for entry in fields(NoisySum)} == {"values", "kappa", "rate", "simulated"}
    assert not any(equals(tensor, exact) for tensor in held(found))
    assert not any(equals(tensor, (exact / MECHANISM.grid).long()) for tensor in alive())


def held(thing: object) -> list[torch.Tensor]:
    return [value for value in vars(thing).values() if isinstance(value, torch.Tensor)]


def alive() -> list[torch.Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]


def equals(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def test_clipping_is_the_same_on_the_synthetic_side_and_has_the_right_gradient():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]).double().requires_grad_()
    found = clipped(rows, 1.0)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert torch.autograd.gradcheck(lambda free: clipped(free, 1.0), rows[:2].detach().requires_grad_())
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    "wrong",
    [{"clip": 0.0}, {"kappa": -1.0}, {"sigma": math.inf}, {"rate": 1.1}, {"clip": math.nan}],
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError, match=rf"^{next(iter(wrong))}: got .*; valid: one number for all classes"):
        Mechanism(**({"clip": 1.0, "kappa": 1.0, "sigma": 1.0} | wrong))


def test_a_rate_for_each_class_is_no_rate():
    with pytest.raises(UserError, match="rate: got tensor"):  # T18: q_c = 256 / n_c
        Mechanism(1.0, 1.0, 1.0, torch.tensor([0.1, 0.5]))  # pyright: ignore[reportArgumentType]


def test_noise_of_low_precision_is_refused():
    class Low(SeededNoise):  # T19
        def normal(self, *shape: int) -> torch.Tensor:
            return super().normal(*shape).half()

    with pytest.raises(UserError, match=r"noise: got torch\.float16"):
        by_the_library(NOTHING, MECHANISM, Low(stream(0)))


def test_an_n_min_that_divides_by_nothing_is_refused():
    with pytest.raises(UserError, match="least: got 0"):
        by_the_library(NOTHING, MECHANISM, noise()).targets(0)


def test_the_grid_is_fine_and_coordinates_are_cut_towards_zero():
    assert MECHANISM.grid < MECHANISM.sensitivity * 2.0**-29
    rows = torch.tensor([[-1.0, 1.0, 0.1, -0.1]]) + CENTRE
    units = module.contributions(rows, CENTRE, MECHANISM)[0, :-1] * MECHANISM.grid
    assert bool((units.abs() <= (rows - CENTRE).double().abs()[0]).all())
