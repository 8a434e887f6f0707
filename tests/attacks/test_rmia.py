"""Relative membership inference: its counting, its references, and members that a network knows by heart."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.rmia import RMIA, Config, relative_scores
from fedsim.audit.types import Knowledge, NotGranted, ThreatModel
from fedsim.config import validate
from fedsim.seeding import Streams, numpy_stream
from fedsim.types import UserError
from tests.attacks.small_audit import QUICK, Audit, publish
from tests.reference.membership import relative


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_score_is_one_pair_after_another(gamma):
    rng = numpy_stream(0)
    records, elsewhere, public, there = (rng.random(shape) for shape in (30, (6, 30), 40, (6, 40)))
    found = relative_scores(records, elsewhere, public, there, gamma)
    assert np.allclose(found, relative(records, elsewhere, public, there, gamma), rtol=0, atol=1e-12)


def test_ties_count_and_probabilities_of_zero_do_not_divide():
    ones = np.ones((2, 3))
    assert (relative_scores(ones[0], ones, ones[0], ones, 1.0) == 1).all()
    assert np.isfinite(relative_scores(0 * ones[0], 0 * ones, ones[0], ones, 1.0)).all()


def test_members_known_by_heart_are_told_and_the_truth_is_not_used(tmp_path):
    train = QUICK.model_copy(update={"epochs": 10, "lr": 0.5})
    audit, attack = Audit(tmp_path, publish(10), pairs=5, train=train), RMIA(Config(networks=1))
    scores = audit.run(attack)
    findings = {one.metric: one for one in attack.evaluate(scores, audit.truths())}
    assert findings["auc"].id == "rmia.relative.client_sets.auc"
    assert findings["auc"].estimate.value > 0.75
    assert findings["auc"].p < 0.01
    assert findings["advantage"].estimate.value > 0.25
    assert not any(one.confirmatory for one in findings.values())
    audit.members[[2, 3]] = ~audit.members[[2, 3]]
    audit.write(3, audit.candidates)
    audit.cache.clear()
    after = audit.run(attack, [2])[0]
    assert all(np.array_equal(scores[2][name], after[name]) for name in after)


def test_it_needs_shadows_and_public_records(tmp_path):
    audit, attack = Audit(tmp_path, publish(3)), RMIA(Config(networks=1))
    whole = attack.threat
    for missing in (Knowledge.SHADOWS, Knowledge.AUXILIARY):
        threat = ThreatModel(whole.name, whole.position, whole.behaviour, whole.sees, whole.knows - {missing})
        with pytest.raises(NotGranted):
            attack.run(audit.view(0, threat), Streams(0))


@pytest.mark.parametrize(("raw", "text"), [({"gamma": 0.0}, "gamma"), ({"gama": 1.0}, "did you mean")])
def test_bad_settings(raw, text):
    with pytest.raises(UserError, match=text):
        validate(Config, raw)
