from __future__ import annotations

import pytest
import torch

from fedsim.models.alexnet import AlexNet, Config
from fedsim.models.network import build_network
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import architectures


@pytest.mark.parametrize(("shape", "padding", "parameters"), [((3, 32, 32), 2, 1_872_202), ((1, 28, 28), 4, 1_865_802)])
def test_forward_equals_the_reference(shape, padding, parameters):
    network = build_network(AlexNet, Config(), shape, 10, stream(0))
    images = torch.rand(2, *shape, generator=stream(1))
    torch.testing.assert_close(network(images), architectures.alexnet(images, list(network.parameters()), padding))
    assert network.head.in_features == 192 * 4 * 4
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_digits_are_the_smallest_image():
    network = build_network(AlexNet, Config(), (1, 8, 11), 10, stream(0))
    assert [tuple(layer.shape[2:]) for layer in network.features(torch.zeros(1, 1, 8, 11)).layers] == [
        (4, 5), (2, 2), (2, 2), (2, 2), (1, 1),
    ]  # fmt: skip
    with pytest.raises(UserError, match="got images of 8×7; valid: at least 8×8"):
        build_network(AlexNet, Config(), (1, 8, 7), 10, stream(0))
