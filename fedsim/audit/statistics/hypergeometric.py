"""How many of s drawn records are members: exact, given how many members each class of the pool holds.

    T = Σ_c X_c        X_c ~ Hyp(N_c, M_c, s_c) independent: where membership was drawn at random within the classes
    p = P[T ≥ t]

    N_c   records of the pool in class c        M_c   members among them
    s_c   distinct records drawn of class c     t     members among all drawn

It tests a release that hands out records (the records nearest to it are drawn), and extraction.

Source  the hypergeometric distribution (Fisher's exact test); the law of T is the convolution over classes.
Code    none read.
Cost    Σ s_c × Σ s_c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import gammaln

from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Estimate
from fedsim.types import UserError


@dataclass(frozen=True)
class Drawn:
    """Members among the records drawn."""

    share: Estimate
    """t/s with Clopper-Pearson's interval: of trials as if each record drawn were a member or not by itself."""
    expected: float
    """Σ s_c M_c/N_c: members drawn where nothing leaks."""
    p: float
    """Exact, one-sided; 0 where it is below the smallest floating-point number."""


def drawn_members(
    members_drawn: int, drawn: Sequence[int], members: Sequence[int], pool: Sequence[int], level: float = 0.95
) -> Drawn:
    """The test; `drawn`, `members` and `pool` are counts by class (one class: lists of one)."""
    law = members_law(drawn, members, pool)
    total = sum(drawn)
    least = sum(max(0, s - (n - m)) for s, m, n in zip(drawn, members, pool, strict=True))
    most = sum(min(s, m) for s, m in zip(drawn, members, strict=True))
    if total == 0 or not least <= members_drawn <= most:
        raise UserError(f"members_drawn: got {members_drawn} of {total} drawn; valid: {least} … {most} in these "
                        "classes, at least one record drawn")  # fmt: skip
    p = min(1.0, float(np.sort(law[members_drawn:]).sum()))  # the small ones first
    expected = sum(s * m / n for s, m, n in zip(drawn, members, pool, strict=True) if n)
    return Drawn(clopper_pearson(members_drawn, total, level), expected, p)


def members_law(drawn: Sequence[int], members: Sequence[int], pool: Sequence[int]) -> Float64[np.ndarray, "counts"]:
    """P[T = 0], …, P[T = Σ s_c]."""
    if not (len(drawn) == len(members) == len(pool) >= 1) or not all(
        0 <= s <= n and 0 <= m <= n for s, m, n in zip(drawn, members, pool, strict=True)
    ):
        raise UserError(f"counts by class: got drawn {list(drawn)}, members {list(members)}, pool {list(pool)}; valid: "
                        "as many of each, drawn and members at most the pool")  # fmt: skip
    law = np.ones(1)
    for s, m, n in zip(drawn, members, pool, strict=True):
        law = np.convolve(law, _one_class(s, m, n))
    return law


def _one_class(drawn: int, members: int, pool: int) -> Float64[np.ndarray, "counts"]:
    """C(M, x) C(N − M, s − x) / C(N, s) for x = 0 … s; 0 where x cannot be."""
    counts = np.arange(drawn + 1)
    possible = (counts <= members) & (drawn - counts <= pool - members)
    x = counts[possible]
    law = np.zeros(drawn + 1)
    law[possible] = np.exp(_log_choose(members, x) + _log_choose(pool - members, drawn - x) - _log_choose(pool, drawn))
    return law


def _log_choose(n: int, k: np.ndarray | int) -> np.ndarray:
    return np.asarray(gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(n - np.asarray(k) + 1))
