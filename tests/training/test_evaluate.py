"""The evaluation protocol: intervals against published numbers, and what the spread is taken over."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network
from fedsim.seeding import Streams
from fedsim.training.evaluate import EvaluationConfig, mean_ci, score, summarise, wilson
from fedsim.training.train import TrainConfig, accuracy, fit
from tests.reference import dm as reference

LIGHT = settings(max_examples=25, deadline=None)
POINTS = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda points: max(points) - min(points) > 1e-6)


@LIGHT
@given(POINTS, st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_scipys(points: list[float], level: float) -> None:
    mean, interval = mean_ci(points, level)
    expected = stats.t.interval(level, len(points) - 1, loc=sum(points) / len(points), scale=stats.sem(points))
    assert mean == pytest.approx(sum(points) / len(points))
    assert interval == pytest.approx(expected, abs=1e-9)


def test_interval_of_known_numbers() -> None:
    # t₀.₉₇₅ with 1 and 4 degrees of freedom is 12.7062 and 2.7764 in every table
    assert mean_ci([0.4, 0.6])[1] == pytest.approx((0.5 - 12.7062 * 0.1, 0.5 + 12.7062 * 0.1), abs=1e-4)
    deviation = math.sqrt(10 / 4)
    half = 2.7764 * deviation / math.sqrt(5)
    assert mean_ci([1.0, 2.0, 3.0, 4.0, 5.0])[1] == pytest.approx((3 - half, 3 + half), abs=1e-3)
    assert mean_ci([0.7]) == (0.7, None)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17, 1998, Table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes_table(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@LIGHT
@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys_and_symmetric(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_spread_is_over_sets_where_there_are_several() -> None:
    values = [[0.1, 0.3], [0.5, 0.7], [0.6, 0.8]]
    result = summarise(values)
    assert (result.over, result.n, result.values) == ("sets", 3, values)
    assert (result.mean, result.ci) == mean_ci([0.2, 0.6, 0.7])
    one = summarise([[0.1, 0.3, 0.8]])
    assert (one.over, one.n) == ("networks", 3)
    assert (one.mean, one.ci) == mean_ci([0.1, 0.3, 0.8])
    lonely = summarise([[0.4]])
    assert (lonely.mean, lonely.ci, lonely.n, lonely.over) == (0.4, None, 1, "networks")
    assert lonely.as_dict()["ci"] is None


def fresh(rng: torch.Generator) -> Network:
    return build_network(MLP, MLPConfig(width=8), (1, 6, 6), 4, rng)


def test_score_trains_every_network_of_every_set_from_its_own_streams() -> None:
    sets = [reference.images(seed=1), reference.images((2, 2, 2, 2), seed=2)]
    test, train = reference.images((9, 9, 9, 9), seed=3), TrainConfig(epochs=4, lr=0.1)
    config, streams = EvaluationConfig(nets=2, train=train), Streams(5, ("evaluation",))
    told: list[tuple[int, int]] = []
    result = score(
        sets, test, reference.NORMALISE, config, fresh, streams, progress=lambda done, total: told.append((done, total))
    )
    for number, images in enumerate(sets):
        for net in range(2):
            network = fresh(Streams(5).generator("evaluation", "set", number, "net", net, "init"))
            rng = Streams(5).generator("evaluation", "set", number, "net", net, "train")
            fit(network, images, reference.NORMALISE, train, rng)
            assert result.values[number][net] == accuracy(network, test, reference.NORMALISE)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (result.over, result.n) == ("sets", 2)
