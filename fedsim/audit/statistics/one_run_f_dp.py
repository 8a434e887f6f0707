"""Lower bounds from one run that **assume a trade-off curve f**: sharper for Gaussian noise, and no test of (ε, δ).

    r_v = α v/m,  h_v = α (r − v)/m                                   v right of r guesses, significance α
    h_i = max(h_{i+1}, f̄⁻¹(r_{i+1}))                                  i = v − 1, …, 0
    r_i = r_{i+1} + i/(r − i) · (h_i − h_{i+1})
    f-DP is refuted at level α where r_0 + h_0 > r/m

    f̄(x) = 1 − f(x): the most that an event of probability x can have on a neighbour
    μ-Gaussian DP: f̄⁻¹(x) = Φ(Φ⁻¹(x) − μ); μ_LB = sup { μ refuted }, ε_LB = ε(μ_LB, δ)

A mechanism that is (ε, δ)-DP without being Gaussian can have its true ε below ε_LB: honest randomised response has. So
the bound is compared with a mechanism's own μ (or its own curve), and contradicts no accountant.

Source  Mahloujifar, Melis, Chaudhuri, "Auditing f-Differential Privacy in One Run", ICML 2025, arXiv 2410.22235.
Code    google-deepmind/jax_privacy `auditing.py` (Apache-2.0), read for its conventions; its test constants are met.
Differs the search is over μ, and any f̄⁻¹ can be handed in.
Cost    at most v steps for each μ that is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr, ndtri

from fedsim.audit.statistics.inputs import check_probability
from fedsim.audit.statistics.one_run import Guesses, largest_refuted
from fedsim.audit.statistics.one_run_guesses import Bound, best_bound, frontier_guesses

ASSUMPTION = "assumes trade-off f: Gaussian"
"""What stands beside every number from here."""

Curve = Callable[[float], float]
"""f̄⁻¹, from [0, 1] to [0, 1], not falling."""


def refutes_curve(guesses: Guesses, inverse: Curve, significance: float) -> bool:
    """Whether so many right guesses refute f-DP for the f with this f̄⁻¹."""
    m, made, right = guesses.canaries, guesses.made, guesses.right
    enough = made / m
    r, h = significance * right / m, significance * (made - right) / m
    for i in range(right - 1, -1, -1):
        raised = max(h, inverse(r))
        if raised == h:  # then neither h nor r moves again
            break
        r, h = min(1.0, r + i / (made - i) * (raised - h)), raised
        if r + h > enough:  # neither falls
            return True
    return r + h > enough


def gaussian_curve(mu: float) -> Curve:
    """f̄⁻¹ of μ-Gaussian DP."""
    return lambda x: float(ndtr(ndtri(x) - mu))


def pure_curve(epsilon: float) -> Curve:
    """f̄⁻¹ of (ε, 0)-DP: f̄(x) = min(e^ε x, 1 − e^−ε (1 − x))."""
    return lambda x: max(math.exp(-epsilon) * x, 1 - math.exp(epsilon) * (1 - x))


def gaussian_bound(guesses: Guesses, significance: float = 0.05) -> float:
    """μ_LB; 0 where nothing is refuted. ε: `fedsim.privacy.accountant.epsilon_of(μ, δ)`. Assumes trade-off f."""
    check_probability("significance", significance)
    return largest_refuted(lambda mu: _refuted(guesses, mu, significance))


def gaussian_frontier_bound(
    scores: Float[np.ndarray, "m"], included: Bool[np.ndarray, "m"], significance: float = 0.05
) -> Bound:
    """The best μ_LB over the thresholds of the Pareto frontier (`one_run_guesses`). Assumes trade-off f."""
    check_probability("significance", significance)
    guesses = frontier_guesses(scores, included)
    return best_bound(guesses, len(guesses), _refuted, significance)


def _refuted(guesses: Guesses, mu: float, significance: float) -> bool:
    return refutes_curve(guesses, gaussian_curve(mu), significance)
