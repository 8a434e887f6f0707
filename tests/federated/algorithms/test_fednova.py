"""FedNova against plain numbers, a_i against its closed forms, a two-client example by hand, and planted bugs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.algorithms import fednova
from fedsim.federated.algorithms.fedavg import average
from fedsim.federated.algorithms.fednova import Config, FedNova, normalised, normaliser, steps
from fedsim.federated.base import Algorithm, ServerState, Upload
from fedsim.schema import load_run
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reductions.training import LOCAL
from tests.reference import fedavg as federation
from tests.reference import fednova as reference

CONFIG = Path(__file__).parents[3] / "configs/quickstart/fednova_digits.yaml"
MOMENTUM = LOCAL.model_copy(update={"momentum": 0.9})


def a_round(local: TrainConfig, norm: Any = "instance") -> tuple[ServerState, list[Upload], ServerState]:
    """Before, uploads, after: clients of 9, 6 and 4 images take 6, 4 and 2 steps."""
    here, algorithm = federation.setting(norm), FedNova(Config(local=local), None, None, None)
    before = algorithm.init(here)
    sent = algorithm.broadcast(before, range(3))
    uploads = [algorithm.client(federation.view(k, here), sent[k], Streams(k)) for k in range(3)]
    return before, uploads, algorithm.server(here, before, uploads, Streams(9))[0]


def distance_to_the_slow_version(local: TrainConfig) -> float:
    before, uploads, after = a_round(local)
    vectors = [reference.coefficients([local.lr] * count, local.momentum) for count in (6, 4, 2)]
    expected = reference.update(before.weights, [one.weights or {} for one in uploads], [9, 6, 4], vectors)
    return max(float((after.weights[name] - value).abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("local", [LOCAL, MOMENTUM], ids=["plain", "momentum"])
def test_a_round_is_the_update_with_plain_numbers(local: TrainConfig) -> None:
    assert distance_to_the_slow_version(local) < 1e-6


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("normaliser", lambda config, images: 1.0),
        ("normaliser", lambda config, images: float(config.epochs)),
        ("normaliser", lambda config, images: float(steps(config, images))),
    ],
    ids=["not normalised", "epochs for steps", "momentum forgotten"],
)
def test_a_wrong_normaliser_would_be_noticed(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fednova, name, mutant)
    assert distance_to_the_slow_version(MOMENTUM) > 1e-4


def test_two_clients_by_hand() -> None:
    """F_i(w) = ½(w − b_i)², b = (2, −4), η = 0.5, w_r = 0; images 1 and 3, batches of one, one epoch: τ = (1, 3).

    w_1 = 1;  w_2 = −2, −3, −3.5.   p = (¼, ¾), τ_eff = ¼ + 9/4 = 5/2.
    w = 0 − 5/2 · (¼ · (0 − 1)/1 + ¾ · (0 + 3.5)/3) = −5/2 · (−¼ + 7/8) = −1.5625;   FedAvg: ¼ − 21/8 = −2.375.
    """
    one_by_one = TrainConfig(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.0, batch_size=1, schedule="constant")
    start, uploads = {"w": torch.zeros(1)}, []
    for k, (target, images) in enumerate(((2.0, 1), (-4.0, 3))):
        w = 0.0
        for _ in range(images):
            w -= 0.5 * (w - target)
        uploads.append(Upload(k, 1, images, weights={"w": torch.tensor([w])}))
    lengths = [normaliser(one_by_one, one.examples) for one in uploads]
    assert lengths == [1.0, 3.0]
    assert float(normalised(start, uploads, lengths, ["w"])["w"]) == -1.5625
    assert float(average(start, uploads)[0]["w"]) == -2.375


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 9), st.floats(0.0, 0.95))
def test_the_norm_of_a_is_its_closed_form(epochs: int, images: int, batch: int, beta: float) -> None:
    config = TrainConfig(epochs=epochs, momentum=beta, batch_size=batch, schedule="constant")
    tau = steps(config, images)
    assert tau == epochs * math.ceil(images / batch)
    closed = (tau - beta * (1 - beta**tau) / (1 - beta)) / (1 - beta)
    assert normaliser(config, images) == pytest.approx(closed, rel=1e-9)
    assert sum(reference.coefficients([config.lr] * tau, beta)) == pytest.approx(closed, rel=1e-9)


def test_a_step_size_that_drops_is_part_of_a() -> None:
    config = TrainConfig(epochs=3, lr=0.5, momentum=0.9, batch_size=2, schedule="step")
    vector = reference.coefficients([0.5] * 4 + [0.05] * 2, 0.9)
    assert normaliser(config, 4) == pytest.approx(sum(vector), rel=1e-12)


def test_a_client_that_claims_many_images_costs_the_server_no_time() -> None:
    assert normaliser(MOMENTUM, 10**15) == pytest.approx(10 * 2 * 10**15 / 4, rel=1e-6)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.5, 99)), min_size=1, max_size=5), st.integers(0, 99))
def test_it_moves_along_the_mean_normalised_way_and_its_scale_cancels(parts: list[Any], seed: int) -> None:
    """All ‖a_i‖₁ times ten change nothing; equal ones give FedAvg."""
    rng = stream(seed)
    start = {"w": torch.randn(4, generator=rng, dtype=torch.float64)}
    ends = [{"w": torch.randn(4, generator=rng, dtype=torch.float64)} for _ in parts]
    uploads = [Upload(k, 1, n, weights=end) for k, ((n, _), end) in enumerate(zip(parts, ends, strict=True))]
    lengths = [length for _, length in parts]
    found = normalised(start, uploads, lengths, ["w"])["w"]
    slow = reference.update(start, ends, [n for n, _ in parts], [[length] for length in lengths])["w"]
    torch.testing.assert_close(found, slow, rtol=1e-9, atol=1e-9)
    tenfold = normalised(start, uploads, [10 * length for length in lengths], ["w"])["w"]
    torch.testing.assert_close(found, tenfold, rtol=1e-9, atol=1e-9)
    equal = normalised(start, uploads, [3.0] * len(parts), ["w"])["w"]
    torch.testing.assert_close(equal, average(start, uploads)[0]["w"], rtol=1e-9, atol=1e-9)


def test_buffers_of_a_batch_norm_are_averaged_as_in_fedavg() -> None:
    before, uploads, after = a_round(LOCAL, "batch")
    plain = average(before.weights, uploads)[0]
    buffers = [name for name in plain if "running" in name or "tracked" in name]
    assert len(buffers) == 3
    for name in plain.keys() - {"blocks.0.0.bias"}:  # before a batch norm: nothing but rounding moves it
        assert torch.equal(after.weights[name], plain[name]) == (name in buffers), name


def test_it_is_an_algorithm_that_says_how_unequal_the_clients_are() -> None:
    here, algorithm = federation.setting(), FedNova(Config(local=LOCAL), None, None, None)
    before, uploads, _ = a_round(LOCAL)
    assert isinstance(algorithm, Algorithm)
    metrics = algorithm.server(here, before, uploads, Streams(9))[1]
    assert (metrics["fewest_steps"], metrics["most_steps"]) == (2, 6)


def test_a_setting_of_another_algorithm_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^algorithm\.mu"):
        load_run(CONFIG, ["algorithm.mu=0.1"])
