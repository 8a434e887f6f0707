"""The invisible trigger: it descends, within its bound, also once it is bytes; and what is no veil is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.doorping import Config, activations, beyond, loudest_units
from attacks.invisible import improved
from fedsim import api
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, veil, white
from fedsim.models.hidden_convnet import Config as HiddenConfig
from fedsim.models.hidden_convnet import HiddenConvNet
from fedsim.models.network import Network, build_network
from fedsim.types import UserError

SHAPE = (1, 8, 8)
NORMALISE = Normalise((0.3,), (0.4,))


@pytest.fixture(scope="module")
def digits() -> Images:
    return api.load("digits").train.take(torch.arange(60))


def network() -> Network:
    config = HiddenConfig(depth=2, width=6, hidden=12)
    made = build_network(HiddenConvNet, config, SHAPE, 10, torch.Generator().manual_seed(0))
    return made.eval().requires_grad_(False)


def excitement(net: Network, trigger: Trigger, images: Images) -> torch.Tensor:
    """Literally: the loudest unit on the mean record with the change on it."""
    shown = (images.pixels[:256].float().mean(0) + trigger.values).clamp(0, 255)
    return activations(net, NORMALISE.inputs(shown[None] / 255), loudest_units(net, 1))[0]


@pytest.mark.parametrize("bound", [3, 16])
def test_it_excites_the_unit_within_its_bound(digits: Images, bound: int) -> None:
    net, first = network(), veil(SHAPE, bound, 4, torch.Generator().manual_seed(1))
    start, units = excitement(net, first, digits), loudest_units(net, 1)
    goal = beyond(start, net, units, NORMALISE, digits, 10.0)
    better = improved(first, net, NORMALISE, digits, Config(clients=(0,), iterations=60, tolerance=0.0))
    assert (excitement(net, better, digits) - goal).abs() < (start - goal).abs()
    assert (better.target, better.bound, better.values.dtype) == (4, bound, torch.int16)
    assert int(better.values.abs().max()) <= bound
    moved = better.stamp(digits.pixels).int() - digits.pixels.int()
    assert 0 < int(moved.abs().max()) <= bound


def test_no_steps_leave_it_and_no_bound_stamps_nothing(digits: Images) -> None:
    net, first = network(), veil(SHAPE, 16, 0, torch.Generator().manual_seed(1))
    none = improved(first, net, NORMALISE, digits, Config(clients=(0,), iterations=0))
    assert torch.equal(none.values, first.values)
    nothing = improved(veil(SHAPE, 0, 0, torch.Generator()), net, NORMALISE, digits, Config(clients=(0,), iterations=5))
    assert torch.equal(nothing.stamp(digits.pixels), digits.pixels)


def test_a_square_is_refused(digits: Images) -> None:
    with pytest.raises(UserError, match="got a trigger that covers pixels; valid: one with a bound"):
        improved(white(SHAPE, 2, 0), network(), NORMALISE, digits, Config(clients=(0,)))


def test_a_change_beyond_its_bound_cannot_be_made() -> None:
    first = veil(SHAPE, 5, 0, torch.Generator())
    with pytest.raises(UserError, match=r"got changes of up to 6 grey levels \(torch.int16\), bound 5; valid: int16"):
        replace(first, values=first.values + first.values.sign())
