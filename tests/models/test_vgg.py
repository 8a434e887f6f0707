from __future__ import annotations

import pytest
import torch

from fedsim.models.network import build_network
from fedsim.models.vgg import VGG11, Config
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import architectures


@pytest.mark.parametrize(("shape", "padding"), [((3, 32, 32), 1), ((1, 28, 28), 3), ((3, 28, 28), 3)])
def test_forward_equals_the_reference(shape, padding):
    network = build_network(VGG11, Config(), shape, 10, stream(0))
    images = torch.rand(2, *shape, generator=stream(1))
    with torch.no_grad():
        expected = architectures.vgg11(images, list(network.parameters()), padding)
        torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)
    assert network.head.in_features == 512


@pytest.mark.parametrize(
    ("norm", "parameters"),
    [
        ("none", 9_225_610),
        ("instance", 9_231_114),
        ("group", 9_231_114),
        ("batch", 9_231_114),
        ("layer", 9_528_714),
    ],
)
def test_every_norm_runs_forward_and_backward(norm, parameters):
    network = build_network(VGG11, Config(norm=norm), (3, 32, 32), 10, stream(0))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    images = torch.rand(2, 3, 32, 32, generator=stream(1)).requires_grad_()
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    assert images.grad.isfinite().all()


def test_small_images_name_the_smallest():
    with pytest.raises(UserError, match=r"model.name=vgg11 got images of 28×27; valid: at least 28×28"):
        build_network(VGG11, Config(), (1, 28, 27), 10, stream(0))


def test_larger_images_keep_their_last_map():
    assert build_network(VGG11, Config(), (3, 64, 96), 10, stream(0)).head.in_features == 512 * 2 * 3
