"""Thresholds from other rows: the best ones, never the target's own; what their advantage is worth without a leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.loss_threshold import Config, LossThreshold
from attacks.membership_findings import Case, advantages, findings_of
from attacks.membership_statistics import best_threshold
from attacks.membership_thresholds import OtherThresholds, with_thresholds
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.types import Release
from fedsim.seeding import numpy_stream
from tests.reference.membership import toy


def case(seed: int, shift: float = 0.0, pairs: int = 6, records: int = 40) -> Case:
    values, members, labels = toy(shift, pairs, records, seed)
    threat = LossThreshold(Config()).threat
    return Case("some", "score", threat, Release.CLIENT_SETS, values, members, labels, np.zeros(2 * pairs))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 1000]))
def test_they_are_the_best_of_the_rows_of_other_pairs_ties_among_them(seed: int, levels: int) -> None:
    one = case(seed, 0.5, 4, 12)
    scores = np.round(one.scores * levels / 6) / levels
    found = OtherThresholds(scores)(one.members)
    for row in range(8):
        other = np.arange(8) // 2 != row // 2
        assert found[row] == best_threshold(scores[other].ravel(), one.members[other].ravel())


def test_where_nothing_leaks_t_over_pairs_covers_too_little_and_the_findings_interval_enough() -> None:
    """The members of a pair are in the thresholds of all others."""
    audits, by_t, by_jackknife, rejected = 60, 0, 0, 0
    for seed in range(audits):
        one = with_thresholds(case(seed, pairs=8), 19, "some")
        interval = over_pairs(advantages(one.scores, one.members, one.thresholds))
        by_t += interval.low <= 0 <= interval.high
        found = next(finding for finding in findings_of(one, None) if finding.metric == "advantage")
        by_jackknife += found.estimate.low <= 0 <= found.estimate.high
        rejected += found.p <= 0.1
    assert by_t / audits < 0.9
    assert by_jackknife / audits > 0.94
    assert rejected <= 13  # of 60 at .1; more has probability .003


def test_a_leak_is_found_and_too_few_pairs_are_not_tested() -> None:
    one = with_thresholds(case(0, 2.0, 6, 100), 99, "some")
    found = {finding.metric: finding for finding in findings_of(one, "advantage")}
    assert found["advantage"].p == 0.01
    assert found["advantage"].estimate.low > 0
    assert found["advantage"].estimate.method == "t over pairs, jackknife"
    assert found["auc"].estimate.method == "t over pairs"  # no score uses the members of another run
    few = with_thresholds(replace(case(0, 2.0, 4, 100)), 19, "some")
    assert few.null_advantage is None
    assert all(finding.p is None for finding in findings_of(few, None))


def test_the_same_rows_are_drawn_every_time() -> None:
    first, second = (with_thresholds(case(3), 19, "some").null_advantage for _ in range(2))
    assert np.array_equal(first, second)
    other = numpy_stream(0, "other", "membership rows")
    assert other.random() != numpy_stream(0, "some", "membership rows").random()
