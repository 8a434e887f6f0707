"""Cosine, total variation and signed Adam: nearer to the truth than the prior alone, inside the box."""

from __future__ import annotations

import torch

from attacks.gradient_matching import total_variation
from attacks.inverting_gradients import Config, InvertingGradients, recovered
from fedsim.audit.image_distances import mean_squared_error
from fedsim.data.transforms import Normalise
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.seeding import stream
from tests.attacks.leaks import leak

NORMALISE = Normalise((0.4,), (0.3,))


def test_images_of_a_relu_network_come_close_and_stay_in_the_box():
    config = ConvNetConfig(depth=1, width=16, norm="none", pooling="none")
    made = leak(2, architecture=ConvNet, config=config, normalise=NORMALISE)
    attack = InvertingGradients(Config(iterations=50, total_variation=0.0))
    found = attack.reconstruct(made.observed, None, stream(3))
    assert torch.equal(found.labels, made.labels)
    assert found.images.min() >= -1e-6
    assert found.images.max() <= 1 + 1e-6
    grey = mean_squared_error(torch.full_like(made.pixels[:, 0], 0.5), made.pixels[:, 0])
    assert (mean_squared_error(found.images[:, 0], made.pixels[:, 0]) < 0.5 * grey).all()


def test_the_best_of_several_attempts_is_the_one_of_the_smallest_angle():
    made = leak(2)
    one, three = (
        InvertingGradients(Config(iterations=5, restarts=restarts)).reconstruct(made.observed, made.labels, stream(3))
        for restarts in (1, 3)
    )
    assert three.iterations.tolist() == [15, 15]
    assert (three.gradient_loss <= one.gradient_loss + 1e-7).all()


def test_the_prior_smooths():
    made = leak(1)
    rough, smooth = (
        InvertingGradients(Config(iterations=16, total_variation=weight)).reconstruct(
            made.observed, made.labels, stream(3)
        )
        for weight in (0.0, 1.0)
    )
    assert total_variation(smooth.images) < 0.7 * total_variation(rough.images)


def test_labels_of_a_batch_are_counted():
    made = leak(2, records=4)
    assert torch.equal(recovered(made.observed, stream(3)), made.labels.sort(1).values)
