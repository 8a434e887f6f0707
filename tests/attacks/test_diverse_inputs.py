"""Diverse inputs: resizing and padding as torch does them one image at a time; p = 0 is MI-FGSM."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attacks import diverse_inputs, mi_fgsm
from attacks.diverse_inputs import Config, draw, gradient, shrink
from fedsim.seeding import stream
from tests.attacks.surrogates import pictures, smooth
from tests.reference import transfer_attacks as literal


def windows_of(windows, place):
    return tuple(int(one[place]) for one in windows)


def test_the_whole_attack_is_the_literal_loop():
    logits, (images, labels) = smooth(), pictures(4)
    config = Config(epsilon=0.1, steps=3, probability=0.7, smallest=0.5)
    found = diverse_inputs.attack(logits, images, labels, config, stream(2))
    rng = stream(2)
    draws = [draw(4, (5, 4), config, rng) for _ in range(3)]

    def slopes(now, step):
        def one(place, image):
            window = windows_of(draws[step], place)
            return literal.slope(lambda x: logits(literal.shrunk(x[0], *window)[None]), image, int(labels[place]))

        return [one(place, image) for place, image in enumerate(now)]

    expected = literal.momentum_iteration(slopes, images, 0.1, 3, 0.1 / 3, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_without_probability_it_is_mi_fgsm():
    logits, (images, labels) = smooth(), pictures(5)
    found = diverse_inputs.attack(logits, images, labels, Config(probability=0.0), stream(2))
    assert torch.equal(found, mi_fgsm.attack(logits, images, labels, mi_fgsm.Config(), stream(0)))
    whole = draw(5, (5, 4), Config(probability=0.0), stream(2))
    torch.testing.assert_close(gradient(logits, images, labels, whole), mi_fgsm.loss_gradient(logits, images, labels))


@given(
    height=st.integers(1, 12), width=st.integers(1, 12), smallest=st.floats(0.05, 1), seed=st.integers(0, 1000)
)  # fmt: skip
def test_windows_lie_in_the_image(height, width, smallest, seed):
    config = Config(probability=1.0, smallest=smallest)
    windows = draw(50, (height, width), config, stream(seed))
    for side, inner, start in ((height, windows.height, windows.top), (width, windows.width, windows.left)):
        assert int(inner.min()) >= math.ceil(smallest * side)
        assert int(inner.max()) <= side
        assert int(start.min()) >= 0
        assert bool((start + inner <= side).all())
    if height == width:
        assert torch.equal(windows.height, windows.width)


def test_sides_and_places_are_uniform_and_p_is_the_share_changed():
    windows = draw(20000, (10, 10), Config(probability=0.5, smallest=0.8), stream(0))
    changed = windows.height < 10  # sides 8, 9, 10 are equally likely where something is changed
    assert float(changed.double().mean()) == pytest.approx(0.5 * 2 / 3, abs=0.02)
    eight = windows.top[windows.height == 8]
    shares = torch.bincount(eight, minlength=3).double() / len(eight)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_what_is_outside_the_window_is_black():
    images = torch.ones(3, 1, 6, 6)
    windows = draw(3, (6, 6), Config(probability=1.0, smallest=0.5), stream(4))
    found = shrink(images, windows)
    for place in range(3):
        height, width, top, left = windows_of(windows, place)
        expected = torch.zeros(6, 6)
        expected[top : top + height, left : left + width] = 1
        torch.testing.assert_close(found[place, 0], expected)


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"probability": -0.1}, {"smallest": 0.0}, {"smallest": 1.2}])
def test_settings_have_bounds(wrong):
    with pytest.raises(ValidationError):
        Config(**wrong)
