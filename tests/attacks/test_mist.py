"""MIST: both items of every mixture, each by its own image; λ = 1 is MI-FGSM."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from attacks import mi_fgsm, mist
from attacks.mist import Config, Mixture, draw, gradient, shifted
from fedsim.seeding import stream
from tests.attacks.surrogates import pictures, smooth
from tests.reference import transfer_attacks as literal


def test_the_whole_attack_is_the_literal_loop():
    logits, (images, labels) = smooth(), pictures(4)
    config = Config(epsilon=0.1, steps=3, mixtures=2, low=0.2)
    found = mist.attack(logits, images, labels, config, stream(2))
    rng = stream(2)
    drawn = [[draw(4, (5, 4), config, rng) for _ in range(2)] for _ in range(3)]
    assert any(bool((one.partner == torch.arange(4)).any()) for step in drawn for one in step)  # mixed with itself, too

    def slopes(now, step):
        return literal.mist(logits, now, labels.tolist(), drawn[step])

    expected = literal.momentum_iteration(slopes, images, 0.1, 3, 0.1 / 3, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_with_the_first_image_alone_it_is_mi_fgsm():
    logits, (images, labels) = smooth(), pictures(5)
    found = mist.attack(logits, images, labels, Config(low=1.0, high=1.0, mixtures=3), stream(2))
    expected = mi_fgsm.attack(logits, images, labels, mi_fgsm.Config(), stream(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_with_the_second_image_alone_it_is_mi_fgsm_on_shifted_images():
    logits, (images, labels) = smooth(), pictures(4)
    partner, down, right = torch.tensor([[1, 2, 3, 0], [0, 1, 2, 3], [3, 2, 1, 0]])
    mixture = Mixture(torch.zeros(4), partner, down, right)
    found = gradient(logits, images, labels, [mixture])
    for i in range(4):
        j, down, right = int(mixture.partner[i]), int(mixture.down[i]), int(mixture.right[i])
        seen = torch.roll(images[j], (down, right), (1, 2))
        back = torch.roll(literal.slope(logits, seen, int(labels[j])), (-down, -right), (1, 2))
        torch.testing.assert_close(found[j], back)


def test_no_image_is_moved_by_the_item_of_the_other():
    """A network whose class-2 loss alone depends on the pixels: images of the other classes get no gradient."""
    images, labels = pictures(4)

    def logits(now):
        scores = torch.zeros(len(now), 3, dtype=now.dtype)
        scores[:, 2] = 10 * now.sum((1, 2, 3))
        scores[:, :2] = scores[:, 2:] - 5  # what is left to the others does not move with the pixels
        return scores

    mixture = Mixture(torch.full((4,), 0.5), torch.tensor([1, 0, 3, 2]), torch.zeros(4).long(), torch.zeros(4).long())
    flat = gradient(logits, images, labels, [mixture])
    torch.testing.assert_close(flat, torch.zeros_like(flat), rtol=0, atol=1e-9)
    network = smooth()
    two = Mixture(torch.tensor([1.0, 0.5, 0.5, 0.5]), mixture.partner, mixture.down, mixture.right)
    found = gradient(network, images, labels, [two])
    other = labels.clone()
    other[1] = (other[1] + 1) % 3  # image 0 is mixed with image 1: its class must not matter to image 0
    changed = gradient(network, images, other, [two])
    torch.testing.assert_close(found[[0, 2, 3]], changed[[0, 2, 3]])
    assert not torch.allclose(found[1], changed[1])


def test_shifts_wrap_around_and_are_undone():
    images, _ = pictures(4)
    down, right = torch.tensor([0, 1, 4, 3]), torch.tensor([2, 0, 3, 1])
    moved = shifted(images, down, right)
    for place in range(4):
        expected = torch.roll(images[place], (int(down[place]), int(right[place])), (1, 2))
        assert torch.equal(moved[place], expected)
        assert torch.equal(literal.rolled(images[place], int(down[place]), int(right[place])), expected)
    assert torch.equal(shifted(moved, -down, -right), images)


def test_draws_keep_their_bounds():
    config = Config(low=0.3, high=0.6, shift=0.5)
    mixture = draw(5000, (6, 9), config, stream(0))
    assert 0.3 <= float(mixture.share.min()) < 0.31
    assert 0.59 < float(mixture.share.max()) <= 0.6
    assert mixture.partner.sort().values.tolist() == list(range(5000))
    assert mixture.down.unique().tolist() == [0, 1, 2, 3]
    assert mixture.right.unique().tolist() == [0, 1, 2, 3, 4]
    every = draw(5000, (6, 9), Config(), stream(0))
    assert every.down.unique().tolist() == list(range(6))
    still = draw(10, (6, 9), Config(shift=0.0), stream(0))
    assert int(still.down.max()) == int(still.right.max()) == 0


@pytest.mark.parametrize("wrong", [{"mixtures": 0}, {"low": 0.7, "high": 0.3}, {"high": 1.5}, {"shift": -1.0}])
def test_settings_have_bounds(wrong):
    with pytest.raises(ValidationError):
        Config(**wrong)
