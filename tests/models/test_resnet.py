from __future__ import annotations

import pytest
import torch

from fedsim.models.network import build_network
from fedsim.models.resnet import Config, ResNet18
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import architectures


def test_forward_equals_the_reference_on_every_pool_size():
    for shape in ((3, 32, 32), (1, 28, 28)):
        network = build_network(ResNet18, Config(), shape, 10, stream(0))
        images = torch.rand(2, *shape, generator=stream(1))
        with torch.no_grad():
            expected = architectures.resnet18(images, list(network.parameters()))
            torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "none"])
def test_every_norm_runs_forward_and_backward(norm):
    network = build_network(ResNet18, Config(norm=norm), (3, 16, 16), 10, stream(0))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # Without a norm each convolution has a bias of its own: half of what scale and shift take.
    assert parameters == (11_173_962 if norm != "none" else 11_173_962 - 4_800)
    images = torch.rand(2, 3, 16, 16, generator=stream(1)).requires_grad_()
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    assert images.grad.isfinite().all()


def test_layers_are_stem_stages_and_the_pooled_end():
    network = build_network(ResNet18, Config(), (3, 32, 32), 10, stream(0))
    with torch.no_grad():
        layers = network.features(torch.rand(1, 3, 32, 32, generator=stream(1))).layers
    assert [tuple(layer.shape[1:]) for layer in layers] == [
        (64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 1, 1),
    ]  # fmt: skip


def test_digits_need_a_norm_that_survives_one_pixel():
    """At 8×8 the last map is one pixel, which an instance norm sends to its shift whatever the image."""
    with pytest.raises(UserError, match=r"model.norm=instance got images of 8×8; valid: at least 9×9"):
        build_network(ResNet18, Config(), (1, 8, 8), 10, stream(0))
    for config, side in ((Config(norm="group"), 8), (Config(), 9)):
        network = build_network(ResNet18, config, (1, side, side), 10, stream(0))
        embedding = network.embed(torch.rand(2, 1, side, side, generator=stream(1)))
        assert embedding.shape == (2, 512)
        assert not torch.allclose(embedding[0], embedding[1])
