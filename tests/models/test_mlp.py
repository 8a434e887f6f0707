from __future__ import annotations

import pytest
import torch

from fedsim.models.mlp import MLP, Config
from fedsim.models.network import build_network
from fedsim.seeding import stream
from tests.reference import architectures


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 118_282), ((3, 32, 32), 411_146), ((1, 8, 8), 26_122)])
def test_forward_equals_the_reference(shape, parameters):
    network = build_network(MLP, Config(), shape, 10, stream(0))
    images = torch.rand(3, *shape, generator=stream(1))
    torch.testing.assert_close(network(images), architectures.mlp(images, list(network.parameters())))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_depth_and_width_are_the_blocks():
    network = build_network(MLP, Config(depth=3, width=7), (2, 3, 5), 4, stream(0))
    layers = network.features(torch.zeros(2, 2, 3, 5)).layers
    assert [tuple(layer.shape) for layer in layers] == [(2, 7)] * 3
