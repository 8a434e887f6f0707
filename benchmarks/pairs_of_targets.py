"""Is Student's t over pairs of targets valid for RMIA and the loss threshold where nothing leaks?

    python benchmarks/pairs_of_targets.py        one table: share of audits rejected at .05, and coverage of .95 intervals

Values of a record in a run are its difficulty and noise, whoever is a member; rows are complementary pairs. A target's
threshold is the best of all other rows but its complement, as the attacks take it. Beside t stands what the finding says:
p of drawn rows and a jackknife's interval for the advantage, t for the AUC. Nothing is trained. LiRA: attacks/lira.py.
"""

from __future__ import annotations

import argparse

import numpy as np

from attacks.loss_threshold import Config, LossThreshold
from attacks.membership_findings import Case, advantages, findings_of
from attacks.membership_randomisation import areas
from attacks.membership_thresholds import with_thresholds
from attacks.rmia import relative_scores
from fedsim.audit.statistics.pairs import over_pairs, pairs_p_value
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Estimate, Release
from fedsim.data.membership import Pool
from fedsim.seeding import numpy_stream

PUBLIC = 60


def audit(attack: str, pairs: int, records: int, spread: float, seed: int, draws: int) -> Case:
    """One audit in which nothing leaks; `spread` is that of the difficulties."""
    rng, labels = numpy_stream(seed, attack, pairs), np.arange(records) % 2
    pool = Pool(0, np.arange(records), labels, seed)
    members = np.stack([pool.members(row) for row in range(2 * pairs)])
    values = spread * rng.normal(size=records) + rng.normal(size=members.shape)
    public = spread * rng.normal(size=PUBLIC) + rng.normal(size=(2 * pairs, PUBLIC))
    if attack == "rmia":
        values, public = 1 / (1 + np.exp(-values)), 1 / (1 + np.exp(-public))
    if attack == "rmia":
        scores = []
        for row in range(2 * pairs):
            other = np.arange(2 * pairs) // 2 != row // 2
            scores.append(relative_scores(values[row], values[other], public[row], public[other], 1.0))
        values = np.stack(scores)
    return with_thresholds(blank(attack, values, members, labels), draws, attack)


def blank(attack: str, values: np.ndarray, members: np.ndarray, labels: np.ndarray) -> Case:
    """A case without thresholds."""
    threat = LossThreshold(Config()).threat
    return Case(attack, "score", threat, Release.CLIENT_SETS, values, members, labels, np.zeros(len(values)))


def simulated(attack: str, pairs: int, options: argparse.Namespace, spread: float) -> dict[str, list[int]]:
    """(rejected at .05 by t, covered by t's .95 interval, rejected by drawn rows, covered by the jackknife's)."""
    found = {"auc": [0, 0, 0, 0], "advantage": [0, 0, 0, 0]}
    for seed in range(options.audits):
        case = audit(attack, pairs, options.records, spread, seed, options.draws)
        by_t = {"auc": areas(case.scores, case.members),
                "advantage": advantages(case.scores, case.members, case.thresholds)}  # fmt: skip
        for one in findings_of(case, None):
            if one.metric not in found or one.estimate is None or one.null is None:
                continue
            p, interval = pairs_p_value(by_t[one.metric], one.null), over_pairs(by_t[one.metric])
            assert isinstance(p, float)
            assert isinstance(interval, Estimate)
            hits = (p <= 0.05, interval.low <= one.null <= interval.high, (one.p or 1.0) <= 0.05,
                    one.estimate.low <= one.null <= one.estimate.high)  # fmt: skip
            found[one.metric] = [count + hit for count, hit in zip(found[one.metric], hits, strict=True)]
    return found


def main() -> None:
    """One row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--draws", type=int, default=99)
    options = parser.parse_args()
    print(
        "| attack | metric | pairs | spread | t rejects at .05 | t covers | the finding rejects | its interval covers |"
    )
    print("| --- | --- | --: | --: | --- | --- | --- | --- |")
    for attack in ("loss_threshold", "rmia"):
        for pairs in (5, 8, 16):
            for spread in (0.3, 3.0):
                for metric, counts in simulated(attack, pairs, options, spread).items():
                    told = [clopper_pearson(count, options.audits) for count in counts]
                    shown = " | ".join(f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in told)
                    print(f"| {attack} | {metric} | {pairs} | {spread:g} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
