"""Many problems, several tries each: which tries wait, and the best that was found so far.

A minimiser runs a bounded number of tries side by side. A try that ends makes room for the next that waits; what is
kept of a problem is the try of the smallest loss, which is all that an attacker can see. The truth is not known here.

    b problems      a tries that run      v variables of a problem
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fedsim.types import UserError

Start = Callable[[int, int], Tensor]
"""(problem, attempt) → the variables, (v,), that the attempt starts at."""
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""b functions of v variables, of which any a are evaluated together: (which of them (a,), variables (a, v)) → values
(a,), gradients (a, v). One that is not finite says nothing of the others."""


@dataclass(frozen=True)
class Minimum:
    """The best try of each problem."""

    variables: Float[Tensor, "b v"]
    loss: Float[Tensor, "b"]
    """Infinite where no try reached a finite value; `variables` are then those of the first start."""
    iterations: Int64[Tensor, "b"]
    """Steps taken, those of all tries together."""
    attempts: Int64[Tensor, "b"]
    """Tries that were made."""


class Attempts:
    """The queue of tries, first tries first, and what came of those that ended."""

    def __init__(self, problems: int, restarts: int, start: Start) -> None:
        if problems < 1 or restarts < 1:
            raise UserError(f"got {problems} problems, {restarts} restarts; valid: at least one of each")
        self.restarts = restarts
        self.start = start
        self._waiting = deque((problem, 0) for problem in range(problems))
        first = torch.stack([start(problem, 0) for problem in range(problems)])
        self._best = first
        self._loss = torch.full((problems,), float("inf"), dtype=first.dtype, device=first.device)
        self._iterations = torch.zeros(problems, dtype=torch.int64)
        self._attempts = torch.zeros(problems, dtype=torch.int64)

    def take(self, most: int) -> tuple[Int64[Tensor, "a"], Int64[Tensor, "a"], Float[Tensor, "a v"]]:
        """Up to `most` tries that waited: their problems, which try of it each is, and their starts."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        starts = [self.start(problem, attempt) for problem, attempt in taken]
        numbers = torch.tensor(taken, dtype=torch.int64, device=self._best.device).view(-1, 2)
        return numbers[:, 0], numbers[:, 1], torch.stack(starts) if starts else self._best[:0].clone()

    def end(
        self,
        problem: Int64[Tensor, "a"],
        attempt: Int64[Tensor, "a"],
        variables: Float[Tensor, "a v"],
        loss: Float[Tensor, "a"],
        iterations: Int64[Tensor, "a"],
        solved: Bool[Tensor, "a"],
    ) -> None:
        """Keep what is better than before; what is not solved waits for its next try, if it has one left."""
        better = (loss < self._loss[problem]).tolist()  # false for what is not a number
        ended = zip(problem.tolist(), attempt.tolist(), iterations.tolist(), solved.tolist(), better, strict=True)
        for row, (one, number, steps, done, wins) in enumerate(ended):
            self._iterations[one] += steps
            self._attempts[one] += 1
            if wins:
                self._best[one], self._loss[one] = variables[row], loss[row]
            if not done and number + 1 < self.restarts:
                self._waiting.append((one, number + 1))

    def result(self) -> Minimum:
        """The best of all tries that ended."""
        return Minimum(self._best, self._loss, self._iterations, self._attempts)


def seeded(
    problems: int, restarts: int, rng: torch.Generator, draw: Callable[[torch.Generator], Tensor]
) -> Callable[[int, int], Tensor]:
    """A start that is the same whatever else runs beside it: every (problem, attempt) has a seed of its own."""
    seeds = torch.randint(2**62, (problems, restarts), generator=rng).tolist()

    def start(problem: int, attempt: int) -> Tensor:
        return draw(torch.Generator().manual_seed(seeds[problem][attempt]))

    return start
