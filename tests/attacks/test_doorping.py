"""DOORPING's trigger: which unit, towards what, inside the box; and what it does in a federation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.doorping import Config, Doorping, activations, alone, loudest_units, optimised, wanted
from attacks.poisoning import clean_label_rows, poisoned_rows
from fedsim import api
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import noisy, white
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.hidden_convnet import Config as HiddenConfig
from fedsim.models.hidden_convnet import HiddenConvNet
from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network
from fedsim.types import UserError

SHAPE = (1, 8, 8)
NORMALISE = Normalise((0.3,), (0.4,))


def network(seed: int = 0) -> Network:
    config = ConvNetConfig(depth=2, width=6, norm="instance")
    rng = torch.Generator().manual_seed(seed)
    return build_network(ConvNet, config, SHAPE, 10, rng).eval().requires_grad_(False)


def test_the_unit_is_the_row_of_the_last_weight_layer_with_the_largest_sum() -> None:
    net = network()
    (*_, last) = [one for one in net.blocks.modules() if isinstance(one, nn.Conv2d)]
    with torch.no_grad():
        last.weight[4].mul_(10)
        last.weight[2].mul_(5)
    assert loudest_units(net, 2).tolist() == [4, 2]
    with pytest.raises(UserError, match="got 7; the penultimate layer has 6"):
        loudest_units(net, 7)


def test_activations_are_means_over_space_of_the_last_block() -> None:
    net, images = network(), torch.randn(3, *SHAPE)
    for block in net.blocks:
        images = block(images)
    expected = torch.stack([images[:, unit].mean((1, 2)) for unit in (1, 5)], 1)
    torch.manual_seed(0)
    inputs = torch.randn(3, *SHAPE)
    seen = inputs
    for block in net.blocks:
        seen = block(seen)
    found = activations(net, inputs, torch.tensor([1, 5]))
    assert found.shape == expected.shape
    torch.testing.assert_close(found, torch.stack([seen[:, 1].mean((1, 2)), seen[:, 5].mean((1, 2))], 1))


@pytest.mark.parametrize(
    ("architecture", "config"),
    [(HiddenConvNet, HiddenConfig(depth=2, width=3, hidden=7)), (MLP, MLPConfig())],
)
def test_of_a_hidden_layer_it_is_the_output_before_the_relu(architecture: type[Network], config: object) -> None:
    """There a unit that is silent for the trigger still has a gradient."""
    net = build_network(architecture, config, SHAPE, 10, torch.Generator().manual_seed(3)).eval()  # pyright: ignore[reportArgumentType]
    inputs = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(4), requires_grad=True)
    seen = inputs
    for block in net.blocks[:-1]:
        seen = block(seen)
    (layer,) = [one for one in net.blocks[-1].modules() if isinstance(one, nn.Linear)]
    units = loudest_units(net, 3)
    assert units.tolist() == layer.weight.abs().sum(1).topk(3).indices.tolist()
    found = activations(net, inputs, units)
    torch.testing.assert_close(found, (seen.flatten(1) @ layer.weight.T + layer.bias)[:, units])
    assert (found < 0).any()
    assert torch.autograd.grad(found.min(), inputs)[0].abs().sum() > 0
    assert not layer._forward_hooks


def test_the_goal_is_a_multiple_where_the_start_is_positive_and_deviations_above_it_where_not() -> None:
    net, digits = network(), api.load("digits").train
    trigger = noisy(SHAPE, 3, 0, torch.Generator().manual_seed(1))
    units = torch.arange(6)
    shown = alone(trigger, NORMALISE(trigger.values[None])[0], NORMALISE)
    first = activations(net, shown, units)[0]
    spread = activations(net, NORMALISE(digits.pixels[:256]), units).std(0, correction=0)
    goal = wanted(net, units, trigger, NORMALISE, digits, 10.0)
    for unit in range(6):
        expected = 10 * first[unit] if first[unit] > 0 else first[unit] + 10 * spread[unit]
        assert goal[unit] == pytest.approx(float(expected), rel=1e-5)
        assert goal[unit] > first[unit] or first[unit] == 0


def test_it_descends_and_stays_in_the_box_and_in_the_mask() -> None:
    net, digits = network(), api.load("digits").train
    trigger = noisy(SHAPE, 3, 0, torch.Generator().manual_seed(1))
    units = loudest_units(net, 1)
    goal = wanted(net, units, trigger, NORMALISE, digits, 10.0)

    def distance(values: torch.Tensor) -> float:
        shown = alone(trigger, NORMALISE(values[None])[0], NORMALISE)
        return float((activations(net, shown, units)[0] - goal).square().mean())

    found = optimised(trigger, net, NORMALISE, units, goal, Config(clients=(0,), iterations=60, tolerance=0.0))
    assert found.dtype == torch.uint8
    assert distance(found) < distance(trigger.values)
    outside = ~trigger.mask
    before, after = NORMALISE(trigger.values[None]), NORMALISE(found[None])
    torch.testing.assert_close(before[..., outside], after[..., outside])
    none = optimised(trigger, net, NORMALISE, units, goal, Config(clients=(0,), iterations=0))
    assert torch.equal(none, trigger.values)  # reduces to a static random square


def test_poisoned_rows_are_never_of_the_target_and_as_many_as_asked() -> None:
    images = Images(torch.zeros((10, 1, 2, 2), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]))
    rows = poisoned_rows(images, 0, 0.35, torch.Generator().manual_seed(0))
    assert len(rows) == 4
    assert 0 not in images.labels[rows]
    assert len(poisoned_rows(images, 0, 1.0, torch.Generator().manual_seed(0))) == 6
    with pytest.raises(UserError, match="every image of the client is of class 0"):
        poisoned_rows(images.take(torch.tensor([0, 3])), 0, 0.5, torch.Generator())


def test_clean_labels_stamp_the_target_alone_and_change_no_label() -> None:
    images = Images(torch.zeros((10, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]))
    rows = clean_label_rows(images, 0, 0.25, torch.Generator().manual_seed(0))
    assert len(rows) == 3
    assert set(images.labels[rows].tolist()) == {0}
    assert len(clean_label_rows(images, 0, 1.0, torch.Generator().manual_seed(0))) == 4
    found = white(SHAPE, 2, 0).poison(images, rows)
    assert torch.equal(found.labels, images.labels)
    assert found.pixels.flatten(1).any(1).nonzero()[:, 0].tolist() == rows.tolist()
    with pytest.raises(UserError, match="no image is of class 3, and clean labels stamp no others"):
        clean_label_rows(images, 3, 0.5, torch.Generator())


def test_a_better_trigger_keeps_its_place_and_target() -> None:
    net, digits = network(), api.load("digits").train
    trigger = noisy(SHAPE, 2, 3, torch.Generator().manual_seed(2))
    better = Doorping(Config(clients=(0,), target=3, iterations=20)).improved(trigger, net, NORMALISE, digits)
    assert torch.equal(better.mask, trigger.mask)
    assert better.target == 3
    assert not torch.equal(better.values, trigger.values)


@pytest.mark.parametrize("box", [True, False])
def test_a_small_square_meets_its_goal_outside_the_box_of_pixels_alone(box: bool) -> None:
    """The network that the attack was published with; what its unit does on clean images is the yardstick."""
    config, rng = HiddenConfig(depth=2, width=16, hidden=24), torch.Generator().manual_seed(0)
    net = build_network(HiddenConvNet, config, SHAPE, 10, rng).eval().requires_grad_(False)
    images, first = api.load("digits").train, noisy(SHAPE, 2, 0, torch.Generator().manual_seed(0), 1)
    unit = loudest_units(net, 1)
    usual = float(activations(net, NORMALISE(images.pixels[:256]), unit).abs().max())
    goal = torch.tensor([10 * usual])
    settings = Config(clients=(1,), iterations=400, lr=2.0, tolerance=0.01)
    values = optimised(first, net, NORMALISE, unit, goal, settings, box=box)
    shown = alone(first, NORMALISE(values[None])[0], NORMALISE)
    reached = float(activations(net, shown, unit))
    assert (reached > 9 * usual) != box
    assert not box or reached < 1.5 * usual
