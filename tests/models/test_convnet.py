from __future__ import annotations

import pytest
import torch

from fedsim.models.convnet import Config, ConvNet
from fedsim.models.network import build_network
from fedsim.seeding import stream
from fedsim.types import UserError


def build(shape=(3, 32, 32), **settings):
    return build_network(ConvNet, Config(**settings), shape, 10, stream(0))


def test_convnet_of_the_papers_has_320010_parameters():
    assert sum(parameter.numel() for parameter in build().parameters()) == 320_010


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 32, 32)])
def test_embedding_of_the_papers_has_2048_features(shape):
    assert build(shape).head.in_features == 2048
    assert build(shape).embed(torch.zeros(1, *shape)).shape == (1, 2048)


def test_digits_pass_through_three_blocks():
    assert build((1, 8, 8), width=4).embed(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_every_choice_runs_forward_and_backward(norm, activation, pooling):
    network = build((1, 8, 8), depth=2, width=4, norm=norm, activation=activation, pooling=pooling)
    images = torch.rand(3, 1, 8, 8, generator=stream(1)).requires_grad_()
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    assert images.grad.isfinite().all()


def test_one_block_equals_its_equation():
    network = build((1, 4, 4), depth=1, width=2, norm="none")
    images = torch.rand(2, 1, 4, 4, generator=stream(1))
    weight, bias = network.state_dict()["blocks.0.0.weight"], network.state_dict()["blocks.0.0.bias"]
    padded = torch.zeros(2, 6, 6)
    padded[:, 1:5, 1:5] = images[:, 0]
    expected = torch.zeros(2, 2, 4, 4)
    for row in range(4):
        for column in range(4):
            patch = padded[:, row : row + 3, column : column + 3]
            expected[:, :, row, column] = torch.einsum("nij,kij->nk", patch, weight[:, 0]) + bias
    pooled = expected.clamp(min=0).reshape(2, 2, 2, 2, 2, 2).mean((3, 5))
    torch.testing.assert_close(network.embed(images).detach(), pooled.flatten(1))


def test_too_many_poolings_name_the_largest_depth():
    with pytest.raises(UserError, match=r"model.depth=4 pools images of 8×8 to nothing; valid: at most 3 here"):
        build((1, 8, 8), depth=4)
    assert build((1, 8, 8), depth=4, width=4, pooling="none").head.in_features == 4 * 8 * 8


def test_group_norm_of_odd_width_is_a_user_error():
    with pytest.raises(UserError, match="6 channels into 4 groups"):
        build(width=6, norm="group")
