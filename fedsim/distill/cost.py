"""What a method costs, in images through a network: the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """Images through a network: the unit of what a method costs."""

    forward: float = 0.0
    """Forward alone."""
    backward: float = 0.0
    """Forward and backward."""

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def times(self, factor: float) -> Passes:
        """So often."""
        return Passes(self.forward * factor, self.backward * factor)

    def flops(self, each: float) -> float:
        """Operations, `each` per image and forward pass; a backward pass costs two forward ones."""
        return each * (self.forward + 3 * self.backward)
