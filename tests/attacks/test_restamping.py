"""A condensation that stamps anew is the method itself while the trigger stays, and goes on after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attacks.restamping import Restamping
from fedsim import api
from fedsim.compute import Compute, settle
from fedsim.config import validate
from fedsim.data.images import Dataset
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, white
from fedsim.distill.base import Distiller, Task
from fedsim.distill.distribution.dm import DistributionMatching
from fedsim.distill.drive import condense
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.seeding import Streams
from fedsim.tasks import central_task, network_factory

SETTINGS = {"ipc": 2, "iterations": 6, "lr": 1.0, "networks": {"name": "pool", "size": 2}}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = api.load("digits")
    return replace(whole, train=whole.train.take(torch.arange(200)))


def method(**more: object) -> Distiller:
    return DistributionMatching(validate(DistributionMatching.Config, SETTINGS | more))


def task_of(digits: Dataset, trigger: Trigger, rows: torch.Tensor) -> Task:
    fresh = network_factory(ConvNetConfig(depth=2, width=4), digits, torch.device("cpu"))
    images, compute = (
        trigger.poison(digits.train, rows),
        settle(Compute(device="cpu", chunk=0, compile=False, channels_last=False, ensemble="loop")),
    )
    normalise = Normalise(digits.mean, digits.std)
    return central_task(images, digits, normalise, fresh, 2, compute, Streams(0))


def inverted(trigger: Trigger, task: Task, turn: int) -> Trigger:
    return replace(trigger, values=255 - trigger.values)


def made(wrapped: Restamping, task: Task, store: Path | None = None, every: float = 30.0) -> torch.Tensor:
    return condense(wrapped, task, 6, Streams(1), store=store, checkpoint_every=every)[0].images


def test_a_trigger_that_stays_changes_nothing(digits: Dataset) -> None:
    trigger, rows = white((1, 8, 8), 2, 0), torch.arange(5, 20)
    task = task_of(digits, trigger, rows)
    wrapped = Restamping(method(), digits.train, rows, trigger, 2, lambda now, *_: now)
    assert torch.equal(made(wrapped, task), condense(method(), task, 6, Streams(1))[0].images)


@pytest.mark.parametrize("ipc", [1, 2])
def test_a_new_trigger_is_seen_by_what_the_method_prepared(digits: Dataset, ipc: int) -> None:
    """The pool keeps class means of the records, which change: they are made again. At one image per class too."""
    trigger, rows = white((1, 8, 8), 2, 0), torch.arange(5, 20)
    task = task_of(digits, trigger, rows)
    wrapped = Restamping(method(ipc=ipc), digits.train, rows, trigger, 4, inverted)
    moved = made(wrapped, task)
    assert torch.equal(wrapped.trigger.values, 255 - trigger.values)
    still = Restamping(method(ipc=ipc), digits.train, rows, trigger, 100, inverted)
    assert not torch.equal(moved, made(still, task))


def test_a_killed_condensation_goes_on_with_the_trigger_it_had(digits: Dataset, tmp_path: Path) -> None:
    trigger, rows = white((1, 8, 8), 2, 0), torch.arange(5, 20)
    task = task_of(digits, trigger, rows)

    class KilledError(Exception):
        pass

    def kill(now: Trigger, task: Task, turn: int) -> Trigger:
        if turn == 4:
            raise KilledError
        return inverted(now, task, turn)

    whole = Restamping(method(), digits.train, rows, trigger, 2, inverted)
    expected = made(whole, task)
    with pytest.raises(KilledError):
        made(Restamping(method(), digits.train, rows, trigger, 2, kill), task, tmp_path, 0.0)
    assert (tmp_path / "condensation.safetensors").is_file()
    again = Restamping(method(), digits.train, rows, trigger, 2, inverted)
    assert torch.equal(made(again, task, tmp_path), expected)
    assert torch.equal(again.trigger.values, whole.trigger.values)
