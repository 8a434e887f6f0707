from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedsim import catalog
from fedsim.models.network import Network, build_network, draw_uniform, require_side
from fedsim.seeding import stream
from fedsim.types import UserError

SMALL = {"convnet": {"width": 8}, "mlp": {"width": 8}}
EVERY = catalog.names("model")
SHAPES = [(1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 32, 32)]


def build(name: str, shape: tuple[int, int, int], **settings) -> Network:
    architecture = catalog.resolve("model", name)
    config = architecture.Config(**{**SMALL.get(name, {}), **settings})
    return build_network(architecture, config, shape, 5, stream(0, name))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", SHAPES)
def test_features_agree_with_forward_and_embed(name, shape):
    network = build(name, shape)
    images = torch.rand(2, *shape, generator=stream(1))
    with torch.no_grad():
        seen = network.features(images)
        assert torch.equal(seen.logits, network(images))
        assert torch.equal(seen.embedding, network.embed(images))
    assert torch.equal(seen.layers[-1].flatten(1), seen.embedding)
    assert len(seen.layers) == len(network.blocks)
    assert seen.logits.shape == (2, 5)
    assert not torch.equal(seen.embedding[0], seen.embedding[1])
    assert seen.embedding.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_gradient(name):
    network = build(name, (3, 28, 28))
    network(torch.rand(2, 3, 28, 28, generator=stream(1))).square().sum().backward()
    silent = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    # An instance norm removes the mean, so a bias before it has no effect.
    assert all(key.endswith("bias") for key in silent)


@pytest.mark.parametrize("name", EVERY)
def test_weights_depend_on_the_given_generator_alone(name):
    before = torch.random.get_rng_state()
    first, again = build(name, (1, 28, 28)).state_dict(), build(name, (1, 28, 28)).state_dict()
    architecture = catalog.resolve("model", name)
    config = architecture.Config(**SMALL.get(name, {}))
    other = build_network(architecture, config, (1, 28, 28), 5, stream(1, name)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("name", EVERY)
def test_the_catalog_name_is_the_default_of_the_settings(name):
    assert catalog.resolve("model", name).Config().name == name


@pytest.mark.parametrize(("make", "fan_in"), [(lambda: nn.Conv2d(4, 64, 5), 100), (lambda: nn.Linear(200, 300), 200)])
def test_reset_draws_from_the_distribution_of_torch(make, fan_in):
    """Kaiming-uniform with a = √5, torch's choice for weights, is U(±1/√fan_in); biases likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        theirs = make()
        mine = make()
        Network([mine], 2, 2).reset(stream(0))
    bound = 1 / math.sqrt(fan_in)
    for ours, default in ((mine.weight, theirs.weight), (mine.bias, theirs.bias)):
        assert 0.9 * bound < ours.abs().max() <= bound
        assert 0.9 * bound < default.abs().max() <= bound
        assert abs(ours.std() - default.std()) < 0.15 * bound
        assert abs(ours.mean()) < 0.15 * bound


def test_reset_gives_unit_norms_and_empty_statistics():
    batch_norm = nn.BatchNorm2d(3)
    layers = [batch_norm, nn.GroupNorm(1, 3), nn.LayerNorm([3, 2, 2])]
    with torch.random.fork_rng(devices=[]):
        network = Network(layers, 12, 2)
    for tensor in network.state_dict().values():
        tensor.fill_(7)
    network.reset(stream(0))
    for layer in layers:
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))
        assert not layer.bias.any()
    assert torch.equal(network.state_dict()["blocks.0.running_mean"], torch.zeros(3))
    assert torch.equal(network.state_dict()["blocks.0.running_var"], torch.ones(3))
    assert batch_norm.num_batches_tracked == 0


def test_draw_uniform_keeps_to_its_bound():
    tensor = torch.empty(10_000)
    draw_uniform(tensor, 0.5, stream(0))
    assert tensor.min() >= -0.5
    assert tensor.max() <= 0.5
    assert abs(tensor.std() - 1 / math.sqrt(12)) < 0.01


def test_require_side_names_the_smallest_size():
    require_side("lenet", (1, 12, 30), 12)
    with pytest.raises(UserError, match=r"model.name=lenet got images of 30×11; valid: at least 12×12"):
        require_side("lenet", (1, 30, 11), 12)
