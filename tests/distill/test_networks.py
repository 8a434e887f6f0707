"""Where networks come from: the sphere around w_r, the pool and its cached means."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.base import Task
from fedsim.distill.distribution.dm import Config, DistributionMatching
from fedsim.distill.networks import Fresh, FreshConfig, Perturb, PerturbConfig, Radius, perturb
from fedsim.models.functional import flatten, trainable_names
from fedsim.seeding import stream
from fedsim.types import Params, UserError
from tests.reference import dm as reference


def moving(task: Task, params: Params) -> Tensor:
    return flatten({name: params[name] for name in trainable_names(task.network)})


@pytest.mark.parametrize("radius", [Radius(absolute=5.0), Radius(relative=0.22), Radius(absolute=0.001)])
def test_a_large_network_lies_on_the_sphere(radius: Radius) -> None:
    task = reference.task(reference.convnet(width=16), around=True)
    assert task.start is not None
    centre = moving(task, task.start)
    rho = radius.absolute or (radius.relative or 0) * float(centre.norm())
    for seed in range(5):
        distance = (moving(task, perturb(task, radius, stream(seed))) - centre).norm()
        assert float(distance) == pytest.approx(rho, rel=1e-5)


def test_inside_a_large_ball_the_normal_draw_is_left_as_it_is() -> None:
    task = reference.task(around=True)
    assert task.start is not None
    centre = moving(task, task.start)
    moved = moving(task, perturb(task, Radius(absolute=1e6), stream(3)))
    noise = torch.randn(centre.shape, generator=stream(3))
    torch.testing.assert_close(moved, centre + noise)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_start_weights_and_buffers_stay(norm: str) -> None:
    network = reference.convnet(norm=norm)  # pyright: ignore[reportArgumentType]
    for name, buffer in network.named_buffers():
        buffer.fill_(7 if name.endswith("tracked") else 0.5)
    task = reference.task(network, around=True)
    assert task.start is not None
    before = {name: value.clone() for name, value in task.start.items()}
    drawn = perturb(task, Radius(absolute=5.0), stream(0))
    for name, _ in network.named_buffers():
        assert torch.equal(drawn[name], before[name])
    method = DistributionMatching(
        Config(ipc=2, iterations=1, batch_real=0, networks=PerturbConfig(radius=Radius(absolute=5.0)))
    )
    current = method.init(task, None, stream(1))
    method.step(task, None, current, stream(2))
    for name, value in task.start.items():
        assert torch.equal(value, before[name]), name


def test_perturbation_needs_a_server() -> None:
    with pytest.raises(UserError, match=r"central run does not have; valid here: networks: fresh"):
        perturb(reference.task(), Radius(absolute=1.0), stream(0))


def test_radius_wants_exactly_one_of_two() -> None:
    for wrong in ({}, {"absolute": 1.0, "relative": 1.0}, {"absolute": 0.0}, {"relative": -1.0}):
        with pytest.raises(ValidationError):
            Radius(**wrong)
    assert Radius(relative=0.5).around(8.0) == 4.0
    assert Radius(absolute=0.5).around(8.0) == 0.5


def test_fresh_draws_by_the_generator() -> None:
    source, task = Fresh(FreshConfig(), None), reference.task()
    first, again, other = (flatten(source.draw(task, None, stream(seed), 0).params) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_perturb_draws_an_augmentation_of_its_own_every_time() -> None:
    source = Perturb(PerturbConfig(radius=Radius(absolute=1.0)), DSAConfig())
    task, rng = reference.task(around=True), stream(0)
    one, two = (source.draw(task, None, rng, 0).augmentation for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.shape[0] == 4
    assert not torch.equal(one, two)
