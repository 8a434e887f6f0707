"""FedAvg against plain numbers: a round is the weighted average, one client is ordinary SGD."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.algorithms.fedavg import Config, FedAvg, average
from fedsim.federated.base import Algorithm, ServerState, Setting, Upload, network_with
from fedsim.models.functional import flatten, state
from fedsim.models.norms import Norm
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig
from fedsim.types import Params
from tests.reference import fedavg as reference

LOCAL = TrainConfig(epochs=2, lr=0.05, momentum=0.0, weight_decay=0.0, batch_size=4, schedule="constant")
ALGORITHM = FedAvg(Config(local=LOCAL), None, None, None)


def same(left: Params, right: Params, tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        torch.testing.assert_close(value, right[name], rtol=0, atol=tolerance)


def uploads_of(here: Setting, before: ServerState) -> list[Upload]:
    broadcasts = ALGORITHM.broadcast(before, range(len(reference.CLIENTS)))
    return [
        ALGORITHM.client(reference.view(client, here), broadcasts[client], Streams(0, ("client", client)))
        for client in range(len(reference.CLIENTS))
    ]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_round_is_the_average_weighted_by_images(norm: Norm) -> None:
    here = reference.setting(norm)
    before = ALGORITHM.init(here)
    uploads = uploads_of(here, before)
    after, metrics = ALGORITHM.server(here, before, uploads, Streams(9))
    expected = reference.average([upload.weights or {} for upload in uploads], [9, 6, 4])
    same(after.weights, expected, 1e-6)
    assert [upload.examples for upload in uploads] == [9, 6, 4]
    assert after.round == 1
    assert metrics["client_loss"] == pytest.approx(sum(upload.losses[-1][1] for upload in uploads) / 3, rel=1e-6)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(0, 99))
def test_the_average_is_flowers(examples: list[int], seed: int) -> None:
    like = {"w": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float64)}
    rng = stream(seed)
    uploads = [
        Upload(
            k, 1, n, weights={name: torch.randn(value.shape, generator=rng).to(value) for name, value in like.items()}
        )
        for k, n in enumerate(examples)
    ]
    records = [
        RecordDict({"w": ArrayRecord.from_torch_state_dict(one.weights or {}), "m": MetricRecord({"n": one.examples})})
        for one in uploads
    ]
    expected = aggregate_arrayrecords(records, "n").to_torch_state_dict()
    found, losses = average(like, uploads)
    assert losses == []
    for name, value in found.items():
        assert value.dtype == like[name].dtype
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-6, atol=1e-6)


def test_one_upload_is_looked_at_at_a_time() -> None:
    """The average lets go of each item of a lazy sequence before the one after the next."""
    here = reference.setting()
    before = ALGORITHM.init(here)
    alive: list[weakref.ref[torch.Tensor]] = []

    class Lazy(Sequence[Upload]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: Any) -> Any:
            if index >= 5:
                raise IndexError
            assert sum(one() is not None for one in alive) <= 1  # the one before, which the loop still names
            weights = {name: value.clone() for name, value in before.weights.items()}
            alive.append(weakref.ref(weights["head.weight"]))
            return Upload(index, 1, 1, weights=weights)

    after, _ = ALGORITHM.server(here, before, Lazy(), Streams(9))
    assert len(alive) >= 5  # the type checker of the tests looks at a few more
    same(after.weights, before.weights, 1e-6)


def test_an_unweighted_average_would_be_noticed() -> None:
    here = reference.setting()
    before = ALGORITHM.init(here)
    uploads = uploads_of(here, before)
    after, _ = ALGORITHM.server(here, before, uploads, Streams(9))
    mutant = reference.average([upload.weights or {} for upload in uploads], [1, 1, 1])
    assert (flatten(after.weights) - flatten(mutant)).abs().max() > 1e-4


def test_a_client_is_sgd_from_the_servers_weights() -> None:
    here = reference.setting()
    before = ALGORITHM.init(here)
    kept = {name: value.clone() for name, value in before.weights.items()}
    upload = uploads_of(here, before)[0]
    network = network_with(here, before.weights)
    reference.train(network, reference.CLIENTS[0], 2, 0.05, 4, Streams(0).generator("client", 0, "train"))
    same(upload.weights or {}, state(network), 1e-6)
    same(before.weights, kept, 0.0)
    assert [epoch for epoch, _ in upload.losses] == [1, 2]
    assert upload.synthetic is None


def test_one_client_is_central_sgd_over_rounds() -> None:
    here = reference.setting()
    current = ALGORITHM.init(here)
    network = network_with(here, current.weights)
    for number in (1, 2, 3):
        streams = Streams(0, ("round", number))
        upload = ALGORITHM.client(reference.view(0, here), ALGORITHM.broadcast(current, [0])[0], streams)
        current, _ = ALGORITHM.server(here, current, [upload], streams)
        reference.train(network, reference.CLIENTS[0], 2, 0.05, 4, streams.generator("train"))
    same(current.weights, state(network), 1e-5)
    assert current.round == 3


def test_the_averages_order_is_that_of_the_uploads_and_rounds_follow() -> None:
    here = reference.setting()
    before = ALGORITHM.init(here)
    assert isinstance(ALGORITHM, Algorithm)
    assert ALGORITHM.budget(here) == 0
    assert {client: sent.round for client, sent in ALGORITHM.broadcast(before, [2, 5]).items()} == {2: 1, 5: 1}
    again = ALGORITHM.init(reference.setting())
    same(before.weights, again.weights, 0.0)
    other = ALGORITHM.init(reference.setting(seed=1))
    assert not torch.equal(flatten(before.weights), flatten(other.weights))
