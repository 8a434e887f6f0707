"""Smooth copies of ReLU networks: the same weights, ever nearer outputs, and attacks that start where others ended."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.gradient_matching import Matching
from attacks.lbfgs import Search
from attacks.smooth import annealed, softplus
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import leak

RELU = ConvNetConfig(depth=1, width=8, norm="none", pooling="none")


def test_a_copy_has_the_weights_and_no_relu_and_the_network_is_left_alone():
    made = leak(1, architecture=ConvNet, config=RELU)
    network, images = made.networks[0], made.pixels[0]
    apart = []
    for beta in (5.0, 50.0, 500.0):
        copy = softplus(network, beta)
        assert copy.state_dict().keys() == network.state_dict().keys()
        assert not any(isinstance(layer, nn.ReLU) for layer in copy.modules())
        apart.append(float((copy(images) - network(images)).abs().max().detach()))
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 1e-2
    assert any(isinstance(layer, nn.ReLU) for layer in network.modules())


def test_stages_are_judged_by_the_network_itself_and_only_get_better():
    made = leak(2, architecture=ConvNet, config=RELU)
    matching = Matching(made.observed, made.labels)
    found = annealed(matching, Search(8, history=8), (5.0, 50.0), stream(3))
    torch.testing.assert_close(found.loss, matching.score(torch.arange(2), found.variables))
    start = torch.stack([matching.start(1, stream(3))(index, 0) for index in range(2)])
    assert (found.loss < 0.5 * matching.score(torch.arange(2), start)).all()
    twice = annealed(matching, Search(8, history=8, restarts=2), (5.0, 50.0), stream(3))
    assert twice.attempts.tolist() == [2, 2]
    assert (twice.iterations > found.iterations).all()


def test_a_network_without_relu_is_refused():
    with pytest.raises(UserError, match="has no ReLU module"):
        softplus(leak(1).networks[0], 10.0)
    with pytest.raises(UserError, match="sharpness above 0"):
        softplus(leak(1, architecture=ConvNet, config=RELU).networks[0], 0.0)
