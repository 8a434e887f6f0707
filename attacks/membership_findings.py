"""Findings of a membership attack over all targets: AUC, TPR at a small FPR, balanced advantage.

    AUC          within each target
    TPR at α     share of a target's members above one threshold for all targets: the lowest that at most α of all
                 non-members' scores lie above; α times their number must be at least 10
    advantage    2 (balanced accuracy − ½) = TPR − FPR of each target, at a threshold chosen without it

Every number is a mean over targets; rows 2j and 2j + 1 are one piece, and there must be five of them. Interval and test
are Student's t over pairs. Where scores (`Case.left_out`) or thresholds (`Case.left_thresholds`) use members of other
runs, pairs are not independent: the interval is then a jackknife's, which leaves each pair out of everything, and the
p-value that of drawn rows (`Case.null`, `Case.null_advantage`).
All rows share one pool: what is found is about its records.

Fewer pairs are `INCONCLUSIVE`: DeLong's and Clopper-Pearson's intervals over all scores at once only describe them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from attacks.membership_randomisation import areas
from fedsim.audit.statistics.auc import delong
from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import LEAST_PAIRS, over_pairs, pair_means, pairs_p_value
from fedsim.audit.statistics.power import detectable_mean
from fedsim.audit.statistics.roc import advantage, roc_points, tpr_at_fpr
from fedsim.audit.types import Estimate, Finding, Release, Status, ThreatModel, Truth
from fedsim.types import UserError

ALPHAS = (0.01, 0.001)
"""FPRs at which the TPR is read."""
SHARE = 0.01
"""Share of records that are named as those of highest risk; at least ten, where there are so many."""

Metric = Callable[[Float[np.ndarray, "rows n"], Bool[np.ndarray, "rows n"], Float[np.ndarray, "rows"]], np.ndarray]
"""(scores, members, thresholds) → one number per row."""


@dataclass(frozen=True)
class Case:
    """One statistic of one attack, over all targets."""

    attack: str
    statistic: str
    threat: ThreatModel
    release: Release
    scores: Float[np.ndarray, "rows n"]
    """Of every target, large for members."""
    members: Bool[np.ndarray, "rows n"]
    labels: Int[np.ndarray, "n"]
    thresholds: Float[np.ndarray, "rows"]
    """Of every target, chosen without it."""
    null: Float64[np.ndarray, "draws"] | None = None
    """Mean AUC under drawn rows; None: no score uses the members of another run."""
    left_out: Sequence[Float[np.ndarray, "kept n"]] | None = None
    """Scores of the other runs with each pair left out of everything; None as above."""
    null_advantage: Float64[np.ndarray, "draws"] | None = None
    """Mean advantage under drawn rows; None: no threshold uses the members of another run, or there is no test."""
    left_thresholds: Sequence[Float[np.ndarray, "kept"]] | None = None
    """Thresholds of the other runs with each pair left out of everything; None: as they are."""

    def null_of(self, metric: str) -> Float64[np.ndarray, "draws"] | None:
        """The values of a metric under drawn rows, where it has such."""
        return {"auc": self.null, "advantage": self.null_advantage}.get(metric)


def rows_of(truths: Sequence[Truth]) -> tuple[Bool[np.ndarray, "rows n"], Int[np.ndarray, "n"]]:
    """Members of every row, and labels. `UserError` unless the rows are complementary pairs over one pool."""
    members, labels = stacked(truths, "members").astype(bool), np.asarray(truths[0]["labels"])
    paired = len(members) % 2 == 0 and bool((members[::2] == ~members[1::2]).all())
    if not paired or any(not np.array_equal(truth["labels"], labels) for truth in truths):
        raise UserError(
            f"truths: got {len(members)} rows; valid: rows 2j and 2j + 1 each other's complement, all with the same "
            "labels; give the targets in the order of the audit's rows"
        )
    return members, labels


def stacked(scores: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """An array of every target, one row each."""
    return np.stack([np.asarray(one[name]) for one in scores])


def findings_of(case: Case, confirmatory: str | None, details: Mapping[str, Any] | None = None) -> list[Finding]:
    """AUC, TPR at every α, advantage; `confirmatory` names the registered metric, `details` go with the AUC."""
    found = [_auc(case, details or {}), *(_tpr(case, alpha) for alpha in ALPHAS), _advantage(case)]
    return [replace(one, confirmatory=one.metric == confirmatory) for one in found]


def _auc(case: Case, details: Mapping[str, Any]) -> Finding:
    def metric(scores: Any, members: Any, _: Any) -> np.ndarray:
        return areas(scores, members)

    more = {"per_class": _classes(case), "highest_risk": _highest(case), "roc": _curve(case), **details}
    return _finding(case, metric, "auc", 0.5, (0.0, 1.0), lambda: delong(*_sides(case.scores, case.members)), more)


def _tpr(case: Case, alpha: float) -> Finding:
    def metric(scores: Any, members: Any, _: Any) -> np.ndarray:
        point = tpr_at_fpr(*_sides(scores, members), alpha)
        return np.array([]) if isinstance(point, TooFew) else _share(scores > point.threshold, members)

    name, whole = f"tpr_at_fpr_{alpha:g}", tpr_at_fpr(*_sides(case.scores, case.members), alpha)
    if isinstance(whole, TooFew):
        return _blank(case, name, alpha, None, str(whole), {})
    more = {"threshold": whole.threshold, "fpr": whole.false_positive_rate}
    return _finding(case, metric, name, alpha, (0.0, 1.0), lambda: whole.true_positive_rate, more, test=False)


def _advantage(case: Case) -> Finding:
    def metric(scores: Any, members: Any, thresholds: Any) -> np.ndarray:
        return advantages(scores, members, thresholds)

    above = case.scores - case.thresholds[:, None]
    more = {"thresholds": case.thresholds.tolist()}
    return _finding(
        case, metric, "advantage", 0.0, (-1.0, 1.0), lambda: advantage(*_sides(above, case.members), 0.0).estimate,
        more, test=case.null is None or case.null_advantage is not None,
    )  # fmt: skip


def _finding(
    case: Case,
    metric: Metric,
    name: str,
    null: float,
    bounds: tuple[float, float],
    pooled: Callable[[], Estimate],
    details: dict[str, Any],
    *,
    test: bool = True,
) -> Finding:
    """Over pairs; with too few of them what is known of all scores at once."""
    values = metric(case.scores, case.members, case.thresholds)
    details = {"targets": values.tolist(), **details}
    if len(case.members) < 2 * LEAST_PAIRS:
        few = f"too few pairs of targets: {len(case.members) // 2}, and {LEAST_PAIRS} are needed; the interval takes "
        return _blank(case, name, null, pooled(), few + "all scores as independent", details)
    pieces = _pieces(case, metric, values)
    if pieces is None:
        return _blank(case, name, null, pooled(), "too few scores with a pair left out", details)
    estimate, deviation = _interval(pieces, values, bounds), float(pieces.std(ddof=1))
    p: float | None = None
    drawn = case.null_of(name)
    if test and drawn is not None:
        p = (1 + int((drawn >= values.mean() - 1e-12).sum())) / (1 + len(drawn))
        deviation = float(drawn.std(ddof=1)) * np.sqrt(len(pieces))
    elif test:
        tested = pairs_p_value(values, null)
        p = None if isinstance(tested, TooFew) else tested
    least = null + detectable_mean(deviation, len(pieces))
    found = _blank(case, name, null, estimate, "", details)
    note = "about the records of this pool, which all runs share"
    return replace(
        found, p=p, minimum_detectable=least if least <= bounds[1] else None, status=Status.MEASURED, note=note
    )


def _pieces(case: Case, metric: Metric, values: Float64[np.ndarray, "rows"]) -> Float64[np.ndarray, "pairs"] | None:
    """One number per pair whose mean and spread are those of the metric: pair means, or a jackknife's values."""
    if case.left_out is None and case.left_thresholds is None:
        return pair_means(values)
    pair, left = np.arange(len(case.members)) // 2, []
    for index in range(len(case.members) // 2):
        kept = pair != index
        scores = case.scores[kept] if case.left_out is None else case.left_out[index]
        thresholds = case.thresholds[kept] if case.left_thresholds is None else case.left_thresholds[index]
        rest = metric(scores, case.members[kept], thresholds)
        if not len(rest):
            return None
        left.append(float(rest.mean()))
    pieces = -(len(left) - 1) * np.array(left)
    return pieces - pieces.mean() + values.mean()


def _interval(
    pieces: Float64[np.ndarray, "pairs"], values: Float64[np.ndarray, "rows"], bounds: tuple[float, float]
) -> Estimate:
    plain = np.allclose(pieces, pair_means(values), rtol=0, atol=1e-12) or np.ptp(pieces) < 1e-12
    found = over_pairs(values, bounds=bounds) if plain else over_pairs(np.repeat(pieces, 2))
    assert not isinstance(found, TooFew)  # at least five pairs
    if plain:
        return found
    value = float(values.mean())
    low, high = max(bounds[0], min(found.low, value)), min(bounds[1], max(found.high, value))
    return replace(found, value=value, low=low, high=high, method="t over pairs, jackknife")


def _blank(
    case: Case, metric: str, null: float, estimate: Estimate | None, note: str, details: dict[str, Any]
) -> Finding:
    return Finding(
        id=f"{case.attack}.{case.statistic}.{case.release}.{metric}", attack=case.attack, threat=case.threat.name,
        release=case.release, metric=metric, estimate=estimate, null=null, status=Status.INCONCLUSIVE, note=note,
        details={"statistic": case.statistic, **details},
    )  # fmt: skip


def _sides(scores: Any, members: Any) -> tuple[np.ndarray, np.ndarray]:
    """Members' scores and non-members', of all targets."""
    return scores[members], scores[~members]


def advantages(
    scores: Float[np.ndarray, "rows n"], members: Bool[np.ndarray, "rows n"], thresholds: Float[np.ndarray, "rows"]
) -> Float[np.ndarray, "rows"]:
    """TPR − FPR of every row."""
    above = scores > thresholds[:, None]
    return _share(above, members) - _share(above, ~members)


def _share(above: Bool[np.ndarray, "rows n"], among: Bool[np.ndarray, "rows n"]) -> Float64[np.ndarray, "rows"]:
    return (above & among).sum(1) / among.sum(1)


def _classes(case: Case) -> list[dict[str, float]]:
    """Mean AUC within each class."""
    found = []
    for label in np.unique(case.labels):
        here = case.labels == label
        area = float(areas(case.scores[:, here], case.members[:, here]).mean())
        found.append({"class": int(label), "records": int(here.sum()), "auc": area})
    return found


def _highest(case: Case) -> list[dict[str, float]]:
    """Records that are told best: the share of (run with it, run without it) in which the former scores higher.

    They are the largest of N numbers, so flattering ones.
    """
    told, inside = areas(case.scores.T, case.members.T), case.members
    number = inside.sum(0)  # half of the rows, for every record
    gap = np.where(inside, case.scores, 0).sum(0) / number - np.where(inside, 0, case.scores).sum(0) / number
    most = min(len(told), max(10, round(SHARE * len(told))))
    order = np.lexsort((-gap, -told))[:most]
    return [
        {"record": int(i), "class": int(case.labels[i]), "auc": float(told[i]), "mean_difference": float(gap[i])}
        for i in order
    ]


def _curve(case: Case) -> dict[str, list[float]]:
    false, true = roc_points(*_sides(case.scores, case.members))
    return {"fpr": false.tolist(), "tpr": true.tolist()}
