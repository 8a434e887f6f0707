"""Where networks come from: the sphere around w_r, the pool and its cached means."""

from __future__ import annotations

import pytest
import torch

from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.base import Task
from fedsim.distill.distribution.dm import Config, DistributionMatching
from fedsim.distill.pool import Pool, PoolConfig, PoolState
from fedsim.models.functional import flatten, unflatten
from fedsim.seeding import stream
from tests.reference import dm as reference


def pooled(task: Task, dsa: DSAConfig | None, size: int = 4) -> tuple[DistributionMatching, PoolState]:
    around = "server" if task.start is not None else "fresh"
    method = DistributionMatching(
        Config(ipc=2, batch_real=0, augment=dsa, networks=PoolConfig(size=size, around=around))
    )
    prepared = method.prepare(task, stream(9))
    assert isinstance(prepared, PoolState)
    return method, prepared


@pytest.mark.parametrize("around", [True, False])
@pytest.mark.parametrize("dsa", [None, DSAConfig()])
@pytest.mark.parametrize("chunk", [0, 2])
def test_cached_sums_are_those_of_their_own_pair(around: bool, dsa: DSAConfig | None, chunk: int) -> None:
    task = reference.task(around=around, chunk=chunk)
    method, prepared = pooled(task, dsa)
    for seed in range(8):
        drawn = method.source.draw(task, prepared, stream(seed), 0)
        assert drawn.real_sums is not None
        sums, counts = method._real_sums(task, drawn.params, drawn.augmentation, stream(seed, "now"))
        torch.testing.assert_close(drawn.real_sums[0], sums, rtol=1e-10, atol=1e-10)
        assert torch.equal(drawn.real_sums[1], counts)


def test_a_mean_of_another_pair_would_be_noticed() -> None:
    """The mutant: the right network with its neighbour's augmentation."""
    task = reference.task()
    method, prepared = pooled(task, DSAConfig())
    prepared.augmentations = prepared.augmentations.roll(1, 0) if prepared.augmentations is not None else None
    drawn = method.source.draw(task, prepared, stream(0), 0)
    assert drawn.real_sums is not None
    sums, _ = method._real_sums(task, drawn.params, drawn.augmentation, stream(1))
    assert not torch.allclose(drawn.real_sums[0], sums, rtol=1e-3)


def test_members_are_drawn_uniformly_and_are_different() -> None:
    task = reference.task()
    method, prepared = pooled(task, None)
    assert isinstance(method.source, Pool)
    hits, rng = torch.zeros(4), stream(0)
    for _ in range(400):
        flat = flatten(method.source.draw(task, prepared, rng, 0).params)
        (match,) = (prepared.flats == flat).all(1).nonzero().flatten().tolist()
        hits[match] += 1
    assert (hits - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("around", [True, False])
def test_steps_leave_the_pool_as_it_is(around: bool) -> None:
    task = reference.task(reference.convnet(norm="batch"), around=around)
    method, prepared = pooled(task, None)
    flats = prepared.flats.clone()
    current = method.init(task, prepared, stream(1))
    for step in range(4):
        method.step(task, prepared, current, stream(2, step))
    assert torch.equal(prepared.flats, flats)


# --- its refreshment ---


def refreshed(refresh: int) -> tuple[Task, DistributionMatching, PoolState]:
    task = reference.task()
    networks = PoolConfig(size=4, refresh=refresh)
    method = DistributionMatching(Config(ipc=2, batch_real=2, augment=DSAConfig(), networks=networks))
    prepared = method.prepare(task, stream(9))
    assert isinstance(prepared, PoolState)
    return task, method, prepared


def test_every_pair_is_replaced_once_in_refresh_steps_one_after_another() -> None:
    task, method, prepared = refreshed(8)
    before = prepared.flats.clone()
    changed = []
    for step in range(17):
        method.source.draw(task, prepared, stream(step), step)
        changed.append((prepared.flats != before).any(1).nonzero().flatten().tolist())
        before = prepared.flats.clone()
    assert changed == [[], [], [0], [], [1], [], [2], [], [3], [], [0], [], [1], [], [2], [], [3]]
    assert PoolConfig(size=4, refresh=8).drawn(17) == 4 + 8


@pytest.mark.parametrize("step", [1, 5, 16, 31])
def test_a_resumed_loop_finds_the_pool_of_that_step(step: int) -> None:
    task, method, prepared = refreshed(8)
    for earlier in range(step):
        method.source.draw(task, prepared, stream(earlier), earlier)
    again = method.prepare(task, stream(9))
    assert isinstance(again, PoolState)
    for pool in (prepared, again):
        method.source.draw(task, pool, stream(step), step)
    assert torch.equal(prepared.flats, again.flats)
    assert torch.equal(prepared.sums, again.sums)
    assert prepared.augmentations is not None
    assert again.augmentations is not None
    assert torch.equal(prepared.augmentations, again.augmentations)


def test_a_replacement_brings_its_own_means() -> None:
    task, method, prepared = refreshed(4)
    assert prepared.augmentations is not None
    prepared.real_sums = lambda params, draws, rng: method._real_sums(task, params, draws, stream(0))
    method.source.draw(task, prepared, stream(1), 9)
    for index in range(4):
        params = unflatten(prepared.flats[index], task.network.state_dict())
        sums, _ = method._real_sums(task, params, prepared.augmentations[index], stream(0))
        torch.testing.assert_close(prepared.sums[index], sums, rtol=1e-10, atol=1e-10)
