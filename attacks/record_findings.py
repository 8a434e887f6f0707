"""Findings of attacks on records: who attacks, and one number per target against its values under drawn rows.

    p = (1 + #{ T_b ≥ T })/(1 + B)        smallest value found  =  q_.95(T_b) + z_.80 sd(T_b)

    T   mean over targets        T_b   the same with the membership rows drawn anew as they were

The smallest value takes the spread without a leak for the one with it. Intervals are Student's t over pairs of
targets; with fewer than five pairs they are what the spread of T_b makes them, and the test stays exact.

Source  Phipson, Smyth, "Permutation p-values should never be zero", SAGMB 9, 2010.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.statistics.power import POWER
from fedsim.audit.types import Estimate, Finding, Knowledge, Release, Status, ThreatModel

LEVEL = 0.95
"""Coverage of intervals, and one minus the level of the test that a smallest value is for."""
SHARED = "about the records of this pool, which all runs share"


def curious_server(*knows: Knowledge) -> ThreatModel:
    """The server reads what the client sends; it holds candidates, and what `knows` adds."""
    return ThreatModel(
        name="curious_server", position="server", behaviour="passive", sees=frozenset({Release.CLIENT_SETS}),
        knows=frozenset({Knowledge.CANDIDATES, *knows}),
    )  # fmt: skip


def over_targets(
    finding: Finding,
    values: Float64[np.ndarray, "targets"],
    null: Float64[np.ndarray, "draws"],
    bounds: tuple[float, float] | None = None,
) -> Finding:
    """`finding` with estimate, p and the smallest value that would be found; `values` are finite, a target each."""
    value, spread = float(values.mean()), float(null.std(ddof=1))
    margin = 1e-9 * max(abs(value), float(np.abs(null).max()))  # a sum taken in another order is no evidence
    p = (1 + int((null >= value - margin).sum())) / (1 + len(null))
    least = float(np.quantile(null, LEVEL)) + float(ndtri(POWER)) * spread
    estimate, note = over_pairs(values, LEVEL, bounds), SHARED
    if isinstance(estimate, TooFew):
        note = f"{estimate}; the interval is the spread of the statistic without a leak; {SHARED}"
        estimate = _by_spread(value, spread, len(values) // 2, bounds)
    details = {**finding.details, "targets": values.tolist(), "null_mean": float(null.mean()), "null_deviation": spread}
    return replace(
        finding, estimate=estimate, p=p, note=note, status=Status.MEASURED, details=details,
        minimum_detectable=least if bounds is None or least <= bounds[1] else None,
    )  # fmt: skip


def _by_spread(value: float, spread: float, pairs: int, bounds: tuple[float, float] | None) -> Estimate:
    half = float(ndtri((1 + LEVEL) / 2)) * spread
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    ends = max(low, value - half), min(high, value + half)
    return Estimate(value, *ends, LEVEL, "normal, spread of drawn rows", pairs)
