"""MI-FGSM: the literal loop, the box and the ball, the optimum of a linear classifier."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from attacks import admix, diverse_inputs, mi_fgsm, mist
from attacks.mi_fgsm import Config, iterate, loss_gradient, normalised
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.surrogates import linear, pictures, smooth
from tests.reference import transfer_attacks as literal

ATTACKS = {"mi_fgsm": mi_fgsm, "diverse_inputs": diverse_inputs, "admix": admix, "mist": mist}


@pytest.mark.parametrize(("mu", "step"), [(1.0, None), (0.0, None), (0.7, 0.05)])
def test_it_is_the_literal_loop(mu, step):
    logits, (images, labels) = smooth(), pictures(3)
    config = Config(epsilon=0.1, steps=4, momentum=mu, step_size=step)
    found = mi_fgsm.attack(logits, images, labels, config, stream(0))

    def slopes(now, _):
        return [literal.slope(logits, image, int(label)) for image, label in zip(now, labels, strict=True)]

    expected = literal.momentum_iteration(slopes, images, 0.1, 4, 0.1 / 4 if step is None else step, mu)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_gradients_are_of_each_image_alone():
    logits, (images, labels) = smooth(), pictures(3)
    together = loss_gradient(logits, images, labels)
    for place in range(3):
        expected = literal.slope(logits, images[place], int(labels[place]))
        torch.testing.assert_close(together[place], expected)


def test_no_momentum_and_one_step_of_epsilon_is_the_fgsm():
    logits, (images, labels) = smooth(), pictures(4)
    found = mi_fgsm.attack(logits, images, labels, Config(epsilon=0.2, steps=1, momentum=0.0), stream(0))
    once = (images + 0.2 * loss_gradient(logits, images, labels).sign()).clamp(0, 1)
    torch.testing.assert_close(found, once)


def test_without_momentum_only_the_last_gradient_counts():
    """A gradient that turns round: with μ = 0 the image comes back, with μ = 1 it does not at once."""
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64)
    turns = [torch.ones(1, 1, 2, 2), -0.5 * torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)]

    def run(mu):
        given = iter(turns)
        return iterate(lambda _: next(given), images, labels, Config(epsilon=0.3, steps=3, momentum=mu))

    torch.testing.assert_close(run(0.0), images - 0.1)
    torch.testing.assert_close(run(2.0), images + 0.3)  # memory 1, then 2 − 1, then 2 − 1: up all the way


@pytest.mark.parametrize("name", ATTACKS)
def test_the_optimum_of_a_linear_classifier_is_found(name):
    """Of all images in the ball and the box, x − ε sign w (for class 1), clipped, has the least ⟨w, x⟩."""
    logits, weight = linear()
    images, _ = pictures(40)
    labels = logits(images).argmax(1)
    module = ATTACKS[name]
    still = {"shift": 0.0} if name == "mist" else {}  # a shifted image's gradient is w, shifted back
    found = module.attack(logits, images, labels, module.Config(epsilon=0.1, **still), stream(1))
    towards = torch.where(labels == 1, -1.0, 1.0)[:, None, None, None]
    best = (images + 0.1 * towards * weight.sign()).clamp(0, 1)
    if name == "diverse_inputs":  # a resized image's gradient is w seen through the resizing
        gain = ((found - images) * towards * weight).sum() / ((best - images) * towards * weight).sum()
        assert 0.6 < gain <= 1
        return
    torch.testing.assert_close(found, best)
    misled = logits(found).argmax(1) != labels
    margin, reach = (((one * weight).sum((1, 2, 3))).abs() for one in (images - 0.5, best - images))
    assert torch.equal(misled, reach > margin)  # misled are those nearer to the boundary than the ball and box reach
    assert 0 < int(misled.sum()) < 40


@settings(max_examples=15)
@given(
    name=st.sampled_from(sorted(ATTACKS)),
    epsilon=st.floats(0, 1),
    steps=st.integers(1, 4),
    step_size=st.none() | st.floats(1e-3, 2),
    momentum=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_the_box_and_the_ball_always_hold(name, epsilon, steps, step_size, momentum, seed):
    images, labels = pictures(4, seed)
    images = images.float()
    surrogate = smooth(seed)
    module = ATTACKS[name]
    config = module.Config(epsilon=epsilon, steps=steps, step_size=step_size, momentum=momentum)
    found = module.attack(lambda now: surrogate(now.double()), images, labels, config, stream(seed))
    assert found.dtype == images.dtype
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float((found - images).abs().max()) <= epsilon + 1e-6


@pytest.mark.parametrize("name", ATTACKS)
def test_equal_seeds_give_equal_images_and_nothing_given_is_changed(name):
    logits, (images, labels) = smooth(), pictures(5)
    kept = images.clone()
    module = ATTACKS[name]
    once, again = (module.attack(logits, images, labels, module.Config(), stream(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(images, kept)
    assert not once.requires_grad


@pytest.mark.parametrize("name", ATTACKS)
def test_the_surrogate_is_misled(name):
    logits, (images, _) = smooth(), pictures(60)
    labels = logits(images).argmax(1)
    module = ATTACKS[name]
    found = module.attack(logits, images, labels, module.Config(epsilon=0.15), stream(3))
    noise = (images + 0.15 * torch.randn(images.shape, generator=stream(4)).sign()).clamp(0, 1)
    misled, by_chance = (float((logits(one).argmax(1) != labels).double().mean()) for one in (found, noise))
    assert misled > 0.8
    assert misled > by_chance + 0.3


def test_a_zero_gradient_moves_nothing_and_divides_by_nothing():
    images, labels = pictures(2)
    found = mi_fgsm.attack(lambda now: 0 * now.flatten(1)[:, :2], images, labels.clamp(max=1), Config(), stream(0))
    assert torch.equal(found, images)
    assert torch.equal(normalised(torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("name", ATTACKS)
def test_bad_input_is_told_in_one_line(name):
    logits, (images, labels) = smooth(), pictures(3)
    module = ATTACKS[name]
    config = module.Config()
    with pytest.raises(UserError, match="pixels in"):
        module.attack(logits, images + 1, labels, config, stream(0))
    with pytest.raises(UserError, match="pixels in"):
        module.attack(logits, images * float("nan"), labels, config, stream(0))
    with pytest.raises(UserError, match="classes from 0"):
        module.attack(logits, images, labels - 1, config, stream(0))
    with pytest.raises(UserError, match="at least one"):
        module.attack(logits, images[:0], labels[:0], config, stream(0))


@pytest.mark.parametrize(
    "wrong", [{"epsilon": -0.1}, {"epsilon": 1.1}, {"steps": 0}, {"step_size": 0.0}, {"momentum": -1.0}, {"mu": 1.0}]
)
def test_settings_have_bounds(wrong):
    for module in ATTACKS.values():
        with pytest.raises(ValidationError):
            module.Config(**wrong)
