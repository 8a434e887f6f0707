"""Pieces of a condensation of several owners: how many pass through a network at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

PIECE = 1024
"""Most rows of several owners that pass together where no chunk is set: bounds the one-hot matrix of class sums."""


@dataclass(frozen=True)
class Piece:
    """Rows of whole owners: their part of a loss that is a sum over owners and classes stands by itself."""

    rows: slice
    """Synthetic images, consecutive."""
    segments: slice
    """Their (owner, class) segments, consecutive."""
    labels: Int64[Tensor, "m"]
    """Segment of each row, counted from the piece's first; modulo k it is the class."""
    budget: Int64[Tensor, "s"]
    """Rows of each segment."""

    @cached_property
    def present(self) -> Int64[Tensor, "q"]:
        """Segments with a budget, ascending."""
        return torch.nonzero(self.budget).flatten()


def whole_owners(budget: Int64[Tensor, "s"], num_classes: int, most: int, device: torch.device) -> list[Piece]:
    """Consecutive owners of `num_classes` segments each, as many as have at most `most` rows, or one that has more.

    `budget` lies on the CPU, the pieces' tensors on `device`.
    """
    per_owner = budget.view(-1, num_classes).sum(1).tolist()
    groups: list[list[int]] = [[]]
    for owner, rows in enumerate(per_owner):
        if groups[-1] and sum(per_owner[one] for one in groups[-1]) + rows > most:
            groups.append([])
        groups[-1].append(owner)
    pieces, start = [], 0
    for group in groups:
        segments = slice(group[0] * num_classes, (group[-1] + 1) * num_classes)
        own = budget[segments]
        labels = torch.repeat_interleave(torch.arange(len(own)), own)
        pieces.append(Piece(slice(start, start + len(labels)), segments, labels.to(device), own.to(device)))
        start += len(labels)
    return pieces
