"""Distances of images: against literal loops, known values, and chance."""

from __future__ import annotations

import itertools

import pytest
import torch

from fedsim.audit.image_distances import (
    dissimilarities,
    distances,
    fitting_window,
    identified,
    match,
    mean_squared_error,
    psnr,
    ssim,
)
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference.gradient_leakage import structural_similarity


@pytest.mark.parametrize(("shape", "window"), [((3, 13, 16), 11), ((1, 8, 8), 7)])
def test_ssim_is_the_literal_one(shape, window):
    true = torch.rand(3, *shape, generator=stream(0))
    noise = torch.tensor([0.0, 0.1, 1.0]).view(3, 1, 1, 1) * torch.randn(true.shape, generator=stream(1))
    found = ssim(true + noise, true, window)
    literal = [
        structural_similarity(a.clamp(0, 1).double().numpy(), b.double().numpy(), window)
        for a, b in zip(true + noise, true, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(literal), rtol=1e-5, atol=1e-6)
    assert found[0] == 1
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(("shape", "window"), [((3, 13, 16), 11), ((1, 8, 8), 7)])
def test_dissimilarities_are_those_of_all_pairs(shape, window):
    left, right = torch.rand(3, *shape, generator=stream(0)) * 1.2 - 0.1, torch.rand(4, *shape, generator=stream(1))
    right[0] = left[1].clamp(0, 1)
    right[3] = 0.5  # no variance
    found = dissimilarities(left, right, window)
    pairs = itertools.product(left, right)
    expected = torch.cat([1 - ssim(a[None].double(), b[None].double(), window) for a, b in pairs]).view(3, 4)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found[1, 0].abs() < 1e-9


def test_the_window_that_fits():
    assert [fitting_window(side) for side in (1, 2, 7, 8, 11, 28)] == [1, 1, 7, 7, 11, 11]
    with pytest.raises(UserError, match="an odd number up to 8"):
        dissimilarities(torch.rand(1, 1, 8, 8, generator=stream(0)), torch.zeros(1, 1, 8, 8))


def test_ssim_refuses_images_below_its_window():
    images = torch.rand(1, 1, 8, 8, generator=stream(0))
    for window in (11, 4):
        with pytest.raises(UserError, match="an odd number up to 8"):
            ssim(images, images, window)


def test_psnr_clamps_and_the_squared_error_does_not():
    true, found = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.1)
    found[1] = -3.0
    torch.testing.assert_close(mean_squared_error(found, true), torch.tensor([0.01, 9.0]))
    torch.testing.assert_close(psnr(found, true), torch.tensor([20.0, float("inf")]))


def test_distances_are_exact_also_where_they_are_small():
    right = torch.rand(5, 3, 4, 4, generator=stream(0)) + 100
    left = right + 1e-3
    whole = distances(left, right, chunk=2)
    expected = (left[:, None].double() - right[None].double()).flatten(2).norm(dim=2).float()
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=0)


def test_matching_is_the_cheapest_of_all_orders_and_never_dearer_than_greedy():
    for seed in range(10):
        true = torch.rand(5, 1, 2, 2, generator=stream(seed))
        found = true[torch.randperm(5, generator=stream(seed, 1))]
        found = found + 0.4 * torch.randn(found.shape, generator=stream(seed, 2))
        cost = distances(found, true).square()
        rows = torch.arange(5)
        ours = cost[rows, match(found, true)].sum()
        every = min(float(cost[rows, torch.tensor(order)].sum()) for order in itertools.permutations(range(5)))
        assert float(ours) == pytest.approx(every)
        greedy, left = 0.0, cost.clone()
        for _ in range(5):
            place = int(left.argmin())
            greedy += float(left.flatten()[place])
            left[place // 5], left[:, place % 5] = float("inf"), float("inf")
        assert float(ours) <= greedy + 1e-6


def test_what_cannot_be_matched_is_refused():
    images = torch.rand(2, 1, 2, 2, generator=stream(0))
    with pytest.raises(UserError, match="as many found as true"):
        match(images, images[:1])
    with pytest.raises(UserError, match="not finite"):
        match(images * float("nan"), images)


def test_noise_identifies_one_in_a_hundred_and_the_image_itself_always():
    count = 4000
    pictures = torch.rand(count, 100, 1, 2, 2, generator=stream(0))
    true, others = pictures[:, 0], pictures[:, 1:]
    noise = torch.rand(true.shape, generator=stream(1))
    share = float(identified(noise, true, others).float().mean())
    assert abs(share - 0.01) < 4 * (0.01 * 0.99 / count) ** 0.5
    assert identified(true, true, others).all()
    assert not identified(true[:5], true[:5], true[:5, None]).any()  # a tie is no identification
