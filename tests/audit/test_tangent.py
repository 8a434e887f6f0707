"""Combinations of gradients and the residual of a change, against matrices of gradients that are written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsim.audit.tangent import LAZY, along, combination, least_squares, residual, residuals
from fedsim.models.functional import flatten, state, unflatten
from fedsim.models.mlp import MLP, Config
from fedsim.models.network import Network, build_network
from fedsim.seeding import stream
from fedsim.types import Params, UserError
from tests.reference import tangent as literal

SHAPE, OUTPUTS = (1, 4, 4), 3


def made(width: int = 8, records: int = 5) -> tuple[Network, Params, Tensor]:
    network = build_network(MLP, Config(depth=1, width=width), SHAPE, OUTPUTS, stream(1)).double()
    return network, state(network), torch.rand(records, *SHAPE, generator=stream(2)).double()


def test_the_combination_is_the_sum_over_records_and_outputs():
    network, params, images = made()
    duals = torch.randn(5, OUTPUTS, generator=stream(3)).double()
    found = flatten(combination(network, params, images, duals))
    torch.testing.assert_close(found, literal.combination(network, images, duals))


def test_along_is_the_matrix_of_gradients_times_the_direction():
    network, params, images = made()
    direction = torch.randn(sum(value.numel() for value in params.values()), generator=stream(3)).double()
    found = along(network, params, images, unflatten(direction, params))
    torch.testing.assert_close(found.flatten(), literal.jacobian(network, images) @ direction)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_residual_is_the_distance_from_the_span_of_the_gradients(share: float):
    network, params, images = made()
    duals = torch.randn(5, OUTPUTS, generator=stream(3)).double()
    inside = literal.combination(network, images, duals)
    noise = torch.randn(inside.shape, generator=stream(4)).double()
    change = inside + share * noise
    found = residual(network, params, unflatten(change, params), images)
    assert found == pytest.approx(literal.residual(network, images, change), abs=1e-9)
    assert (found < 1e-9) == (share == 0)


def test_one_step_of_descent_is_lazy_and_other_records_do_not_explain_it():
    network, params, images = made(width=16)
    step = combination(network, params, images[:2], torch.ones(2, OUTPUTS).double())
    assert residual(network, params, step, images[:2]) < 1e-9 < LAZY
    assert residual(network, params, step, images[2:]) > LAZY


def test_residuals_are_those_of_each_change_with_its_own_records():
    network, params, images = made(width=16)
    step = combination(network, params, images[:2], torch.ones(2, OUTPUTS).double())
    changes = {name: torch.stack([value, value]) for name, value in step.items()}
    own, other = residuals(network, params, changes, torch.stack([images[:2], images[2:4]]))
    assert own < 1e-9
    assert other == residual(network, params, step, images[2:4])


def test_stopping_early_never_makes_the_residual_smaller():
    network, params, images = made()
    change = unflatten(torch.randn(sum(v.numel() for v in params.values()), generator=stream(5)).double(), params)
    found = [residual(network, params, change, images, steps) for steps in (0, 1, 3, 10, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1


def test_single_precision_stops_at_its_rounding():
    network, _, images = made()
    network, images = network.float(), images.float()
    params, duals = state(network), torch.randn(5, OUTPUTS, generator=stream(3))
    assert residual(network, params, combination(network, params, images, duals), images, 10_000) < 1e-4


def test_least_squares_gives_the_duals_of_an_exact_combination():
    network, params, images = made(width=16, records=3)
    duals = torch.randn(3, OUTPUTS, generator=stream(3)).double()
    goal = combination(network, params, images, duals)
    found, left = least_squares(
        lambda one: combination(network, params, images, one),
        lambda one: along(network, params, images, one),
        goal,
        500,
    )
    torch.testing.assert_close(found, duals)
    assert float(flatten(left).norm()) < 1e-8 * float(flatten(goal).norm())


def test_what_means_nothing_is_refused():
    network, params, images = made()
    nothing = {name: torch.zeros_like(value) for name, value in params.items()}
    with pytest.raises(UserError, match="change of 0"):
        residual(network, params, nothing, images)
    many = torch.rand(100, *SHAPE).double()
    with pytest.raises(UserError, match="300 gradients of 163 weights"):
        residual(network, params, params, many)
