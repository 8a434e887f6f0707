from __future__ import annotations

import math

import pytest
import torch

from fedsim.models.lenet import LeNet, LeNetConfig, LeNetDLG, LeNetDLGConfig
from fedsim.models.network import build_network
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import architectures


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("shape", "padding", "parameters"), [((1, 28, 28), 2, 61_706), ((3, 32, 32), 0, 62_006)])
def test_lenet_equals_the_reference(shape, padding, parameters):
    network = build_network(LeNet, LeNetConfig(), shape, 10, stream(0))
    images = torch.rand(3, *shape, generator=stream(1))
    torch.testing.assert_close(network(images), architectures.lenet(images, list(network.parameters()), padding))
    assert count(network) == parameters
    assert [layer.shape[1:].numel() for layer in network.features(images).layers] == [
        6 * 14 * 14,
        400,
        120,
        84,
    ]


@pytest.mark.parametrize(("channels", "smallest"), [(1, 12), (3, 16)])
def test_lenet_names_its_smallest_image(channels, smallest):
    fits = build_network(LeNet, LeNetConfig(), (channels, smallest, smallest + 1), 2, stream(0))
    assert fits(torch.zeros(1, channels, smallest, smallest + 1)).shape == (1, 2)
    with pytest.raises(UserError, match=f"at least {smallest}×{smallest}"):
        build_network(LeNet, LeNetConfig(), (channels, smallest + 1, smallest - 1), 2, stream(0))


@pytest.mark.parametrize(
    ("shape", "embedding"), [((3, 32, 32), 768), ((1, 28, 28), 588), ((1, 8, 8), 48), ((1, 1, 1), 12)]
)
def test_dlg_equals_the_reference(shape, embedding):
    network = build_network(LeNetDLG, LeNetDLGConfig(), shape, 10, stream(0))
    images = torch.rand(2, *shape, generator=stream(1))
    torch.testing.assert_close(network(images), architectures.lenet_dlg(images, list(network.parameters())))
    assert network.head.in_features == embedding


def test_dlg_draws_weights_and_biases_from_one_wide_range():
    network = build_network(LeNetDLG, LeNetDLGConfig(depth=4), (3, 32, 32), 100, stream(0))
    for parameter in network.parameters():
        assert 0.3 < parameter.abs().max() <= 0.5
    assert abs(network.head.weight.std() - 1 / math.sqrt(12)) < 0.01
    assert len(network.blocks) == 4


def test_dlg_can_be_differentiated_twice():
    network = build_network(LeNetDLG, LeNetDLGConfig(), (1, 8, 8), 3, stream(0))
    images = torch.rand(1, 1, 8, 8, generator=stream(1)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(images), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    torch.stack([gradient.square().sum() for gradient in gradients]).sum().backward()
    assert images.grad is not None
    assert images.grad.any()
