"""What releases with Gaussian noise cost: (ε, δ) of any number of them, and the noise for a target ε.

    all records in every release (q = 1)     μ² = Σ_j 1/z_j²                      exactly μ-Gaussian DP
                                             δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)
    each record with probability q < 1       the composed privacy loss of the subsampled Gaussian, by Opacus

    z   noise multiplier: noise deviation over the sensitivity under the adjacency in question
    n   equal releases: μ = √n / z           Φ   standard normal distribution function

Under `add_remove` neighbours differ by one record, and z is σ. Under `replace` one record has another value; the sum
then moves by at most twice as much, and z is σ/2.

Source  μ-Gaussian DP, its composition and δ(ε): Dong, Roth, Su, "Gaussian Differential Privacy", JRSS B 2022, arXiv
        1905.02383. PRV: Gopi, Lee, Wutschitz, "Numerical Composition of Differential Privacy", NeurIPS 2021, arXiv
        2106.02848. RDP of the sampled Gaussian: Mironov, Talwar, Zhang, arXiv 1908.10530.
Code    opacus 1.6 (Apache-2.0): its PRV and RDP accountants are called.
Differs the central limit approximation of Gaussian DP for q < 1 is not offered: it lies below PRV in several cases that
        were computed. Where PRV cannot be computed the answer comes from RDP, which is larger, and says so. Replacement
        is accounted at q = 1 only: that a Poisson sample with z = σ/2 dominates it under composition is not shown.
        PRV's error of ε is Opacus's 0.01, always added: for targets below about 0.1 noise is larger than it need be.
Cost    q = 1: none. q < 1: a tenth of a second to some seconds for PRV, ten times that for `noise_for`.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.special import erfcx, ndtr

from fedsim.types import UserError

Adjacency = Literal["add_remove", "replace"]
"""What one record more or less means: there or not, or another value in its place."""

Method = Literal["gaussian", "prv", "rdp"]
"""How an ε was computed: exactly, or by one of Opacus's accountants."""

ITERATIONS = 200
"""Most halvings of a bisection; it ends before, where two floating-point numbers are neighbours."""

PRECISION = 1e-3
"""Relative precision of a noise multiplier that is found through Opacus."""

LIMIT = 100
"""Largest ε, by RDP, for which PRV is asked: its time and memory grow with ε."""


@dataclass(frozen=True)
class Releases:
    """`number` releases of a sum with Gaussian noise."""

    sigma: float
    """σ: noise deviation over the sensitivity under `add_remove`."""
    number: int = 1
    """n."""
    rate: float = 1.0
    """q: probability with which each record takes part in a release, independently; public and the same for all."""

    def __post_init__(self) -> None:
        _within("sigma", self.sigma, 0 < self.sigma < math.inf, "more than 0 and finite")
        _within("number", self.number, self.number >= 1, "at least 1")
        _within("rate", self.rate, 0 < self.rate <= 1, "more than 0 and at most 1")


@dataclass(frozen=True)
class Guarantee:
    """(ε, δ)-differential privacy under an adjacency."""

    epsilon: float
    delta: float
    adjacency: Adjacency
    method: Method
    """How ε was computed."""
    note: str = ""
    """Why it was not computed by the sharper method."""


def delta_of(mu: float, epsilon: float) -> float:
    """δ(ε) of μ-Gaussian DP.

    e^ε Φ(b) = φ(a) Φ(b)/φ(b) for a, b = −ε/μ ± μ/2, and Φ(x)/φ(x) is erfcx(−x/√2) √(π/2): nothing overflows, and
    nothing cancels where both terms are tails.
    """
    if mu == 0:
        return 0.0
    a, b = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
    density = math.exp(-a * a / 2) / 2  # φ(a) √(π/2)
    if a <= 0:
        return float(density * (erfcx(-a / math.sqrt(2)) - erfcx(-b / math.sqrt(2))))
    return float(ndtr(a) - density * erfcx(-b / math.sqrt(2)))


