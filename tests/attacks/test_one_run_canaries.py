"""Decoding against covariance matrices, an honest mechanism that is well seen, planted bugs that are contradicted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attacks.one_run_canaries import Config, OneRunCanaries, decoded, largest_cosine
from attacks.one_run_evidence import Claim, critical
from fedsim.audit.statistics.one_run import Guesses, contradicts, lower_bound
from fedsim.audit.statistics.one_run_power import audit_toy
from fedsim.audit.types import Release, Status
from fedsim.privacy.accountant import noise_for
from fedsim.privacy.mechanism import Mechanism, contributions, noised
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.observed import Look, crafted
from fedsim.seeding import Streams, numpy_stream, stream
from fedsim.types import UserError
from tests.federated.algorithms.test_private_feddm import config
from tests.reference import one_run_canaries as reference
from tests.reference.one_run_canaries import CLASSES, WIDTH, Audited, Records, audited, honest

DELTA, CANARIES = 1e-6, 400
"""At 1e-5 the part of δ in p(ε) is half of .001 for so few canaries."""
CLIP, KAPPA = 5.0, 1.0


def claimed(epsilon: float, releases: int = 1) -> Mechanism:
    return Mechanism(CLIP, KAPPA, noise_for(epsilon, DELTA, releases))


def findings(one: Audited, epsilon: float):
    scores = {"score": one.scores, "epsilon": np.array(epsilon), "delta": np.array(DELTA)}
    return OneRunCanaries(Config()).evaluate([scores], [{"included": one.included}])


def contradicted(one: Audited) -> bool:
    """Whether the card says so of a claimed ε = 1."""
    tested, _ = findings(one, 1.0)
    return tested.p is not None and tested.p < 0.001 and tested.details["contradicted"] and tested.status is Status.LEAK


# --- decoding ---


@pytest.mark.parametrize("releases", [1, 3])
def test_decoding_is_the_best_linear_estimate_by_explicit_covariances(releases):
    rng = stream(1, releases)
    labels, deviation = torch.tensor([0, 1, 0, 1, 1, 0, 2, 0]), 0.7
    draw = lambda *shape: torch.randn(shape, generator=rng, dtype=torch.float64)  # noqa: E731
    looks = [Look(4 * draw(3, 6), draw(3, 6), draw(len(labels), 6)) for _ in range(releases)]
    expected = reference.best_linear(looks, labels.numpy(), deviation)
    assert decoded(looks, labels, deviation).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_without_noise_to_speak_of_the_coins_are_read():
    one = audited(honest(1), Mechanism(CLIP, KAPPA, 1e-4), 40, Streams(2))
    assert np.abs(one.scores - one.included).max() < 1e-3


def test_of_one_canary_it_is_the_matched_filter():
    one = audited(honest(1), claimed(5.0), 1, Streams(3))
    (seen,) = one.looks
    row, deviation = seen.rows[0], claimed(5.0).deviation
    filtered = float(((seen.values - seen.rest)[0] - row / 2) @ row)
    assert one.scores[0] == pytest.approx(0.5 + filtered / (float(row @ row) + 4 * deviation**2), rel=1e-12)


def test_crafted_canaries_have_the_greatest_norm_and_meet_in_the_count_alone():
    one = audited(honest(1), claimed(1.0), 200, Streams(4))
    (seen,) = one.looks
    assert seen.rows[:, :-1].norm(dim=1).numpy() == pytest.approx(np.full(200, CLIP), rel=1e-6)
    assert largest_cosine([seen.rows[:, :-1]], one.labels) < 1e-6
    whole = largest_cosine([seen.rows], one.labels)
    assert whole == pytest.approx(KAPPA**2 / (CLIP**2 + KAPPA**2), rel=1e-6)


def test_crafted_canaries_are_at_right_angles_to_the_mean_of_their_class():
    means, labels = torch.randn((3, 20), generator=stream(1), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0])
    means[1] = 0  # a class without records
    rows = crafted(labels, means, 2.0, stream(2))
    assert (rows * means[labels]).sum(1).abs().max() < 1e-12
    assert (rows[labels == 0] @ rows[labels == 0].T).numpy() == pytest.approx(4 * np.eye(3), abs=1e-12)


def test_more_canaries_than_directions_are_no_longer_at_right_angles():
    one = audited(honest(1), claimed(1.0), CLASSES * (WIDTH + 10), Streams(5))
    assert 0.1 < largest_cosine([seen.rows[:, :-1] for seen in one.looks], one.labels) < 0.6


# --- an honest mechanism ---


@pytest.mark.parametrize(("epsilon", "releases"), [(3.0, 1), (10.0, 3)])
def test_an_honest_mechanism_is_seen_nearly_as_well_as_the_toy(epsilon, releases):
    mechanism = claimed(epsilon, releases)
    mu = math.sqrt(releases) / mechanism.sigma
    toy = audit_toy(CANARIES, 1 / mu, CANARIES // 10, DELTA, numpy_stream(0)).mean
    runs = [audited(honest(releases), mechanism, CANARIES, Streams(seed)) for seed in range(20)]
    bound = np.mean([lower_bound(one.guesses, DELTA) for one in runs])
    assert 0.75 * toy < bound < 1.15 * toy
    assert bound < epsilon


def test_it_is_never_contradicted_in_a_hundred_audits():
    mechanism = claimed(1.0)
    runs = [audited(honest(1), mechanism, CANARIES, Streams(seed, ("honest",))) for seed in range(100)]
    assert not any(contradicts(one, 1.0, DELTA) for one in {one.guesses for one in runs})


# --- bugs ---


def test_a_kept_sum_that_is_noised_afresh_is_contradicted():
    def again(data: Records, centre: torch.Tensor, mechanism: Mechanism, streams: Streams) -> list[torch.Tensor]:
        vectors, labels = data
        total = torch.zeros((CLASSES, WIDTH + 1), dtype=torch.int64)
        total.index_add_(0, labels, contributions(vectors, centre, mechanism))
        noises = [SeededNoise(streams.generator("noise", j)) for j in range(30)]  # T5: paid for once
        return [noised(total, mechanism, noise).values for noise in noises]

    assert contradicted(audited(again, claimed(1.0), CANARIES, Streams(0)))
    paid = audited(honest(30), claimed(1.0, 30), CANARIES, Streams(0))
    assert not contradicts(paid.guesses, 1.0, DELTA)


def test_noise_that_forgets_the_clipping_norm_is_contradicted(monkeypatch):
    monkeypatch.setattr(Mechanism, "deviation", property(lambda self: self.sigma))  # T3
    assert contradicted(audited(honest(1), claimed(1.0), CANARIES, Streams(0)))


def test_uploads_that_start_as_real_images_have_no_epsilon_to_audit():
    with pytest.raises(UserError, match=r"^method\.init: got real; under privacy real images never leave"):
        config(algorithm="feddm", rounds=1, method={"init": "real", "networks": {"around": "server"}})  # T1


# --- findings ---


def test_the_registered_test_says_what_it_found_and_what_it_could_have_found():
    one = audited(honest(1), claimed(2.0), CANARIES, Streams(6))
    tested, described = findings(one, 2.0)
    assert (tested.confirmatory, described.confirmatory) == (True, False)
    assert tested.release is Release.TRANSCRIPT
    assert tested.status is Status.NOT_DETECTED
    assert tested.estimate is not None
    assert tested.estimate.value == one.guesses.right / 80
    assert tested.null == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    details = tested.details
    assert details["epsilon_claimed"] == 2.0
    assert not details["contradicted"]
    assert 0.3 < details["epsilon_lower"] < 2.0 < details["epsilon_detectable"]
    assert details["epsilon_lower"] < details["epsilon_max"] < 3.4
    assert described.estimate is not None
    assert 0.5 < described.estimate.value < 0.7


def test_targets_are_pooled_under_the_largest_claim():
    parts = [audited(honest(1), claimed(3.0), 50, Streams(seed)) for seed in range(4)]
    scores = [{"score": one.scores, "epsilon": np.array(2.0 + k / 3), "delta": np.array(DELTA)}
              for k, one in enumerate(parts)]  # fmt: skip
    tested, _ = OneRunCanaries(Config()).evaluate(scores, [{"included": one.included} for one in parts])
    assert tested.details["canaries"] == 200
    assert tested.details["epsilon_claimed"] == pytest.approx(3.0)


def test_scores_that_see_nothing_are_inconclusive_and_not_a_pass():
    one = audited(honest(1), claimed(2.0), CANARIES, Streams(7))
    blind = Audited(one.looks, one.labels, numpy_stream(8).permutation(one.scores), one.included)
    tested, _ = findings(blind, 2.0)
    assert tested.status is Status.INCONCLUSIVE
    assert "badly seen" in tested.note


def test_a_claim_beyond_what_so_many_canaries_can_show_is_inconclusive():
    one = audited(honest(1), claimed(8.0), 100, Streams(9))
    tested, _ = findings(one, 8.0)
    assert tested.status is Status.INCONCLUSIVE
    assert "cannot be contradicted" in tested.note
    assert tested.minimum_detectable is None


@pytest.mark.parametrize("canaries", [500, 2000])
@pytest.mark.parametrize(("share", "largest"), [(0.1, 2.5), (0.25, 3.4), (0.5, 4.1)])
def test_what_can_be_contradicted_hangs_on_the_share_of_guesses_not_on_the_number_of_canaries(canaries, share, largest):
    made = round(2 * share * canaries)
    assert lower_bound(Guesses(canaries, made, made), 1e-5, 0.001) == pytest.approx(largest, abs=0.12)


@pytest.mark.parametrize("epsilon", [1.0, 2.0])
def test_the_fewest_right_guesses_that_contradict_are_found(epsilon):
    least = critical(Claim(epsilon, 1e-6), 400, 80, 0.001)
    assert least is not None
    assert contradicts(Guesses(400, 80, least), epsilon, 1e-6)
    assert not contradicts(Guesses(400, 80, least - 1), epsilon, 1e-6)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (1.0, 0.0), (float("nan"), 1e-5)])
def test_a_claim_that_is_none_is_refused(epsilon, delta):
    scores = {"score": np.zeros(100), "epsilon": np.array(epsilon), "delta": np.array(delta)}
    with pytest.raises(UserError, match=r"^claim: "):
        OneRunCanaries(Config()).evaluate([scores], [{"included": np.arange(100) < 50}])
