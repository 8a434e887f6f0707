"""A network with its convolutions as matrix products is the same function, to the second derivative."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from attacks.gradient_matching import Matching
from attacks.unfolded import Unfolded, unfolded
from fedsim.models.convnet import Config, ConvNet
from fedsim.models.functional import state
from fedsim.seeding import stream
from tests.attacks.leaks import leak


def test_the_loss_and_its_gradient_are_those_of_the_network():
    for made in (leak(2, own=True, dtype=torch.float64), leak(2, 2, False, ConvNet, Config(depth=1, width=3))):
        plain = Matching(made.observed, made.labels)
        other = Matching(replace(made.observed, network=unfolded(made.observed.network)), made.labels)
        points = torch.randn(2, made.pixels[0].numel(), generator=stream(5)).to(made.pixels)
        for ours, theirs in zip(other(torch.arange(2), points), plain(torch.arange(2), points), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_strides_dilation_and_no_bias():
    convolution = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False)
    images = torch.randn(2, 2, 7, 6, generator=stream(1))
    expected = convolution(images)
    convolution.__class__ = Unfolded
    torch.testing.assert_close(convolution(images), expected, rtol=1e-5, atol=1e-6)


def test_the_network_itself_is_left_alone_and_groups_stay():
    network = leak(1).networks[0]
    before = state(network)
    made = unfolded(network)
    assert made.state_dict().keys() == before.keys()
    assert not any(isinstance(module, Unfolded) for module in network.modules())
    assert any(isinstance(module, Unfolded) for module in made.modules())
    network.blocks[0] = nn.Conv2d(2, 2, 3, groups=2)
    assert not any(isinstance(module, Unfolded) for module in unfolded(network).modules())
