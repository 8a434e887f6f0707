"""What is said of scores: AUC, TPR at a small FPR with its rule, advantage, details; and when nothing is said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from attacks.lira import Config, LiRA
from attacks.membership_findings import Case, findings_of, rows_of
from fedsim.audit.statistics.pairs import over_pairs, pairs_p_value
from fedsim.audit.types import Finding, Release, Status
from fedsim.seeding import numpy_stream
from fedsim.types import UserError
from tests.reference.membership import area, complementary


def case(shift: float, pairs: int = 5, records: int = 60, seed: int = 0) -> Case:
    """Normal scores, higher by `shift` for members."""
    rng = numpy_stream(seed)
    labels = np.arange(records) % 3
    members = complementary(pairs, labels, rng)
    scores = rng.normal(size=members.shape) + shift * members
    threat = LiRA(Config()).threat
    return Case("some", "score", threat, Release.CLIENT_SETS, scores, members, labels, np.full(2 * pairs, shift / 2))


def by_metric(one: Case, confirmatory: str | None = None) -> dict[str, Finding]:
    return {finding.metric: finding for finding in findings_of(one, confirmatory)}


def test_numbers_are_those_of_the_targets_and_tests_are_over_pairs():
    one = case(1.0)
    found = by_metric(one, "auc")
    targets = [area(scores, members) for scores, members in zip(one.scores, one.members, strict=True)]
    assert found["auc"].details["targets"] == pytest.approx(targets, abs=1e-12)
    assert found["auc"].estimate == over_pairs(np.array(found["auc"].details["targets"]), bounds=(0.0, 1.0))
    assert found["auc"].p == pairs_p_value(np.array(targets), 0.5)
    assert 0.5 < found["auc"].minimum_detectable < found["auc"].estimate.value
    assert [name for name, finding in found.items() if finding.confirmatory] == ["auc"]
    above = one.scores > 0.5
    expected = [above[row][m].mean() - above[row][~m].mean() for row, m in enumerate(one.members)]
    assert found["advantage"].details["targets"] == pytest.approx(expected)
    assert found["advantage"].null == 0.0
    assert {finding.status for finding in (found["auc"], found["advantage"])} == {Status.MEASURED}
    assert found["auc"].id == "some.score.client_sets.auc"


def test_true_positives_need_ten_false_ones():
    """5 pairs of 60 records have 300 non-members' scores: 3 at 1 %."""
    found = by_metric(case(1.0))
    for alpha in ("0.01", "0.001"):
        refused = found[f"tpr_at_fpr_{alpha}"]
        assert (refused.status, refused.estimate, refused.p) == (Status.INCONCLUSIVE, None, None)
        assert "too few" in refused.note
    one = case(3.0, records=240)
    told = by_metric(one)
    first, second = told["tpr_at_fpr_0.01"], told["tpr_at_fpr_0.001"]
    assert second.status is Status.INCONCLUSIVE
    assert first.status is Status.MEASURED
    threshold = np.sort(one.scores[~one.members])[::-1][12]  # 12 of 1200 may lie above
    assert first.details["threshold"] == threshold
    assert first.details["fpr"] == 0.01
    assert first.estimate.value == pytest.approx(float((one.scores[one.members] > threshold).mean()), abs=1e-12)
    assert first.null == 0.01
    assert first.p is None


def test_fewer_than_five_pairs_are_described_and_not_tested():
    found = by_metric(case(1.0, pairs=4, records=600), "auc")
    for name in ("auc", "tpr_at_fpr_0.01", "advantage"):
        assert found[name].status is Status.INCONCLUSIVE
        assert found[name].p is None
        assert found[name].estimate.low < found[name].estimate.value < found[name].estimate.high
        assert found[name].note.startswith("too few pairs of targets: 4, and 5 are needed")
    assert found["auc"].confirmatory


def test_a_randomised_null_takes_the_place_of_the_t_test():
    one = case(0.3)
    auc = by_metric(one)["auc"]
    null = numpy_stream(1).normal(0.5, 0.01, size=99)
    again = by_metric(replace(one, null=null))["auc"]
    assert again.estimate == auc.estimate
    assert again.p == (1 + (null >= auc.estimate.value).sum()) / 100
    assert again.minimum_detectable == pytest.approx(0.5 + 0.01 * 2.8, abs=0.006)  # z.95 + z.80 = 2.5, t₄ more


def test_a_jackknife_of_independent_pairs_is_the_t_interval():
    one = case(1.0, records=300)
    left = [np.delete(one.scores, [2 * pair, 2 * pair + 1], 0) for pair in range(5)]
    plain, jackknife = by_metric(one), by_metric(replace(one, left_out=left))
    for name in ("auc", "advantage"):
        assert jackknife[name].estimate == plain[name].estimate
    assert jackknife["tpr_at_fpr_0.01"].estimate.method == "t over pairs, jackknife"  # its threshold is of all pairs
    off = [scores + (pair == 0) * one.members[2:] for pair, scores in enumerate(left)]
    wider = by_metric(replace(one, left_out=off))["auc"].estimate
    assert wider.value == plain["auc"].estimate.value
    assert wider.high - wider.low > 2 * (plain["auc"].estimate.high - plain["auc"].estimate.low)


def test_complete_separation_has_an_interval():
    one = case(0.0)
    one = replace(one, scores=one.members * 1.0, thresholds=np.full(10, 0.5))
    found = by_metric(replace(one, left_out=[np.delete(one.scores, [2 * pair, 2 * pair + 1], 0) for pair in range(5)]))
    assert found["auc"].estimate.value == found["advantage"].estimate.value == 1.0
    assert found["auc"].estimate.low < 1
    assert found["auc"].p == 1 / 32


def test_details_are_plain_and_name_classes_and_records():
    one = case(0.0, records=60)
    one.scores[:, 7] = np.where(one.members[:, 7], 5, -5)
    found = by_metric(one)
    details = json.loads(json.dumps({name: dict(finding.details) for name, finding in found.items()}))
    highest = details["auc"]["highest_risk"]
    assert len(highest) == 10
    assert highest[0] == {"record": 7, "class": 1, "auc": 1.0, "mean_difference": 10.0}
    assert [row["records"] for row in details["auc"]["per_class"]] == [20, 20, 20]
    here = one.labels == 1
    expected = np.mean([area(s[here], m[here]) for s, m in zip(one.scores, one.members, strict=True)])
    assert details["auc"]["per_class"][1]["auc"] == pytest.approx(expected)
    curve = details["auc"]["roc"]
    assert len(curve["fpr"]) == len(curve["tpr"]) > 10
    assert curve["fpr"] == sorted(curve["fpr"])


def test_rows_must_be_complementary_and_of_one_pool():
    labels = np.arange(4) % 2
    row = np.array([True, True, False, False])
    truths = [{"members": one, "labels": labels} for one in (row, ~row)]
    members, found = rows_of(truths)
    assert members.tolist() == [row.tolist(), (~row).tolist()]
    assert found.tolist() == labels.tolist()
    for wrong in (truths[:1], [truths[0], truths[0]], [truths[0], {"members": ~row, "labels": labels + 1}]):
        with pytest.raises(UserError, match="valid: rows 2j and 2j"):
            rows_of(wrong)
