"""Adam on many small problems side by side, of the gradient or of its sign, in a box, with a stepped learning rate.

    m ← β₁ m + (1 − β₁) u     v ← β₂ v + (1 − β₂) u²     x ← Π[ x − η_t (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε) ]

    u  the gradient or its sign      Π  projection onto the box      η_t  η, times 0.1 from 3/8, 5/8 and 7/8 of the
    steps

The step is entry by entry, so problems in a batch do not touch one another. One that is no longer finite stays where it
was and its attempt is lost. An attempt ends after all steps; its last point counts, by `score`. No step waits for the
device.

Source  Kingma, Ba, ICLR 2015, algorithm 1; Geiping et al., NeurIPS 2020 (arXiv 2003.14053), section 4, for the sign.
Code    JonasGeiping/invertinggradients (MIT, facts only): η 0.1, tenths at 3/8, 5/8, 7/8, last point scored.
Reduces to torch.optim.Adam with the plain gradient and no box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.attempts import Attempts, Minimum, Objective, Start
from fedsim.types import UserError

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8
"""β₁, β₂, ε."""
DROPS = (3 / 8, 5 / 8, 7 / 8)
"""Shares of the steps after which the learning rate falls to a tenth."""

Project = Callable[[Tensor], Tensor]
"""Variables (a, v) → the nearest ones in the box."""
Score = Callable[[Tensor, Tensor], Tensor]
"""(problems (a,), variables (a, v)) → (a,): what attempts are compared by; smaller is better."""


@dataclass(frozen=True)
class Descent:
    """How long, how wide, how fast."""

    iterations: int
    """Steps of one attempt."""
    learning_rate: float = 0.1
    """η."""
    signed: bool = True
    """Whether u is the sign of the gradient."""
    restarts: int = 1
    """Attempts per problem."""
    width: int = 64
    """Problems that run side by side."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.restarts, self.width) < 1 or not self.learning_rate > 0:
            raise UserError(f"descent: got {self}; valid: counts of at least 1 and a learning rate above 0")


@torch.no_grad()
def minimise(
    objective: Objective, score: Score, problems: int, start: Start, descent: Descent, project: Project | None = None
) -> Minimum:
    """`restarts` attempts of each problem, and of them the one of the smallest `score`."""
    queue = Attempts(problems, descent.restarts, start)
    while True:
        problem, attempt, points = queue.take(descent.width)
        if not len(problem):
            return queue.result()
        points, alive = descend(objective, problem, points, descent, project)
        worth = torch.full((len(problem),), float("inf"), dtype=points.dtype, device=points.device)
        if len(alive):
            worth[alive] = score(problem[alive], points[alive])
        steps = torch.full_like(problem, descent.iterations)
        queue.end(problem, attempt, points, worth, steps, torch.zeros_like(problem, dtype=torch.bool))


@torch.no_grad()
def descend(
    objective: Objective,
    problem: Int64[Tensor, "a"],
    points: Float[Tensor, "a v"],
    descent: Descent,
    project: Project | None = None,
) -> tuple[Float[Tensor, "a v"], Int64[Tensor, "f"]]:
    """All steps of one attempt each, from `points`: where they ended, and the rows that stayed finite."""
    alive = torch.ones(len(points), dtype=torch.bool, device=points.device)
    first, second = torch.zeros_like(points), torch.zeros_like(points)
    for step in range(descent.iterations):
        value, gradient = objective(problem, points)
        alive = alive & torch.isfinite(value) & torch.isfinite(gradient).all(1)
        used = gradient.sign() if descent.signed else gradient
        first.mul_(FIRST).add_(used, alpha=1 - FIRST)
        second.mul_(SECOND).addcmul_(used, used, value=1 - SECOND)
        scale = (second / (1 - SECOND ** (step + 1))).sqrt_().add_(EPSILON)
        moved = points - rate(descent, step) / (1 - FIRST ** (step + 1)) * first / scale
        points = torch.where(alive[:, None], moved if project is None else project(moved), points)
    return points, alive.nonzero()[:, 0]


def rate(descent: Descent, step: int) -> float:
    """η_t of the step that follows `step` others."""
    return descent.learning_rate * 0.1 ** sum(step >= drop * descent.iterations for drop in DROPS)
