"""The survey's attack: losses as scores, thresholds never from the target, and what its advantage is worth."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.loss_threshold import Config, LossThreshold
from attacks.membership_networks import Reader, losses
from attacks.membership_statistics import best_threshold
from fedsim.audit.types import Knowledge, NotGranted, Status
from fedsim.config import validate
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.attacks.small_audit import QUICK, Audit, publish

OVERFITTED = QUICK.model_copy(update={"epochs": 10, "lr": 0.5})


def test_networks_that_know_their_members_by_heart_are_told(tmp_path):
    """All members are published, and a linear network of 64 inputs fits 20 of them."""
    audit = Audit(tmp_path, publish(10), pairs=5, train=OVERFITTED)
    attack = LossThreshold(Config(networks=1))
    findings = {one.metric: one for one in attack.evaluate(audit.run(attack), audit.truths())}
    assert findings["advantage"].id == "loss_threshold.loss.client_sets.advantage"
    assert findings["advantage"].estimate.value > 0.3
    assert findings["advantage"].p < 0.01
    assert findings["advantage"].estimate.method == "t over pairs, jackknife"
    assert [name for name, one in findings.items() if one.confirmatory] == ["advantage"]
    assert findings["auc"].estimate.value > 0.7
    assert findings["tpr_at_fpr_0.01"].status is Status.INCONCLUSIVE
    assert "100" in findings["tpr_at_fpr_0.01"].note or "too few" in findings["tpr_at_fpr_0.01"].note


def test_the_threshold_is_the_best_of_the_shadows_and_never_the_targets(tmp_path):
    audit = Audit(tmp_path, publish(5))
    attack = LossThreshold(Config(networks=1))
    scores = audit.run(attack)
    for target in (0, 5):
        others = [row for row in range(8) if row // 2 != target // 2]
        known = np.concatenate([scores[row]["score.loss"] for row in others])
        members = np.concatenate([audit.members[row] for row in others])
        assert float(scores[target]["threshold.loss"]) == best_threshold(known, members)
    before = scores[2]
    audit.members[[2, 3]] = ~audit.members[[2, 3]]
    audit.cache.clear()
    after = audit.run(attack, [2])[0]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_mean_training_loss_needs_no_shadows(tmp_path):
    audit = Audit(tmp_path, publish(3), train=OVERFITTED)
    attack = LossThreshold(Config(networks=1, threshold="training_mean"))
    assert Knowledge.SHADOWS not in attack.threat.knows
    view = audit.view(0, attack.threat, [])
    found = attack.run(view, Streams(0))
    reader = Reader.of(view, attack.config, Streams(0))
    released = reader.images(view.released)
    on_release = losses(reader.confidences(view.released, released)).mean()
    assert float(found["threshold.loss"]) == pytest.approx(-on_release, rel=1e-6)
    assert (found["score.loss"] > float(found["threshold.loss"])).mean() < 0.5  # though half are members
    with pytest.raises(NotGranted):
        LossThreshold(Config(networks=1)).run(audit.view(0, attack.threat), Streams(0))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"threshold": "target"}, "threshold"),
        ({"threshold": "training_mean", "release": "server_model"}, "valid: shadows, what a released model"),
        ({"networks": 0}, "networks"),
        ({"statistics": ["model"]}, "unknown key"),
    ],
)
def test_bad_settings(raw, text):
    with pytest.raises(UserError, match=text):
        validate(Config, raw)
