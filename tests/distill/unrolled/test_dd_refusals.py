"""What dataset distillation refuses, and how it ends where its training diverges: one line each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.config import validate
from fedsim.distill.unrolled.dd import Config, DatasetDistillation
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import dm as problem

SETTINGS = Config(ipc=2, iterations=2, epochs=2, batch_real=0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 3}, r"^steps: got 3 .*; with ipc=2 some parts would have no image; valid: 1 to ipc, or null"),
        (
            {"networks": "pool"},
            "a pool holds class means of its networks, .*; valid: fresh, perturb",
        ),
        ({"rate": 0.0}, "rate: .*greater than 0"),
        ({"rate": 1e200}, "rate: .*less than or equal to 100"),
        ({"lr_rates": -1.0}, "lr_rates: .*greater than or equal to 0"),
        ({"milestones": [1.5]}, "milestones"),
        ({"initialisation": "known"}, "initialisation: .*'random' or 'fixed'"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as refusal:
        validate(Config, {"ipc": 2} | changes)
    assert "\n" not in str(refusal.value)


def test_a_batch_norm_and_several_owners_are_refused_in_one_line() -> None:
    method, two = DatasetDistillation(SETTINGS), problem.task()
    for task, line in [
        (problem.task(problem.convnet("batch")), "choose another model.norm"),
        (replace(two, budget=torch.cat([two.budget, two.budget])), "networks without shared"),
    ]:
        with pytest.raises(UserError, match=line) as refusal:
            method.prepare(task, stream(0))
        assert "\n" not in str(refusal.value)


def test_a_training_that_diverges_ends_in_one_line() -> None:
    task = problem.task(around=True)
    method = DatasetDistillation(SETTINGS)
    artifacts = method.prepare(task, stream(0))
    current = method.init(task, artifacts, stream(1))
    current.raw.fill_(1e30)
    line = r"^method dd: the unrolled training diverged at iteration 1, with rates up to 1e\+30; give a smaller"
    with pytest.raises(UserError, match=line):
        method.step(task, artifacts, current, stream(2))
