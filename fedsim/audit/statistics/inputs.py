"""What the statistics accept, and what they answer where there is too little to say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedsim.types import UserError

Scores = Float[np.ndarray, "_n"]
"""One score per record; more means more like a member."""


@dataclass(frozen=True)
class TooFew:
    """In the place of a number that so little data cannot carry: `INCONCLUSIVE` on the card, with this as its note."""

    what: str
    """What there is too little of."""
    got: float
    needed: float

    def __str__(self) -> str:
        return f"too few {self.what}: {self.got:g}, and {self.needed:g} are needed"


def check_level(level: float) -> None:
    """Coverage of an interval: at least one half, so that the estimate itself lies in it."""
    if not 0.5 <= level < 1:
        raise UserError(f"level: got {level}; valid: at least 0.5 and below 1, such as 0.95")


def check_probability(name: str, value: float) -> None:
    """A number strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"{name}: got {value}; valid: above 0 and below 1")


def check_counts(successes: int, n: int) -> None:
    """So many of n."""
    if not (n >= 1 and 0 <= successes <= n):
        raise UserError(f"counts: got {successes} of {n}; valid: 0 ≤ successes ≤ n, n at least 1")


def check_scores(name: str, scores: Scores) -> None:
    """At least one score, and no NaN (infinite ones are ranked like others)."""
    if len(scores) == 0 or bool(np.isnan(scores).any()):
        raise UserError(f"{name}: got {len(scores)} scores, {int(np.isnan(scores).sum())} of them NaN; "
                        "valid: at least one, none NaN; leave out what could not be scored, and say so")  # fmt: skip
