"""Unrolled local training: the update of plain SGD, and with one step the attack on a gradient."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from attacks.fedavg_inversion import Config, FedAvgInversion, Update
from attacks.gradient_matching import Matching, cosine, stack
from attacks.inverting_gradients import Config as GradientConfig
from attacks.inverting_gradients import InvertingGradients
from fedsim.audit.image_distances import mean_squared_error
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import Leak, leak
from tests.reference.gradient_leakage import local_sgd


def updates(made: Leak, epochs: int, batch: int, rate: float) -> Leak:
    """The same records, after local training instead of one gradient."""
    found = [
        local_sgd(deepcopy(network), images, labels, epochs, batch, rate)
        for network, images, labels in zip(made.networks, made.pixels, made.labels, strict=True)
    ]
    return replace(made, observed=replace(made.observed, targets=stack(found)))


@pytest.mark.parametrize("rate", [0.05, None])
def test_the_unrolled_update_is_that_of_plain_sgd(rate):
    made = updates(leak(2, records=5, own=True, dtype=torch.float64), 3, 2, 0.05)
    further = torch.zeros(0) if rate else torch.tensor([0.05]).double().log()
    matching = Matching(made.observed, made.labels, cosine, Update(3, 2, rate), further=further)
    points = torch.cat([made.pixels.flatten(1), further.expand(2, -1)], 1)
    values, gradients = matching(torch.arange(2), points)
    assert values.abs().max() < 1e-12
    assert gradients.abs().max() < 1e-5  # the truth is a minimum, also in the learning rate
    away = matching(torch.arange(2), points + 0.1)[0]
    assert (away > 1e-6).all()


def test_one_step_is_the_attack_on_a_gradient():
    made = leak(2, records=2, dtype=torch.float64)
    after = updates(made, 1, 2, 0.05)
    plain = InvertingGradients(GradientConfig(iterations=6)).reconstruct(made.observed, made.labels, stream(3))
    unrolled = FedAvgInversion(Config(iterations=6, local_rate=0.05)).reconstruct(
        after.observed, made.labels, stream(3)
    )
    torch.testing.assert_close(unrolled.images, plain.images)
    torch.testing.assert_close(unrolled.gradient_loss, plain.gradient_loss)


@pytest.mark.parametrize("rate", [0.1, None])
def test_images_come_close_with_the_rate_known_and_unknown(rate):
    made = updates(leak(1, records=2), 1, 1, 0.1)
    config = Config(iterations=40, total_variation=0.0, batch=1, local_rate=rate)
    found = FedAvgInversion(config).reconstruct(made.observed, made.labels, stream(3))
    grey = mean_squared_error(torch.full_like(made.pixels[0], 0.5), made.pixels[0]).mean()
    assert mean_squared_error(found.images[0], made.pixels[0]).mean() < 0.7 * grey


def test_labels_are_counted_where_the_rate_is_known():
    made = updates(leak(3, records=4), 1, 2, 0.01)
    short = Config(iterations=1, batch=2, local_rate=0.01)
    found = FedAvgInversion(short).reconstruct(made.observed, None, stream(3))
    assert torch.equal(found.labels, made.labels.sort(1).values)
    with pytest.raises(UserError, match="both unknown"):
        FedAvgInversion(Config()).reconstruct(made.observed, None, stream(3))
