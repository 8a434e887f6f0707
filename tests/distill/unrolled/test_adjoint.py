"""The exact adjoint against one graph through all steps, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsim.distill.base import Task
from fedsim.distill.unrolled.adjoint import Step, backward, forward
from fedsim.models.functional import state
from fedsim.types import Params
from tests.reference import dm as problem
from tests.reference.meta_knowledge import average, record_loss

ROWS = ([0, 1], [2], [1, 3, 4], [0, 1], [4], [2, 0], [3])
"""Batches of any images, some of them several times."""


def begun(chunk: int = 0) -> tuple[Task, Params, Tensor, list[Step]]:
    task = problem.task(chunk=chunk)
    task.network.requires_grad_(True)
    pixels = torch.rand((5, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    steps = [Step(torch.tensor(rows), 0.1 + 0.1 * number) for number, rows in enumerate(ROWS)]
    return task, state(task.network), pixels, steps


def pulled(task: Task, weights: Params) -> dict[str, Tensor]:
    """λ_T of L = ‖θ_T‖² / 2."""
    return {name: weights[name].detach().clone() for name, _ in task.network.named_parameters()}


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_it_is_the_gradient_of_one_graph_through_all_steps(taken: int, chunk: int) -> None:
    task, first, pixels, steps = begun(chunk)
    steps, labels = steps[:taken], task.labels()
    rates = torch.tensor([step.rate for step in steps], dtype=torch.float64)
    leaves = pixels.clone().requires_grad_(), rates.requires_grad_()
    names = [name for name, _ in task.network.named_parameters()]
    current = {name: value.clone().requires_grad_(name in names) for name, value in first.items()}
    for number, step in enumerate(steps):
        losses = [record_loss(task.network, current, leaves[0][row], int(labels[row])) for row in step.rows]
        found = torch.autograd.grad(average(losses), [current[name] for name in names], create_graph=True)
        current |= {name: current[name] - leaves[1][number] * one for name, one in zip(names, found, strict=True)}
    loss = torch.stack([current[name].square().sum() / 2 for name in names]).sum()
    expected = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    path = forward(task.runner, first, pixels, labels, steps)
    back = backward(task.runner, path, pulled(task, task.runner.network.state_dict()), pixels, labels, steps)
    assert torch.allclose(back.images, expected[0], rtol=1e-10, atol=1e-11)
    assert torch.allclose(back.rates.double(), expected[1], rtol=1e-10, atol=1e-11)
    assert float(expected[0].abs().max()) > 1e-3 or taken == 0


def test_what_is_kept_is_a_path_of_weights_and_no_graph() -> None:
    task, first, pixels, steps = begun()
    path = forward(task.runner, first, pixels, task.labels(), steps)
    assert len(path) == len(steps) + 1
    back = backward(task.runner, path, pulled(task, first), pixels, task.labels(), steps)
    assert not any(one.requires_grad for one in (*path, *back))


def test_the_start_and_the_images_are_left_as_they_were() -> None:
    task, first, pixels, steps = begun()
    before, seen = {name: value.clone() for name, value in first.items()}, pixels.clone()
    path = forward(task.runner, first, pixels, task.labels(), steps)
    backward(task.runner, path, pulled(task, first), pixels, task.labels(), steps)
    assert all(torch.equal(first[name], value) for name, value in before.items())
    assert torch.equal(pixels, seen)
