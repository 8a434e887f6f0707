"""L-BFGS of many small problems side by side, each with its own history, step length and fate.

One *tick* evaluates one trial point of every problem that runs, x + t d, in a single batch. Of each problem alone:

    accepted where f(x + t d) is finite and ≤ f(x) + c₁ t g·d: the pair (t d, Δg) is learnt if its curvature is
    positive,
             d = −H g, t = 1
    refused  otherwise: t falls to the minimum of the parabola through f(x), g·d and f(x + t d), within [0.1 t, 0.5 t]

So no problem waits for the line search of another, and one that diverges changes nothing but its own t. Where d is no
descent direction, or `TRIALS` trials in a row are refused, the history is forgotten and d = −g. A problem leaves the
batch when its loss is below the tolerance (solved), and when its attempt has failed: steps used up, no finite start, no
acceptable step along −g, or a loss that fell by less than `stall` over `patience` steps. A failed attempt waits
for the next start; the batch is refilled from the queue and, once that is empty, shrinks.

Source  Nocedal, Wright, "Numerical Optimization", 2nd edition, 2006, algorithms 3.1 and 7.5; Armijo's condition, (3.4).
Code    torch.optim.LBFGS (facts only): first step min(1, 1/‖g‖₁), then 1, a history of 100.
Differs torch's, at its defaults, has no line search: a step that overshoots is kept, and its problem is often lost.
Reduces with one problem and one restart, to plain L-BFGS with backtracking.
Cost    one evaluation of each running problem a tick, and two passes over 2 m v numbers. m is worth its memory: on the
        quadratic model of one image (LeNetDLG, 3072 pixels, condition number 2·10⁶) a fall by 10⁹ took 2217, 1379, 1121
        and 843 evaluations with m of 100, 200, 300 and 500.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.attempts import Attempts, Minimum, Objective, Start
from attacks.inverse_hessian import InverseHessian
from fedsim.types import UserError

ARMIJO = 1e-4
"""c₁."""
TRIALS = 10
"""Trials in a row that may be refused."""
MEMORY = {"cpu": 2**30, "cuda": 2**32}
"""Bytes of all histories in the batch, by the kind of device."""


@dataclass(frozen=True)
class Search:
    """How long and how wide."""

    iterations: int
    """Accepted steps of one attempt."""
    restarts: int = 1
    """Attempts per problem."""
    tolerance: float = 0.0
    """A loss below it is solved."""
    history: int = 300
    """m, pairs that are remembered."""
    width: int = 64
    """Problems that run side by side; fewer where their histories would take more than `MEMORY`."""
    patience: int = 200
    """Steps over which the loss has to fall …"""
    stall: float = 0.1
    """… by this share."""

    def __post_init__(self) -> None:
        least = min(self.iterations, self.restarts, self.history, self.width, self.patience)
        if least < 1 or self.tolerance < 0 or not 0 <= self.stall < 1:
            raise UserError(f"search: got {self}; valid: counts of at least 1, tolerance ≥ 0, 0 ≤ stall < 1")


@dataclass
class _Running:
    """The problems in the batch, row by row."""

    problem: Int64[Tensor, "a"]
    attempt: Int64[Tensor, "a"]
    point: Float[Tensor, "a v"]
    gradient: Float[Tensor, "a v"]
    direction: Float[Tensor, "a v"]
    value: Float[Tensor, "a"]
    """Infinite until the start itself is evaluated, as a trial with t = 0."""
    slope: Float[Tensor, "a"]
    """g·d."""
    length: Float[Tensor, "a"]
    """t."""
    taken: Int64[Tensor, "a"]
    """Steps accepted; the start counts as one while it is counted, and is taken off at the end."""
    trials: Int64[Tensor, "a"]
    moved: Bool[Tensor, "a"]
    """Whether the last trial was accepted."""
    mark: Float[Tensor, "a"]
    """Loss when patience was last asked."""

    @classmethod
    def at(cls, problem: Tensor, attempt: Tensor, starts: Tensor) -> _Running:
        """Fresh attempts."""
        rows, none = starts.new_zeros(len(starts)), torch.zeros_like(starts)
        counts, far = torch.zeros_like(problem), torch.full_like(rows, float("inf"))
        numbers = (far, rows, rows.clone(), counts, counts.clone(), counts.bool(), far.clone())
        return cls(problem, attempt, starts, none, none.clone(), *numbers)

    def keep(self, rows: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])

    def put(self, rows: Tensor, fresh: _Running) -> None:
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(fresh, field.name)


@torch.no_grad()
def minimise(objective: Objective, problems: int, start: Start, search: Search) -> Minimum:
    """The smallest loss found for each problem; nothing but `objective` decides which attempt is kept."""
    queue = Attempts(problems, search.restarts, start)
    running = _Running.at(*queue.take(_width(start(0, 0), search)))
    hessian = InverseHessian(running.point, search.history)
    while len(running.problem):
        failed, steepest = _tick(objective, running, hessian)
        solved = running.value < search.tolerance
        over = solved | failed | _tired(running, search)
        ended, reset = torch.stack([over.any(), steepest.any()]).tolist()  # the one wait for the device in a tick
        if reset:
            hessian.forget(steepest.nonzero()[:, 0])
        if not ended:
            continue
        rows = over.nonzero()[:, 0]
        steps = (running.taken - 1).clamp(min=0)
        done = (running.problem, running.attempt, running.point, running.value, steps, solved)
        queue.end(*(part[rows] for part in done))
        fresh = _Running.at(*queue.take(len(rows)))
        filled, empty = rows[: len(fresh.problem)], rows[len(fresh.problem) :]
        running.put(filled, fresh)
        if len(filled):
            hessian.forget(filled)
        if len(empty):
            over[filled] = False
            left = (~over).nonzero()[:, 0]
            running.keep(left)
            hessian.keep(left)
    return queue.result()


def _tick(
    objective: Objective, running: _Running, hessian: InverseHessian
) -> tuple[Bool[Tensor, "a"], Bool[Tensor, "a"]]:
    """One trial of every problem; which of them have no further step to try, and which have to forget their pairs."""
    step = running.length[:, None] * running.direction
    trial = running.point + step
    value, gradient = objective(running.problem, trial)
    finite = torch.isfinite(value) & torch.isfinite(gradient).all(1)
    good = finite & (value <= running.value + ARMIJO * running.length * running.slope)
    gradient = torch.where(good[:, None], gradient, running.gradient)
    newton = hessian.learn(step, gradient - running.gradient, gradient, good & (running.taken > 0))
    shorter = _shorter(running, value)

    running.point = torch.where(good[:, None], trial, running.point)
    running.value = torch.where(good, value, running.value)
    running.gradient, running.taken, running.moved = gradient, running.taken + good, good
    running.trials = torch.where(good, 0, running.trials + 1)
    slope = (newton * gradient).sum(1)
    descends = torch.isfinite(newton).all(1) & (slope < 0) & (hessian.count > 0)
    exhausted = running.trials > TRIALS
    steepest = (good & ~descends) | (exhausted & (hessian.count > 0))
    failed = (exhausted & ~steepest) | (~finite & (running.taken == 0))

    running.direction = torch.where(good[:, None], newton, running.direction)
    running.direction = torch.where(steepest[:, None], -gradient, running.direction)
    running.slope = torch.where(good, slope, running.slope)
    running.slope = torch.where(steepest, -(gradient * gradient).sum(1), running.slope)
    running.length = torch.where(good, torch.ones_like(shorter), shorter)
    running.length = torch.where(steepest, (1 / gradient.abs().sum(1)).clamp(max=1), running.length)
    running.trials = torch.where(steepest, 0, running.trials)
    return failed | (good & (gradient == 0).all(1)), steepest


def _shorter(running: _Running, value: Float[Tensor, "a"]) -> Float[Tensor, "a"]:
    """The next t after a refusal."""
    length, slope = running.length, running.slope
    parabola = -slope * length * length / (2 * (value - running.value - slope * length))
    parabola = torch.where(torch.isfinite(parabola), parabola, 0.1 * length)
    return torch.minimum(torch.maximum(parabola, 0.1 * length), 0.5 * length)


def _width(like: Float[Tensor, "v"], search: Search) -> int:
    """How many problems run side by side, at least one."""
    each = 2 * search.history * (like.numel() * like.element_size() + search.history * 8)
    return max(1, min(search.width, MEMORY.get(like.device.type, MEMORY["cpu"]) // each))


def _tired(running: _Running, search: Search) -> Bool[Tensor, "a"]:
    """Which have used up their steps, or stopped getting better."""
    asked = running.moved & (running.taken % search.patience == 0)
    stalled = asked & (running.value > (1 - search.stall) * running.mark)
    running.mark = torch.where(asked, running.value, running.mark)
    return stalled | (running.taken > search.iterations)
