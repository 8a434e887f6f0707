"""L-BFGS side by side: as one at a time, whatever becomes of the neighbours, and the best attempt by loss alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.gradient_matching import Matching
from attacks.lbfgs import Search, minimise
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import leak
from tests.reference.gradient_leakage import minimise as literal


@dataclass
class Recorded:
    """Rosenbrock valleys, one for each problem; from `wall` on they are not a number to the right of 0."""

    wall: int = 99
    values: dict[int, list[float]] = field(default_factory=dict)

    def __call__(self, problem: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            value = (5.0 + problem) * (leaf[:, 1] - leaf[:, 0] ** 2) ** 2 + (1 - leaf[:, 0]) ** 2
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        broken = (problem >= self.wall) & (points[:, 0] > 0)
        value = torch.where(broken, float("nan"), value.detach())
        for one, number in zip(problem.tolist(), value.tolist(), strict=True):
            self.values.setdefault(one, []).append(number)
        return value, gradient


def starts(problem: int, attempt: int) -> Tensor:
    return torch.randn(2, generator=stream(problem, attempt), dtype=torch.float64)


def test_accepted_values_are_those_of_the_literal_loop():
    function = Recorded()
    found = minimise(function, 3, starts, Search(40, tolerance=1e-12, history=5))
    for problem in range(3):
        alone = Recorded()

        def one(x: np.ndarray, alone: Recorded = alone, problem: int = problem) -> tuple[float, np.ndarray]:
            value, gradient = alone(torch.tensor([problem]), torch.from_numpy(x)[None])
            return float(value), gradient[0].numpy()

        tried = function.values[problem]
        accepted = literal(one, starts(problem, 0).numpy(), len(tried), 5)
        np.testing.assert_allclose(alone.values[problem], tried, rtol=1e-6, atol=1e-13)
        assert found.loss[problem] == pytest.approx(accepted[-1], rel=1e-6, abs=1e-13)
        assert int(found.iterations[problem]) == len(accepted) - 1
    torch.testing.assert_close(found.variables, torch.ones(3, 2, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_batched_images_are_those_of_one_at_a_time():
    made = leak(3, own=True, dtype=torch.float64)
    matching = Matching(made.observed, made.labels)
    start, search = matching.start(1, stream(3)), Search(8)
    together = minimise(matching, 3, start, search)

    def alone(problem: int) -> Tensor:
        def one(_: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
            return matching(torch.tensor([problem]), points)

        return minimise(one, 1, lambda _, attempt: start(problem, attempt), search).variables[0]

    for problem in range(3):
        torch.testing.assert_close(together.variables[problem], alone(problem), rtol=1e-6, atol=1e-6)
    narrow = minimise(matching, 3, start, Search(8, width=2))  # the third takes the place of the first that ends
    torch.testing.assert_close(narrow.variables, together.variables, rtol=1e-6, atol=1e-6)


def test_a_problem_that_diverges_touches_no_other():
    search = Search(25, history=5)
    calm, beside = Recorded(), Recorded(wall=2)
    expected = minimise(calm, 3, starts, search)
    found = minimise(beside, 3, starts, search)
    assert any(np.isnan(beside.values[2]))
    assert torch.equal(found.variables[:2], expected.variables[:2])
    assert found.loss[2] > expected.loss[2]
    assert found.variables.isfinite().all()


def test_the_attempt_of_the_smallest_loss_is_kept_whatever_the_truth_is():
    """Two wells; the true image is in the shallow one, where the first attempt starts."""
    truth = -1.0

    def wells(_: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        value = (points.square() - 1).square() - 0.1 * points + 1
        return value[:, 0], 4 * points * (points.square() - 1) - 0.1

    def start(_: int, attempt: int) -> Tensor:
        return torch.tensor([[-1.2], [1.2], [-0.8]][attempt])

    once = minimise(wells, 1, start, Search(50))
    assert abs(float(once.variables) - truth) < 0.1
    best = minimise(wells, 1, start, Search(50, restarts=3))
    assert abs(float(best.variables) - 1.0) < 0.1
    assert int(best.attempts) == 3
    assert best.loss < once.loss


def test_what_fails_leaves_and_waits_for_its_next_start():
    def lost(problem: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        value = points.square().sum(1)
        return torch.where((problem == 1) & (points[:, 0] > 5), float("nan"), value), 2 * points

    def start(problem: int, attempt: int) -> Tensor:
        return torch.tensor([9.0 if attempt == 0 else 1.0, 2.0 + problem])

    found = minimise(lost, 2, start, Search(50, restarts=3, tolerance=1e-8, width=1))
    assert found.attempts.tolist() == [1, 2]
    assert (found.loss < 1e-8).all()
    never = minimise(lambda p, x: (x.sum(1) * float("nan"), x), 1, start, Search(5, restarts=2))
    assert never.loss.tolist() == [float("inf")]
    assert never.attempts.tolist() == [2]


def test_a_loss_that_no_longer_falls_ends_the_attempt():
    def floor(_: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        return points.square().sum(1) + 1, 2 * points

    found = minimise(floor, 1, lambda *_: torch.tensor([3.0, 1.0]), Search(1000, patience=3))
    assert int(found.iterations) < 20


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="counts of at least 1"):
        Search(0)
    with pytest.raises(UserError, match="0 ≤ stall < 1"):
        Search(5, stall=1.0)