def epsilon_of(mu: float, delta: float) -> float:
    """The smallest ε ≥ 0 with δ(ε) ≤ δ, from above."""
    _check_delta(delta)
    if delta_of(mu, 0.0) <= delta:
        return 0.0
    most = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # there Φ(a), and so δ(ε), is at most δ
    return _boundary(lambda epsilon: delta_of(mu, epsilon) <= delta, 0.0, most)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest μ whose δ(ε) is at most δ, from below."""
    _check_target(epsilon, delta)
    most = 1.0
    while delta_of(most, epsilon) <= delta:
        most *= 2
    return -_boundary(lambda negative: delta_of(-negative, epsilon) <= delta, -most, 0.0)


def guarantee(releases: Sequence[Releases], delta: float, adjacency: Adjacency = "add_remove") -> Guarantee:
    """What all of them together guarantee; later ones may have been chosen by the results of earlier ones."""
    _check_delta(delta)
    if all(one.rate == 1 for one in releases):
        half = 2 if adjacency == "replace" else 1
        mu = half * math.sqrt(math.fsum(one.number / one.sigma**2 for one in releases))
        return Guarantee(epsilon_of(mu, delta), delta, adjacency, "gaussian")
    if adjacency == "replace":
        raise UserError("adjacency: got replace with a sample rate below 1; valid: replace with all records in every "
                        "release (rate 1), or add_remove")  # fmt: skip
    alike: Counter[tuple[float, float]] = Counter()  # equal ones at once: the same ε in whatever rounds they were made
    for one in releases:
        alike[one.sigma, one.rate] += one.number
    history = [(sigma, rate, number) for (sigma, rate), number in alike.items()]
    if (simple := _opacus("rdp", history, delta)) > LIMIT:
        return Guarantee(simple, delta, adjacency, "rdp", f"beyond ε = {LIMIT} PRV takes minutes; RDP, which is larger")
    try:
        return Guarantee(_opacus("prv", history, delta), delta, adjacency, "prv")
    except (ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
        note = f"PRV failed ({' '.join(str(error).split())[:120]}); RDP, which is larger"
        return Guarantee(simple, delta, adjacency, "rdp", note)


@cache  # a run asks in several places, and the search takes seconds
def noise_for(
    epsilon: float, delta: float, number: int = 1, rate: float = 1.0, adjacency: Adjacency = "add_remove"
) -> float:
    """A σ, as small as can be found, with which `number` releases are (ε, δ)-differentially private.

    At q = 1 to the last digits; else to a relative `PRECISION`, from above.
    """
    _check_target(epsilon, delta)
    Releases(1.0, number, rate)  # its ranges
    if rate == 1:
        sigma = math.sqrt(number) / mu_of(epsilon, delta) * (2 if adjacency == "replace" else 1)
        while guarantee([Releases(sigma, number)], delta, adjacency).epsilon > epsilon:  # rounding alone
            sigma *= 1 + 1e-12
        return sigma

    def enough(sigma: float) -> bool:
        return guarantee([Releases(sigma, number, rate)], delta, adjacency).epsilon <= epsilon

    most = 1.0
    while not enough(most):
        most *= 2
        if most > 2**20:
            raise UserError(f"epsilon: got {epsilon}; no noise multiplier up to {most:.0f} reaches it with this "
                            "accountant; give a larger epsilon")  # fmt: skip
    return _boundary(enough, 0.0, most, PRECISION)


def _boundary(enough: Callable[[float], bool], below: float, above: float, precision: float = 0.0) -> float:
    """By bisection where `enough` begins to hold; it holds for what is returned. `enough(above)` holds."""
    for _ in range(ITERATIONS):
        middle = (below + above) / 2
        if not below < middle < above or above - below <= precision * abs(above):
            break
        below, above = (below, middle) if enough(middle) else (middle, above)
    return above


def _opacus(kind: Literal["prv", "rdp"], history: list[tuple[float, float, int]], delta: float) -> float:
    """ε by an accountant of Opacus; an answer that is no number ≥ 0 is an ArithmeticError."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # log(0) of PRV at q = 1, and hints on orders of RDP
        from opacus.accountants import create_accountant

        accountant = create_accountant(kind)
        accountant.history = history
        epsilon = float(accountant.get_epsilon(delta))
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ArithmeticError(f"ε = {epsilon}")
    return epsilon


def _check_delta(delta: float) -> None:
    _within("delta", delta, 0 < delta < 1, "more than 0 and less than 1")


def _check_target(epsilon: float, delta: float) -> None:
    _within("epsilon", epsilon, 0 < epsilon < math.inf, "more than 0 and finite")
    _check_delta(delta)


def _within(name: str, value: float, inside: bool, valid: str) -> None:
    if not inside:
        raise UserError(f"{name}: got {value}; valid: {valid}")
