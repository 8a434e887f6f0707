"""The limited-memory BFGS inverse Hessian of many problems at once, in its compact form.

    H = γ I + [S  γY] [ R⁻ᵀ (D + γ YᵀY) R⁻¹   −R⁻ᵀ ] [ Sᵀ  ]        γ = s·y / y·y of the newest pair
                      [ −R⁻¹                    0   ] [ γYᵀ ]

    S, Y  the last m steps s and changes of the gradient y, oldest first      R  upper triangle of SᵀY      D  its
    diagonal

−H g is what the two loops over the pairs of Nocedal (1980) give. Here the pairs are read twice a step, by matrix
products over all problems, and everything else is m × m; the loops would read them four times, in 4m small
operations. R⁻¹ is kept instead of R: a new pair adds a column to it, and without the oldest pair it is R⁻¹ without
that row and column.

Source  Byrd, Nocedal, Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
        Mathematical Programming 63, 1994, theorem 2.2 and equation 3.13.
Code    none read.
Cost    2 m v numbers a problem, and 2 m² in double.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

CURVATURE = 1e-10
"""Least s·y of a pair that is kept, in units of ‖s‖ ‖y‖: H stays positive definite."""


class InverseHessian:
    """H of a problems: each has its own pairs, and any of them may be dropped or forgotten alone."""

    def __init__(self, like: Float[Tensor, "a v"], length: int) -> None:
        rows, size = like.shape
        self.length = length
        self.steps = like.new_zeros(rows, length, size)
        """S. Row j is the pair j modulo m, or 0 where there is none: sums run over pairs, their order is no matter."""
        self.changes = like.new_zeros(rows, length, size)
        """Y."""
        self.inverse = like.new_zeros(rows, length, length, dtype=torch.float64)
        """R⁻¹."""
        self.diagonal = like.new_zeros(rows, length, dtype=torch.float64)
        """D."""
        self.products = like.new_zeros(rows, length, length, dtype=torch.float64)
        """YᵀY."""
        self.gamma = like.new_ones(rows)
        self.count = torch.zeros(rows, dtype=torch.int64, device=like.device)
        """Pairs that were ever taken since the last `forget`."""

    def learn(
        self,
        step: Float[Tensor, "a v"],
        change: Float[Tensor, "a v"],
        gradient: Float[Tensor, "a v"],
        moved: Bool[Tensor, "a"],
    ) -> Float[Tensor, "a v"]:
        """Take the pairs of those that moved, if their curvature is positive, and give −H · gradient of each."""
        sy, yy = (step * change).sum(1), (change * change).sum(1)
        rows = (moved & (sy > CURVATURE * step.norm(dim=1) * yy.sqrt())).nonzero()[:, 0]
        place = self.count[rows] % self.length
        self.steps[rows, place], self.changes[rows, place] = step[rows], change[rows]
        self.gamma[rows] = sy[rows] / yy[rows]
        self.count[rows] += 1
        most = min(int(self.count.max()), self.length) if len(self.count) else 0
        asked = torch.stack([gradient, change], 1)
        by_step = (asked @ self.steps[:, :most].mT).double()  # a × 2 × most
        by_change = (asked @ self.changes[:, :most].mT).double()
        self._take(rows, place, by_step[rows, 1], by_change[rows, 1], most)
        inner, outer = self._weights(by_step[:, 0], by_change[:, 0], most)
        newton = torch.baddbmm(-(self.gamma[:, None] * gradient)[:, None], inner[:, None], self.changes[:, :most])
        return torch.baddbmm(newton, outer[:, None], self.steps[:, :most])[:, 0]

    def _take(self, rows: Tensor, place: Tensor, by_step: Tensor, by_change: Tensor, most: int) -> None:
        """The new pair in the oldest one's place: R gains the column Sᵀy, so R⁻¹ gains −R⁻¹ Sᵀy over 1, both by s·y."""
        self.inverse[rows, place], self.inverse[rows, :, place] = 0, 0
        each = torch.arange(len(rows), device=rows.device)
        own = by_step[each, place]
        column = -(self.inverse[rows, :most, :most] @ by_step[..., None])[..., 0] / own[:, None]
        column[each, place] = 1 / own
        self.inverse[rows, :most, place] = column
        self.products[rows, :most, place], self.products[rows, place, :most] = by_change, by_change
        self.diagonal[rows, place] = own

    def _weights(self, by_step: Tensor, by_change: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """What −H g + γ g is of the rows of Y and of S, from their products with g."""
        inverse, gamma = self.inverse[:, :most, :most], self.gamma.double()[:, None]
        inner = (inverse @ by_step[..., None])[..., 0]
        outer = self.diagonal[:, :most] * inner - gamma * by_change
        outer = outer + gamma * (self.products[:, :most, :most] @ inner[..., None])[..., 0]
        outer = (outer[:, None] @ inverse)[:, 0]
        return (gamma * inner).to(self.steps.dtype), -outer.to(self.steps.dtype)

    def forget(self, rows: Int64[Tensor, "f"]) -> None:
        """Start again at the identity."""
        for tensor in (self.steps, self.changes, self.inverse, self.diagonal, self.products, self.count):
            tensor[rows] = 0
        self.gamma[rows] = 1

    def keep(self, rows: Int64[Tensor, "k"]) -> None:
        """Leave all others out."""
        for name in ("steps", "changes", "inverse", "diagonal", "products", "gamma", "count"):
            setattr(self, name, getattr(self, name)[rows])
