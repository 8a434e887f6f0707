"""DD-Ranking's scores: numbers worked by hand, and the trainings they rest on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.config import validate
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.images import Images
from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network
from fedsim.seeding import Streams
from fedsim.training.evaluate import EvaluationConfig, score
from fedsim.training.ranking import (
    Ranking,
    RankingConfig,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    normalised,
    rank,
)
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reference import dm as reference

TRAIN = TrainConfig(epochs=2, lr=0.1, batch_size=4)
UNIT = st.floats(0, 1)
TEST = reference.images((6, 6, 6, 6), seed=7)
REAL = reference.images((6, 4, 5, 6), seed=1)
SETS = [reference.images((2, 2, 2, 2), seed=seed) for seed in (2, 3)]
RANDOM = [REAL.take(torch.arange(8)), REAL.take(torch.arange(8, 16)), REAL.take(torch.arange(5, 13))]


def fresh(rng: torch.Generator) -> Network:
    return build_network(MLP, MLPConfig(depth=1, width=6), (1, 6, 6), 4, rng)


def ranked(
    config: RankingConfig, how: EvaluationConfig, synthetic: list[Images] = SETS, random: list[Images] = RANDOM
) -> Ranking:
    return rank(synthetic, random, REAL, TEST, reference.NORMALISE, config, how, fresh, Streams(0))


def evaluation(train: TrainConfig = TRAIN) -> EvaluationConfig:
    return EvaluationConfig(nets=2, train=train)


# --- numbers worked by hand: e = 2.718282, 1/e = 0.367879, e − 1/e = 2.350402 ---


def test_lrs_of_known_accuracies() -> None:
    hlr, ior = hard_label_recovery(real=0.9, synthetic=0.5), improvement_over_random(synthetic=0.5, random=0.3)
    assert (hlr, ior) == pytest.approx((0.4, 0.2))
    # α = 0.1 − 0.2 = −0.1, e^−0.1 = 0.904837: (0.904837 − 0.367879) / 2.350402
    assert label_robust_score(hlr, ior) == pytest.approx(0.228454, abs=1e-6)
    # w = 1: α = 0.2, e^0.2 = 1.221403: (1.221403 − 0.367879) / 2.350402
    assert label_robust_score(hlr, ior, w=1) == pytest.approx(0.363140, abs=1e-6)
    # w = 0: α = −0.4, e^−0.4 = 0.670320: (0.670320 − 0.367879) / 2.350402
    assert label_robust_score(hlr, ior, w=0) == pytest.approx(0.128676, abs=1e-6)


def test_ars_of_known_improvements() -> None:
    # β = 0.5·0.3 + 0.5·(−0.1) = 0.1, e^0.1 = 1.105171: (1.105171 − 0.367879) / 2.350402
    assert augmentation_robust_score(augmented=0.3, plain=-0.1) == pytest.approx(0.313687, abs=1e-6)
    # γ = 0.25: β = 0.075 − 0.075 = 0
    assert augmentation_robust_score(0.3, -0.1, gamma=0.25) == pytest.approx(1 / (1 + math.e), abs=1e-12)


def test_the_ends_of_the_scale() -> None:
    assert normalised(-1.0) == 0
    assert normalised(1.0) == 1
    assert label_robust_score(hlr=-1, ior=1) == 1
    assert label_robust_score(hlr=1, ior=-1) == 0


@given(UNIT, UNIT, UNIT, UNIT, UNIT)
def test_scores_stay_on_the_scale_and_grow_with_the_set(
    real: float, low: float, high: float, random: float, weight: float
) -> None:
    low, high = sorted((low, high))
    lrs = [
        label_robust_score(hard_label_recovery(real, one), improvement_over_random(one, random), weight)
        for one in (low, high)
    ]
    ars = [augmentation_robust_score(one - random, one - random, weight) for one in (low, high)]
    assert 0 <= lrs[0] <= lrs[1] + 1e-12 <= 1 + 1e-9
    assert 0 <= ars[0] <= ars[1] + 1e-12 <= 1 + 1e-9


# --- the trainings ---


@pytest.mark.parametrize(
    "augment", [None, pytest.param(DSAConfig(), marks=pytest.mark.slow), DSAConfig(strategy=("flip",))]
)
def test_scores_are_those_of_the_accuracies(augment: DSAConfig | None) -> None:
    given_training = TRAIN.model_copy(update={"augment": augment})
    config, how = RankingConfig(w=0.3, gamma=0.8), evaluation(given_training)
    found = ranked(config, how)

    def accuracy(sets: list[Images], training: TrainConfig) -> float:
        return score(sets, TEST, reference.NORMALISE, evaluation(training), fresh, Streams(0)).mean

    synthetic, random = (accuracy(sets, given_training) for sets in (SETS, RANDOM))
    hlr, ior = accuracy([REAL], given_training) - synthetic, synthetic - random
    plain, dsa = (TRAIN.model_copy(update={"augment": one}) for one in (None, DSAConfig()))
    gains = [accuracy(SETS, training) - accuracy(RANDOM, training) for training in (dsa, plain)]
    assert (found.hlr, found.ior) == (hlr, ior)
    assert found.lrs == normalised(0.3 * ior - 0.7 * hlr)
    assert found.ars == normalised(0.8 * gains[0] + (1 - 0.8) * gains[1])
    assert len(found.accuracies) == (7 if augment == DSAConfig(strategy=("flip",)) else 5)


def test_real_images_may_be_trained_on_otherwise() -> None:
    longer = TRAIN.model_copy(update={"epochs": 6})
    found = ranked(RankingConfig(real=longer), evaluation())
    expected = score([REAL], TEST, reference.NORMALISE, evaluation(longer), fresh, Streams(0))
    assert found.accuracies["real given"] == expected
    assert found.as_dict()["accuracies"]["real given"]["mean"] == expected.mean


def test_random_against_itself_is_in_the_middle() -> None:
    found = ranked(RankingConfig(), evaluation(), RANDOM, RANDOM)
    assert found.ior == 0
    assert found.ars == pytest.approx(1 / (1 + math.e))


@pytest.mark.parametrize("key", ["w", "gamma"])
def test_weights_are_shares(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: got 1.5") as caught:
        validate(RankingConfig, {key: 1.5})
    assert "\n" not in str(caught.value)
