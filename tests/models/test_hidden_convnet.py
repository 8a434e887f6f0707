from __future__ import annotations

import pytest
import torch

from fedsim.catalog import resolve
from fedsim.models.hidden_convnet import Config, HiddenConvNet
from fedsim.models.network import build_network
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import architectures


@pytest.mark.parametrize(("shape", "padding"), [((3, 32, 32), 1), ((1, 28, 28), 3)])
def test_forward_equals_the_reference(shape: tuple[int, int, int], padding: int) -> None:
    network = build_network(HiddenConvNet, Config(), shape, 10, stream(0))
    images = torch.rand(2, *shape, generator=stream(1))
    expected = architectures.hidden_convnet(images, list(network.parameters()), padding)
    torch.testing.assert_close(network(images), expected)
    assert network.head.in_features == 192
    convolutions = 128 * (shape[0] * 9 + 1) + 2 * 128 * (128 * 9 + 1)
    assert sum(one.numel() for one in network.parameters()) == convolutions + 192 * (128 * 16 + 1) + 10 * 193
    seen = network.features(images)
    assert len(seen.layers) == 4
    assert seen.embedding.min() == 0  # after the ReLU


def test_too_deep_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="pools images of 8×8 to nothing; valid: at most 3 here"):
        build_network(HiddenConvNet, Config(depth=4), (1, 8, 8), 10, stream(0))


def test_it_is_in_the_catalog() -> None:
    assert resolve("model", "convnet_hidden") is HiddenConvNet
