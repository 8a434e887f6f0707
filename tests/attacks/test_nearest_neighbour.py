"""The nearest-neighbour attack: what it finds, what it does not, and that its p-value is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from attacks.membership_randomisation import drawn_rows
from attacks.nearest_neighbour import Config, NearestNeighbour, compared
from attacks.record_distances import Neighbours, between, neighbours
from fedsim.audit.statistics.permutation import nearest_gap
from fedsim.audit.types import Finding, Knowledge, NotGranted, Status
from fedsim.config import validate
from fedsim.data.images import Images
from fedsim.seeding import numpy_stream, stream
from fedsim.types import UserError
from tests.attacks.small_audit import Audit, noise_images, publish
from tests.reference.membership import complementary

PIXELS = Config(distances=("pixels",))


def of(images: Images, candidates: Images) -> dict[str, np.ndarray]:
    """What `run` stores of one release under PIXELS."""
    seen = neighbours(images, candidates, "pixels")
    least = -seen.least(len(candidates))
    return {"class": seen.classes, "order.pixels": seen.order, "sorted.pixels": seen.distances, "score.nearest": least}


def toy(weight: float, seed: int, pairs: int = 2, records: int = 40, shown: int = 5, **config) -> list[Finding]:
    """Means of the members of one class with an extra `weight` of one of them; weight 0: noise that knows nothing."""
    rng = stream(seed, "toy")
    pixels = (128 + 30 * torch.randn((records, 1, 8, 8), generator=rng)).clamp(0, 255)
    labels = torch.zeros(records, dtype=torch.int64)
    candidates = Images(pixels.round().to(torch.uint8), labels)
    rows = complementary(pairs, labels.numpy(), numpy_stream(seed, "rows"))
    scores = []
    for row in rows:
        members = candidates.pixels[torch.from_numpy(np.flatnonzero(row))].float()
        if weight:
            made = (1 - weight) * members.mean(0) + weight * members[:shown]
        else:
            made = 128 + 30 * torch.randn((shown, 1, 8, 8), generator=rng)
        images = Images(made.clamp(0, 255).round().to(torch.uint8), labels[:shown])
        scores.append(of(images, candidates))
    truths = [{"members": row, "labels": labels.numpy()} for row in rows]
    return NearestNeighbour(Config(distances=("pixels",), **config)).evaluate(scores, truths)


def test_the_registered_distance_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_LPIPS", str(tmp_path))
    with pytest.raises(UserError, match="lpips is the registered distance, and the weights of LPIPS are not on disk"):
        Audit(tmp_path, publish(2), pairs=1).run(NearestNeighbour(Config(distances=("lpips",))))


def test_published_members_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_LPIPS", str(tmp_path))
    audit, attack = Audit(tmp_path, publish(2), pairs=5), NearestNeighbour(Config(permutations=1999))
    findings = attack.evaluate(audit.run(attack), audit.truths())
    assert [one.id for one in findings if one.confirmatory] == [
        "nearest_neighbour.standardised.client_sets.nearest_gap"
    ]
    not_run = [one for one in findings if one.status is Status.NOT_RUN]
    assert [one.id.split(".")[1] for one in not_run] == ["lpips", "lpips"]
    assert all("not on disk" in one.note and one.estimate is None for one in not_run)
    assert len(findings) == 8
    for one in findings[:6]:
        assert one.p == 1 / 2000
        assert one.status is Status.MEASURED
        assert one.estimate.value > one.minimum_detectable > one.null
    share = next(one for one in findings if one.metric == "nearer_to_member")
    assert share.estimate.value == 1


def test_a_mixing_weight_of_six_tenths_is_found():
    gap, share = toy(0.6, 0, pairs=5)
    assert gap.p == 1 / 1000
    assert gap.estimate.low > gap.null == 0
    assert gap.estimate.method == "t over pairs"
    assert share.estimate.value > 0.8


def test_p_values_are_uniform_where_nothing_leaks():
    p = [toy(0.0, seed, records=20, permutations=99)[0].p for seed in range(50)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 50)


def test_few_pairs_keep_the_exact_test():
    gap, share = toy(0.6, 1, pairs=2)
    assert gap.p <= 0.05
    assert gap.estimate.method == share.estimate.method == "normal, spread of drawn rows"
    assert "too few pairs" in gap.note


def test_gap_and_share_are_those_of_a_loop_over_all_records():
    candidates, images = noise_images(40, 3), noise_images(6, 4)
    members = complementary(1, candidates.labels.numpy(), numpy_stream(0, "rows"))
    for row in members:
        gaps, nearer = [], []
        for image, label in zip(images.pixels, images.labels, strict=True):
            away = {True: [], False: []}
            for record, other, inside in zip(candidates.pixels, candidates.labels, row, strict=True):
                if other == label:
                    away[bool(inside)].append(float(((image.double() - record.double()) / 255).square().sum().sqrt()))
            gaps.append(min(away[False]) - min(away[True]))
            nearer.append(float(min(away[True]) < min(away[False])))
        found = compared(neighbours(images, candidates, "pixels"), row[None])[0]
        assert found == pytest.approx([np.mean(gaps), np.mean(nearer)], abs=1e-6)


def test_one_run_is_the_statistic_of_the_permutation_test():
    candidates, images = noise_images(40, 3), noise_images(6, 4)
    labels = candidates.labels.numpy()
    rows = drawn_rows(complementary(10, labels, numpy_stream(0, "rows")), labels, numpy_stream(1, "rows"))
    away = between(images.pixels, candidates.pixels, "pixels").numpy()
    away[images.labels.numpy()[:, None] != labels[None]] = np.inf
    seen = neighbours(images, candidates, "pixels")
    assert compared(seen, rows)[:, 0] == pytest.approx(nearest_gap(away)(rows), abs=1e-6)


def test_beyond_the_nearest_64_all_candidates_are_looked_at():
    order, distances = np.arange(200, dtype=np.int32)[None], np.arange(200, dtype=np.float32)[None]
    seen = Neighbours(np.zeros(1, dtype=np.int64), order, distances)
    last = np.arange(200) >= 150
    assert compared(seen, np.stack([last, ~last])).tolist() == [[-150.0, 0.0], [150.0, 1.0]]


def test_standardised_distance_is_blind_to_brightness_and_contrast():
    images = noise_images(4, 5)
    dim = (images.pixels.double() / 2 + 40).round().to(torch.uint8)
    away = between(dim, images.pixels, "standardised")
    assert away.diagonal().max() < 0.05
    assert (away.argmin(1) == torch.arange(4)).all()
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    assert between(flat, images.pixels, "standardised") == pytest.approx(torch.ones(1, 4, dtype=torch.float64))


def test_scores_know_nothing_of_the_truth(tmp_path):
    audit, attack = Audit(tmp_path, publish(2), pairs=2), NearestNeighbour(PIXELS)
    assert attack.threat.knows == {Knowledge.CANDIDATES}
    before = audit.run(attack, [0])[0]
    audit.members = ~audit.members
    after = audit.run(attack, [0])[0]
    assert {name: one.tolist() for name, one in before.items()} == {name: one.tolist() for name, one in after.items()}
    with pytest.raises(NotGranted):
        _ = audit.view(0, attack.threat).shadows


def test_a_class_that_is_not_released_is_left_out(tmp_path):
    def first_class(members: Images, row: int) -> Images:
        return members.take(torch.nonzero(members.labels == 0)[:2, 0])

    audit, attack = Audit(tmp_path, first_class, pairs=2), NearestNeighbour(PIXELS)
    scores = audit.run(attack)
    assert np.isneginf(scores[0]["score.nearest"][audit.candidates.labels.numpy() == 1]).all()
    assert attack.evaluate(scores, audit.truths())[0].status is Status.MEASURED
    strangers = [one | {"order.pixels": np.full_like(one["order.pixels"], -1)} for one in scores]
    found = attack.evaluate(strangers, audit.truths())
    assert [one.status for one in found] == [Status.INCONCLUSIVE] * 2
    assert found[0].estimate is None


def test_unequal_halves_are_refused():
    rows = np.array([[True, False, False], [False, True, True]])
    truths = [{"members": row, "labels": np.zeros(3, dtype=np.int64)} for row in rows]
    with pytest.raises(UserError, match="class 0: got 1 members among 3"):
        NearestNeighbour(PIXELS).evaluate([], truths)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distances": ["lipps"]}, "pixels"),
        ({"distances": ["pixels", "pixels"]}, "each one once"),
        ({"distances": []}, "distances"),
        ({"permutations": 5}, "permutations"),
        ({"panels": -1}, "panels"),
        ({"distance": "pixels"}, "distances"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        validate(Config, settings)
