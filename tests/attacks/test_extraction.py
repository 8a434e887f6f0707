"""Extraction: the exact test, a threshold that the target has no part in, near copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attacks.extraction import Config, Extraction, counts, detectable, distinct, ratios, threshold
from attacks.record_distances import neighbours
from fedsim.audit.statistics.hypergeometric import drawn_members
from fedsim.audit.types import Finding, Knowledge, Status
from fedsim.config import validate
from fedsim.data.images import Images
from fedsim.seeding import numpy_stream
from fedsim.types import UserError
from tests.attacks.small_audit import Audit, noise_images, publish
from tests.reference.membership import complementary

LOOSE = Config(distance="pixels", alpha=0.1)


def strangers(members: Images, row: int) -> Images:
    """Images that know nothing of the members."""
    return noise_images(8, 100 + row)


def by_metric(findings: list[Finding]) -> dict[str, Finding]:
    return {one.metric: one for one in findings}


def test_published_members_are_found(tmp_path):
    audit, attack = Audit(tmp_path, publish(2), pairs=5), Extraction(LOOSE)
    found = by_metric(attack.evaluate(audit.run(attack), audit.truths()))
    drawn = found["members_among_nearest"]
    assert drawn.confirmatory
    assert drawn.p < 1e-3
    assert drawn.estimate.value == 1
    assert drawn.null == 0.5
    assert drawn.details["drawn"] == 5 * 4  # runs 0, 2, … alone are drawn apart from each other
    assert drawn.details["first_run"]["members_drawn"] == 4
    assert 0.5 < drawn.minimum_detectable < 1
    extracted = found["extracted_at_0.1"]
    assert (
        extracted.estimate.value >= 4 / 20
    )  # the copies; τ is a distance that one in ten held-out records falls below
    assert extracted.p is None
    assert found["near_copies"].estimate.value == 1
    assert found["near_copies"].details == {"targets": [1.0] * 10, "flagged": 40, "of_members": 40}


def test_images_that_know_nothing_are_not_found(tmp_path):
    audit, attack = Audit(tmp_path, strangers, pairs=5), Extraction(LOOSE)
    found = by_metric(attack.evaluate(audit.run(attack), audit.truths()))
    assert found["members_among_nearest"].p > 0.05
    extracted = found["extracted_at_0.1"]
    assert extracted.estimate.low < 0.1 < extracted.estimate.high
    assert found["near_copies"].details["flagged"] == 0


def test_the_exact_test_keeps_its_level_where_nothing_leaks():
    labels, rejected, audits = np.arange(40) % 2, 0, 100
    for seed in range(audits):
        rng = numpy_stream(seed, "toy")
        rows = complementary(3, labels, rng)
        records = [distinct(rng.integers(0, 40, 10)) for _ in rows]
        rejected += drawn_members(*counts(records[::2], rows[::2], labels)).p <= 0.05
    assert 0 < rejected / audits <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / audits)


def test_the_threshold_is_of_shadow_runs_alone(tmp_path):
    audit, attack = Audit(tmp_path, publish(2), pairs=4), Extraction(LOOSE)
    assert attack.threat.knows == {Knowledge.CANDIDATES, Knowledge.SHADOWS}
    before = audit.run(attack, [0])[0]
    audit.members[:2] = ~audit.members[:2]  # the target and its complement
    same = audit.run(attack, [0])[0]
    assert all(np.array_equal(before[name], same[name]) for name in before)
    for row in (0, 1):
        audit.write(row, noise_images(4, 50 + row))
    audit.cache.clear()
    other = audit.run(attack, [0])[0]
    assert other["threshold"] == before["threshold"]
    assert not np.array_equal(other["score.distance"], before["score.distance"])
    audit.write(2, audit.candidates)
    audit.cache.clear()
    assert audit.run(attack, [0])[0]["threshold"] < before["threshold"]


def test_shadows_are_measured_once_for_all_targets(tmp_path):
    audit = Audit(tmp_path, publish(2), pairs=4)
    audit.run(Extraction(LOOSE))
    assert len(audit.computed) == len(set(audit.computed)) == 8


def test_at_most_alpha_of_the_held_out_lie_below_the_threshold():
    away = np.arange(1000.0)
    assert threshold(away, 0.01) == 10.0
    assert threshold(away, 0.07) == 70.0  # 0.07 · 1000 is 70.00000000000001
    assert threshold(np.zeros(1000), 0.5) == 0.0
    assert math.isnan(threshold(away[:999], 0.01))


def test_too_few_held_out_distances_are_said_to_be_so(tmp_path):
    audit, attack = Audit(tmp_path, publish(2), pairs=5), Extraction(Config(distance="pixels"))
    found = by_metric(attack.evaluate(audit.run(attack), audit.truths()))["extracted_at_0.01"]
    assert found.status is Status.INCONCLUSIVE
    assert found.note == "too few held-out records of shadow runs: 160, and 1000 are needed"


def test_few_pairs_have_an_interval_over_all_pieces(tmp_path):
    audit, attack = Audit(tmp_path, publish(2), pairs=3), Extraction(LOOSE)
    drawn = attack.evaluate(audit.run(attack), audit.truths())[0]
    assert drawn.estimate.method == "Clopper-Pearson"
    assert drawn.p < 1e-3
    assert "too few pairs" in drawn.note


def test_a_ratio_is_to_the_mean_of_the_next_ones():
    pixels = torch.tensor([[0], [10], [20], [60]], dtype=torch.uint8)[:, :, None, None]
    candidates = Images(pixels, torch.tensor([0, 0, 0, 1]))
    images = Images(torch.tensor([3, 60, 9], dtype=torch.uint8)[:, None, None, None], torch.tensor([0, 1, 2]))
    seen = neighbours(images, candidates, "pixels")
    assert ratios(seen, 50) == pytest.approx([3 / ((7 + 17) / 2), np.inf, np.inf])
    assert ratios(seen, 2) == pytest.approx([3 / 7, np.inf, np.inf])
    same = neighbours(images, Images(torch.full_like(pixels, 3), candidates.labels), "pixels")
    assert ratios(same, 50)[0] == 1


def test_what_is_detectable_is_found_four_times_in_five():
    least = detectable([30], [100], [200])
    rng, found = numpy_stream(0, "toy"), 0
    for _ in range(500):
        found += drawn_members(int(rng.binomial(30, least)), [30], [100], [200]).p <= 0.05
    assert found / 500 == pytest.approx(0.8, abs=0.06)
    assert detectable([1], [1], [2]) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distance": "lipps"}, "pixels"),
        ({"alpha": 0}, "alpha"),
        ({"ratio": 1}, "ratio"),
        ({"neighbours": 1}, "neighbours"),
        ({"alhpa": 0.1}, "did you mean 'alpha'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        validate(Config, settings)
