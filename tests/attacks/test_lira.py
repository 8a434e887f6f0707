"""LiRA: its p-value, and what it is given, uses and refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import chdtri, stdtrit

from attacks.lira import Config, LiRA
from attacks.membership_likelihoods import leave_pairs_out
from attacks.membership_randomisation import Rescore, areas, null_areas, without_each_pair
from fedsim.audit.statistics.pairs import over_pairs
from fedsim.audit.types import Knowledge, NotGranted, Scores, Status, ThreatModel
from fedsim.config import validate
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError
from tests.attacks.small_audit import Audit, publish
from tests.reference.membership import toy

QUICK = Config(statistics=("model", "nn_pixels", "align"), networks=1, random_networks=2, permutations=19)


def test_where_nothing_leaks_t_over_pairs_covers_too_little_and_the_jackknife_enough():
    """A pair is target once and shadow otherwise, so AUCs of different pairs share products."""
    audits, by_t, by_jackknife = 60, 0, 0
    for seed in range(audits):
        values, members, _ = toy(0.0, 6, 40, seed)
        again = rescored(values)
        whole = areas(again(np.arange(12), members)["x"], members)
        interval = over_pairs(whole)
        by_t += interval.low <= 0.5 <= interval.high
        left = [
            areas(scores, np.delete(members, [2 * pair, 2 * pair + 1], 0)).mean()
            for pair, scores in enumerate(without_each_pair(again, members)["x"])
        ]
        error = math.sqrt(5 / 6 * np.square(left - np.mean(left)).sum())
        by_jackknife += abs(whole.mean() - 0.5) <= float(stdtrit(5, 0.975)) * error
    assert by_t / audits < 0.92
    assert by_jackknife / audits > 0.94


def test_where_nothing_leaks_p_values_are_uniform():
    """p = 1/10, 2/10, … from nine draws, each as often."""
    audits, counts = 50, np.zeros(10)
    for seed in range(audits):
        values, members, labels = toy(0.0, 3, 20, seed)
        again = rescored(values)
        found = areas(again(np.arange(6), members)["x"], members).mean()
        counts[(null_areas(again, members, labels, 9, numpy_stream(seed, "rows"))["x"] >= found).sum()] += 1
    assert np.square(counts - audits / 10).sum() / (audits / 10) < float(chdtri(9, 0.001))


def rescored(values: np.ndarray) -> Rescore:
    """LiRA's scores under other rows."""
    return lambda kept, members: {"x": leave_pairs_out(values[kept], members, None)}


def test_published_members_are_told(tmp_path):
    audit = Audit(tmp_path, publish(5), pairs=5)
    attack = LiRA(QUICK.model_copy(update={"statistics": ("nn_pixels", "align"), "random_networks": 1}))
    scores = audit.run(attack)
    findings = {finding.id: finding for finding in attack.evaluate(scores, audit.truths())}
    copied = findings["lira.nn_pixels.client_sets.auc"]
    assert copied.estimate.value > 0.7  # half of the members are published, the others look like non-members
    assert copied.p == 1 / 20
    assert copied.status is Status.MEASURED
    for row, one in enumerate(scores):
        published = one["value.nn_pixels"] == 0
        assert published.sum() == 10
        assert audit.members[row][published].all()
        others = one["score.nn_pixels"][~audit.members[row]]
        assert (one["score.nn_pixels"][published][:, None] > others).mean() > 0.95
    combo = findings["lira.combo.client_sets.auc"]
    assert [one.id for one in findings.values() if one.confirmatory] == [combo.id]
    assert combo.estimate.low <= combo.estimate.value <= combo.estimate.high
    assert combo.estimate.method == "t over pairs, jackknife"
    ceiling = findings["lira.align.client_sets.auc"].details["exact_mean"]
    assert ceiling["class"] == [0.0, 1.0]
    assert ceiling["members"] == [10.0, 10.0]
    assert np.allclose(np.square(ceiling["d_prime"]) * 10, ceiling["d_eff"], rtol=1e-9)
    assert min(ceiling["compared_auc"]) > min(ceiling["auc"]) > 0.6


