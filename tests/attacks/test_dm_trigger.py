"""The trigger for distribution matching: the distance it descends, and that it stays in the box."""

from __future__ import annotations

import pytest
import torch

from attacks.dm_trigger import Config, matched, mean_distance, perturbed
from fedsim import api
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import noisy
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.attacks.test_doorping import network

NORMALISE = Normalise((0.3,), (0.4,))


def test_the_distance_is_that_of_mean_embeddings() -> None:
    net, stamped, goal = network(), torch.randn(4, 1, 8, 8), torch.randn(24)
    total = torch.zeros(24)
    for image in stamped:
        total += net.embed(image[None])[0] / 4
    assert mean_distance(net, stamped, goal) == pytest.approx(float((total - goal).square().sum()), rel=1e-4)


def test_it_descends_over_all_images_and_stays_in_the_box() -> None:
    images = api.load("digits").train.take(torch.arange(300))
    trigger = noisy((1, 8, 8), 4, 0, torch.Generator().manual_seed(0))
    config = Config(clients=(0,), iterations=40, networks=1)
    net = network()
    goal = net.embed(NORMALISE(images.pixels[images.labels == 0])).mean(0)
    others = images.pixels[images.labels != 0]

    def distance(values: torch.Tensor) -> float:
        return float(mean_distance(net, NORMALISE(torch.where(trigger.mask, values, others)), goal))

    found = matched(trigger, [net], NORMALISE, images, config, Streams(0))
    assert found.dtype == torch.uint8
    assert distance(found) < distance(trigger.values)
    still = matched(trigger, [net], NORMALISE, images, Config(clients=(0,), iterations=0), Streams(0))
    assert torch.equal(still, trigger.values)


def test_a_perturbation_has_the_length_it_is_told() -> None:
    before = torch.cat([one.flatten() for one in network().parameters()])
    after = torch.cat(
        [one.flatten() for one in perturbed(network(), 0.2, torch.Generator().manual_seed(0)).parameters()]
    )
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_a_client_without_both_is_refused(label: int) -> None:
    images = Images(torch.zeros((3, 1, 8, 8), dtype=torch.uint8), torch.full((3,), label))
    trigger = noisy((1, 8, 8), 2, 0, torch.Generator())
    with pytest.raises(UserError, match="valid: some of each"):
        matched(trigger, [network()], NORMALISE, images, Config(clients=(0,)), Streams(0))
