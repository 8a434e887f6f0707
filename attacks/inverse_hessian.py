"""The limited-memory BFGS inverse Hessian of many problems at once, in its compact form.

    H = γ I + [S  γY] [ R⁻ᵀ (D + γ YᵀY) R⁻¹   −R⁻ᵀ ] [ Sᵀ  ]        γ = s·y / y·y of the newest pair
                      [ −R⁻¹                    0   ] [ γYᵀ ]

    S, Y  the last m steps s and changes of the gradient y, oldest first      R  upper triangle of SᵀY      D  its
    diagonal

−H g is what the two loops over the pairs of Nocedal (1980) give. Here the pairs are read twice a step, by matrix
products over all problems, and everything else is m × m; the loops would read them four times, in 4m small
operations. R⁻¹ is kept instead of R: a new pair adds a column to it, and without the oldest pair it is R⁻¹ without
that row and column.

Which pairs are taken is decided by masks, never by a count that the host would have to wait for: a GPU is not stopped.

Source  Byrd, Nocedal, Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
        Mathematical Programming 63, 1994: the compact form of the inverse BFGS matrix, and its use with m pairs.
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
        self._most = 0
        """No problem holds more pairs than this; rows beyond are not read."""

    def learn(
        self,
        step: Float[Tensor, "a v"],
        change: Float[Tensor, "a v"],
        gradient: Float[Tensor, "a v"],
        moved: Bool[Tensor, "a"],
    ) -> Float[Tensor, "a v"]:
        """Take the pairs of those that moved, if their curvature is positive, and give −H · gradient of each."""
        sy, yy = (step * change).sum(1), (change * change).sum(1)
        takes = moved & (sy > CURVATURE * step.norm(dim=1) * yy.sqrt())
        each, place = torch.arange(len(takes), device=takes.device), self.count % self.length
        self.steps[each, place] = torch.where(takes[:, None], step, self.steps[each, place])
        self.changes[each, place] = torch.where(takes[:, None], change, self.changes[each, place])
        self.gamma = torch.where(takes, sy / yy, self.gamma)
        self.count = self.count + takes
        most = self._most = min(self._most + 1, self.length)
        asked = torch.stack([gradient, change], 1)
        by_step = (asked @ self.steps[:, :most].mT).double()  # a × 2 × most
        by_change = (asked @ self.changes[:, :most].mT).double()
        self._take(takes, each, place, by_step[:, 1], by_change[:, 1])
        inner, outer = self._weights(by_step[:, 0], by_change[:, 0], most)
        newton = torch.baddbmm(-(self.gamma[:, None] * gradient)[:, None], inner[:, None], self.changes[:, :most])
        return torch.baddbmm(newton, outer[:, None], self.steps[:, :most])[:, 0]

    def _take(self, takes: Tensor, each: Tensor, place: Tensor, by_step: Tensor, by_change: Tensor) -> None:
        """The new pair in the oldest one's place: R gains the column Sᵀy, so R⁻¹ gains −R⁻¹ Sᵀy over 1, both by s·y."""
        most, new = self._most, takes[:, None]
        self.inverse[each, place] = self.inverse[each, place] * ~new
        self.inverse[each, :, place] = self.inverse[each, :, place] * ~new
        own = torch.where(takes, by_step[each, place], 1)
        column = -(self.inverse[:, :most, :most] @ by_step[..., None])[..., 0] / own[:, None]
        column[each, place] = 1 / own
        for matrix, values in ((self.inverse, column), (self.products, by_change)):
            matrix[each, :most, place] = torch.where(new, values, matrix[each, :most, place])
        self.products[each, place, :most] = torch.where(new, by_change, self.products[each, place, :most])
        self.diagonal[each, place] = torch.where(takes, own, self.diagonal[each, place])

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
        self._most = self._longest()

    def keep(self, rows: Int64[Tensor, "k"]) -> None:
        """Leave all others out."""
        for name in ("steps", "changes", "inverse", "diagonal", "products", "gamma", "count"):
            setattr(self, name, getattr(self, name)[rows])
        self._most = self._longest()

    def _longest(self) -> int:
        return min(int(self.count.max()), self.length) if len(self.count) else 0
