"""Admix: its equation copy by copy; one scale without strength is MI-FGSM; partners are of other classes."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from attacks import admix, mi_fgsm
from attacks.admix import Config, draw, gradient
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.surrogates import pictures, smooth
from tests.reference import transfer_attacks as literal


def test_the_whole_attack_is_the_literal_loop():
    logits, (images, labels) = smooth(), pictures(4)
    config = Config(epsilon=0.1, steps=3, scales=3, admixed=2, strength=0.4)
    found = admix.attack(logits, images, labels, config, stream(2))
    rng = stream(2)
    partners = [draw(labels, 2, rng) for _ in range(3)]

    def slopes(now, step):
        return literal.admix(logits, now, labels.tolist(), partners[step], 3, 0.4)

    expected = literal.momentum_iteration(slopes, images, 0.1, 3, 0.1 / 3, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_one_scale_without_strength_is_mi_fgsm():
    logits, (images, labels) = smooth(), pictures(5)
    found = admix.attack(logits, images, labels, Config(scales=1, admixed=1, strength=0.0), stream(2))
    assert torch.equal(found, mi_fgsm.attack(logits, images, labels, mi_fgsm.Config(), stream(0)))


def test_copies_are_halved_with_the_chain_rules_factor():
    """A linear logit: the gradient of ℓ by x is γ times that at γ(x + η x′)."""
    logits, (images, labels) = smooth(), pictures(3)
    partners = torch.tensor([[1, 2, 0]])
    found = gradient(logits, images, labels, partners, 2, 0.3)
    parts = [
        gamma * mi_fgsm.loss_gradient(logits, gamma * (images + 0.3 * images[partners[0]]), labels)
        for gamma in (1.0, 0.5)
    ]
    torch.testing.assert_close(found, sum(parts) / 2)


def test_partners_are_of_another_class_and_uniform():
    labels = torch.tensor([0, 0, 1, 2])
    partners = draw(labels, 9000, stream(0))
    assert partners.shape == (9000, 4)
    assert bool((labels[partners] != labels).all())
    shares = torch.bincount(partners[:, 2], minlength=4) / 9000
    assert shares.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.02)


def test_one_class_alone_is_refused():
    logits, (images, labels) = smooth(), pictures(3)
    with pytest.raises(UserError, match="two classes or more"):
        admix.attack(logits, images, 0 * labels, Config(), stream(0))


@pytest.mark.parametrize("wrong", [{"scales": 0}, {"admixed": 0}, {"strength": -0.1}, {"strength": 1.1}])
def test_settings_have_bounds(wrong):
    with pytest.raises(ValidationError):
        Config(**wrong)