def test_scores_are_remade_from_stored_values(tmp_path):
    """What `evaluate` permutes is what `run` computed."""
    audit, attack = Audit(tmp_path, publish(3)), LiRA(QUICK)
    scores = audit.run(attack)
    for name in QUICK.statistics:
        values = np.stack([one[f"value.{name}"] for one in scores])
        again = leave_pairs_out(values, audit.members, QUICK.prior_degrees)
        assert np.allclose(again, np.stack([one[f"score.{name}"] for one in scores]), rtol=0, atol=1e-9)


def test_few_pairs_are_inconclusive(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(Config(statistics=("nn_pixels",), permutations=19))
    findings = attack.evaluate(audit.run(attack), audit.truths())
    assert {finding.status for finding in findings} == {Status.INCONCLUSIVE}
    assert all(finding.note and finding.p is None for finding in findings)
    assert findings[0].estimate.method.startswith("DeLong")


def test_every_row_must_have_been_a_target(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(Config(statistics=("nn_pixels",)))
    with pytest.raises(UserError, match="got 6 targets of 8 rows"):
        attack.evaluate(audit.run(attack, range(6)), audit.truths()[:6])


def test_neither_the_truth_of_the_target_nor_its_complement_is_used(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(QUICK)
    before = audit.run(attack, [2])[0]
    audit.members[[2, 3]] = ~audit.members[[2, 3]]
    audit.write(3, audit.candidates)
    audit.cache.clear()
    _same(before, audit.run(attack, [2])[0])


def test_cached_arrays_are_the_same_for_every_target(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(QUICK)
    first = audit.run(attack, [0, 5])
    assert len(audit.computed) == len(set(audit.computed))
    assert sum("embeddings" in name for name in audit.computed) == 8
    audit.cache.clear()
    for before, after in zip(reversed(first), audit.run(attack, [5, 0]), strict=True):
        _same(before, after)


def test_the_complement_among_the_shadows_is_refused(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(Config(statistics=("nn_pixels",)))
    with pytest.raises(UserError, match="a record is in 3 to 4 of 7; valid: each in half"):
        attack.run(audit.view(0, attack.threat, [1, 2, 3, 4, 5, 6, 7]), Streams(0))
    with pytest.raises(UserError, match="shadow runs: got 2 beside the target"):
        attack.run(audit.view(0, attack.threat, [2, 3]), Streams(0))


def test_without_shadows_nothing_is_granted(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), LiRA(Config(statistics=("nn_pixels",)))
    threat = attack.threat
    blind = ThreatModel(threat.name, threat.position, threat.behaviour, threat.sees, threat.knows - {Knowledge.SHADOWS})
    with pytest.raises(NotGranted, match="cannot make shadow runs"):
        attack.run(audit.view(0, blind), Streams(0))


@pytest.mark.parametrize(
    ("release", "name", "position"),
    [("final_set", "set_reader", "third_party"), ("client_sets", "curious_server", "server"),
     ("server_model", "model_user", "third_party")],
)  # fmt: skip
def test_the_threat_follows_the_release(tmp_path, release, name, position):
    attack = LiRA(Config(release=release, statistics=("model",), networks=1))
    assert (attack.threat.name, attack.threat.position, attack.threat.sees) == (name, position, {release})
    assert Knowledge.AUXILIARY not in attack.threat.knows
    found = Audit(tmp_path, publish(3)).run(attack, [0])[0]
    assert np.isfinite(found["score.combo"]).all()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"release": "server_model"}, "valid: \\[model\\], a model has no images"),
        ({"statistics": ["model", "model"]}, "valid: each one once"),
        ({"statistics": ["nearest"]}, "statistics"),
        ({"statistics": []}, "statistics"),
        ({"networks": 0}, "networks"),
        ({"random_networks": 0}, "random_networks"),
        ({"prior_degrees": 0.0}, "prior_degrees"),
        ({"permutations": 1}, "permutations"),
        ({"release": "gradient"}, "release"),
        ({"shadows": 3}, "unknown key"),
    ],
)
def test_bad_settings(raw, text):
    with pytest.raises(UserError, match=text) as caught:
        validate(Config, raw)
    assert "\n" not in str(caught.value)


def _same(one: Scores, other: Scores) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
