"""Likeness of masks: worked by hand, its chance level by simulation, its properties on random masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.audit.statistics.masks import Likeness, Measure, by_layer, changed, likeness
from fedsim.seeding import stream
from fedsim.types import UserError

MEASURES: tuple[Measure, ...] = ("hamming", "iou")


def bits(word: str) -> Tensor:
    return torch.tensor([letter == "1" for letter in word])


def random_masks(seed: int, ratios: list[float], size: int) -> dict[str, Tensor]:
    rng = stream(seed)
    return {str(place): torch.rand(size, generator=rng) < ratio for place, ratio in enumerate(ratios)}


def test_one_layer_by_hand():
    left, right = {"w": bits("11100000")}, {"w": bits("01110100")}
    hamming, iou = (likeness(left, right, measure) for measure in MEASURES)
    assert hamming == Likeness(5 / 8, 3 / 8 * 4 / 8 + 5 / 8 * 4 / 8)
    assert iou.value == 2 / 5
    assert iou.chance == pytest.approx(3 / 8 * 4 / 8 / (3 / 8 + 4 / 8 - 3 / 8 * 4 / 8))
    assert hamming.corrected == pytest.approx((5 / 8 - 1 / 2) / (1 / 2))


@pytest.mark.parametrize(
    ("keep", "hamming", "iou"), [(0.3, 0.58, 0.18), (0.5, 0.5, 0.33), (0.7, 0.58, 0.54), (0.25, 0.625, 1 / 7)]
)
def test_chance_at_equal_keep_ratios(keep: float, hamming: float, iou: float):
    mask = {"w": torch.arange(1000) < 1000 * keep}
    assert likeness(mask, mask, "hamming").chance == pytest.approx(hamming, abs=0.005)
    assert likeness(mask, mask, "iou").chance == pytest.approx(iou, abs=0.005)


def test_layers_of_unlike_sparsity_are_no_likeness():
    """One layer of four bits is whole in both masks, the other keeps one bit of four each, and not the same."""
    left = {"a": bits("1111"), "b": bits("1000")}
    right = {"a": bits("1111"), "b": bits("0100")}
    whole = likeness(left, right, "iou")
    assert whole.value == 4 / 6
    assert whole.chance == pytest.approx((4 + 1 / 4) / (10 - 4 - 1 / 4))  # from 5 of 8 each it would be 0.45
    assert whole.corrected is not None
    assert whole.corrected < 0
    layers = by_layer(left, right, "iou")
    assert (layers["a"].value, layers["a"].corrected) == (1.0, None)
    assert layers["b"] == Likeness(0.0, pytest.approx(1 / 7))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("ratios", [[0.5], [0.2], [0.9, 0.1], [0.3, 0.6, 0.05]])
def test_independent_masks_meet_their_chance(measure: Measure, ratios: list[float]):
    """Mean over 200 pairs of masks of 400 bits a layer, the second thinner by a third."""
    thinner = [2 / 3 * one for one in ratios]
    found = [
        likeness(random_masks(2 * run, ratios, 400), random_masks(2 * run + 1, thinner, 400), measure)
        for run in range(200)
    ]
    apart = np.array([one.value - one.chance for one in found])
    assert abs(apart.mean()) < 4 * apart.std(ddof=1) / len(apart) ** 0.5 + 1e-3  # the second is the O(1/n) of IoU


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1), min_size=1, max_size=4), st.sampled_from(MEASURES))
def test_properties(seed: int, ratios: list[float], measure: Measure):
    left, right = random_masks(seed, ratios, 12), random_masks(seed + 1, ratios[::-1], 12)
    found = likeness(left, right, measure)
    assert found == likeness(right, left, measure)
    assert 0 <= found.value <= 1
    assert -1e-12 <= found.chance <= 1 + 1e-12
    assert likeness(left, left, measure).value == 1
    assert likeness(left, left, measure).corrected in {None, 1.0}
    order = torch.randperm(12, generator=stream(seed))
    moved = [{name: mask[order] for name, mask in one.items()} for one in (left, right)]
    assert likeness(*moved, measure) == found
    if found.corrected is not None:
        assert found.corrected <= 1 + 1e-12


@given(st.integers(0, 1000))
def test_hamming_is_that_of_the_changes_and_iou_is_not(seed: int):
    """a XOR s and b XOR s differ where a and b do: only chance is another. So Hamming alone takes no start out."""
    left, right, start = (random_masks(3 * seed + place, [0.4, 0.7], 30) for place in range(3))
    turned = changed(left, start), changed(right, start)
    assert likeness(*turned, "hamming").value == likeness(left, right, "hamming").value
    assert all(torch.equal(changed(turned[0], start)[name], mask) for name, mask in left.items())


def test_nothing_changed_by_either():
    still = {"w": bits("0000")}
    assert likeness(still, still, "iou") == Likeness(1.0, 1.0)
    assert likeness(still, still, "iou").corrected is None
    assert likeness(still, {"w": bits("0100")}, "iou").corrected == 0


@pytest.mark.parametrize("other", [{}, {"v": bits("11")}, {"w": bits("111")}])
def test_masks_of_other_networks(other: dict[str, Tensor]):
    with pytest.raises(UserError, match="same names and shapes"):
        likeness({"w": bits("11")}, other, "iou")
    with pytest.raises(UserError, match="same names and shapes"):
        changed(other, {"w": bits("11")})
