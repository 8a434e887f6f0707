"""Batched Adam: torch's own for each problem, in the box, and not finite means gone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.adam import Descent, descend, minimise, rate
from fedsim.seeding import stream
from fedsim.types import UserError

CENTRES = torch.tensor([[0.5, -2.0], [3.0, 0.1], [0.2, 0.3]])


def bowl(problem: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    apart = points - CENTRES[problem]
    return apart.square().sum(1), 2 * apart


def score(problem: Tensor, points: Tensor) -> Tensor:
    return bowl(problem, points)[0]


@pytest.mark.parametrize("signed", [False, True])
def test_it_is_torchs_adam_problem_by_problem(signed):
    descent = Descent(16, 0.1, signed)
    points = torch.randn(3, 2, generator=stream(0))
    found, alive = descend(bowl, torch.arange(3), points, descent)
    assert alive.tolist() == [0, 1, 2]
    for row in range(3):
        own = points[row].clone().requires_grad_()
        optimiser = torch.optim.Adam([own], lr=0.1)
        for step in range(16):
            for group in optimiser.param_groups:
                group["lr"] = rate(descent, step)
            slope = 2 * (own.detach() - CENTRES[row])
            own.grad = slope.sign() if signed else slope
            optimiser.step()
        torch.testing.assert_close(found[row], own.detach())


def test_learning_rate_falls_to_tenths_after_the_published_shares():
    rates = [rate(Descent(8, 1.0), step) for step in range(8)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_points_stay_in_the_box():
    descent = Descent(200, 0.1)
    found = minimise(bowl, score, 3, lambda *_: torch.zeros(2), descent, lambda points: points.clamp(0, 1))
    torch.testing.assert_close(found.variables, CENTRES.clamp(0, 1), rtol=0, atol=2e-3)
    assert found.iterations.tolist() == [200, 200, 200]


def test_what_is_not_finite_leaves_and_the_best_attempt_is_by_score():
    def broken(problem: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = bowl(problem, points)
        return torch.where(points[:, 0] < -5, float("nan"), value), gradient

    def start(problem: int, attempt: int) -> Tensor:
        return torch.tensor([-9.0, 0.0] if attempt == 0 and problem == 1 else [0.0, 0.0])

    descent = Descent(300, 0.1, restarts=2, width=2)
    found = minimise(broken, score, 3, start, descent)
    torch.testing.assert_close(found.variables, CENTRES, rtol=0, atol=2e-3)
    lost = minimise(lambda p, x: (x.sum(1) * float("nan"), x), score, 1, start, Descent(3))
    assert lost.loss.tolist() == [float("inf")]


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="learning rate above 0"):
        Descent(5, 0.0)
