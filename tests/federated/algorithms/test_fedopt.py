"""FedAvgM, FedAdam and FedYogi against their formulas in plain numbers, over rounds and through checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.algorithms import fedopt
from fedsim.federated.algorithms.fedopt import (
    AdamConfig,
    FedAdam,
    FedAvgM,
    FedYogi,
    MomentumConfig,
    YogiConfig,
)
from fedsim.federated.base import Algorithm, ServerState, Upload
from fedsim.models.functional import flatten, unflatten
from fedsim.runs import load_tensors
from fedsim.schema import FederatedRun, load_run, resolve
from fedsim.seeding import Streams, stream
from fedsim.types import Params, UserError
from tests.reference import fedavg as federation
from tests.reference import fedopt as reference
from tests.reference.tiny_run import TINY, InlineGrid

CONFIG = Path(__file__).parents[3] / "configs/quickstart/fedadam_digits.yaml"
CASES: dict[str, tuple[Any, Callable[[float, list[float]], list[float]]]] = {
    "fedavgm": (
        FedAvgM(MomentumConfig(server_lr=0.5, server_momentum=0.8), None, None, None),
        lambda w, averages: reference.momentum(w, averages, 0.5, 0.8),
    ),
    "fedadam": (
        FedAdam(AdamConfig(server_lr=0.2, beta_1=0.8, beta_2=0.95, tau=0.01), None, None, None),
        lambda w, averages: reference.adam(w, averages, 0.2, 0.8, 0.95, 0.01),
    ),
    "fedyogi": (
        FedYogi(YogiConfig(server_lr=0.2, beta_1=0.8, beta_2=0.95, tau=0.01), None, None, None),
        lambda w, averages: reference.yogi(w, averages, 0.2, 0.8, 0.95, 0.01),
    ),
}
ROUNDS = 4


def averages(like: Params) -> Iterator[tuple[Tensor, list[Upload]]]:
    """Of each round: the weighted average of two clients, and their uploads."""
    size = flatten(like).numel()
    for number in range(1, ROUNDS + 1):
        one, other = (torch.randn(size, generator=stream(number, "client", k)) for k in range(2))
        pairs = enumerate(((3, one), (1, other)))
        yield (
            (3 * one + other) / 4,
            [Upload(k, number, n, weights=unflatten(vector, like)) for k, (n, vector) in pairs],
        )


def states(algorithm: Any, norm: Any = "instance") -> Iterator[ServerState]:
    here = federation.setting(norm)
    current = algorithm.init(here)
    yield current
    for _, uploads in averages(current.weights):
        current = algorithm.server(here, current, uploads, Streams(9))[0]
        yield current


def distance_to_plain_numbers(name: str) -> float:
    algorithm, formula = CASES[name]
    first, *later = states(algorithm)
    means = [mean for mean, _ in averages(first.weights)]
    worst = 0.0
    for place in range(0, flatten(first.weights).numel(), 7):
        expected = formula(float(flatten(first.weights)[place]), [float(mean[place]) for mean in means])
        found = [float(flatten(state.weights)[place]) for state in later]
        worst = max(worst, *(abs(left - right) for left, right in zip(found, expected, strict=True)))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_rounds_are_those_of_the_formula(name: str) -> None:
    assert distance_to_plain_numbers(name) < 2e-6


@pytest.mark.parametrize("name", CASES)
def test_forgotten_moments_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remember = fedopt.ServerState
    monkeypatch.setattr(fedopt, "ServerState", lambda number, weights, memory: remember(number, weights))
    assert distance_to_plain_numbers(name) > 1e-2


def test_a_wrong_round_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's correction of its bias depends on it."""
    step = fedopt.stepped
    monkeypatch.setattr(fedopt, "stepped", lambda strategy, number, average: step(strategy, number - 1, average))
    assert distance_to_plain_numbers("fedadam") > 1e-2


def test_the_first_round_by_hand() -> None:
    """w = 0, Δ = 1.

    Momentum goes η, Yogi η (1 − β₁) / (√(1 − β₂) + τ), and Adam that times √(1 − β₂²) / (1 − β₁²).
    """
    assert reference.momentum(0.0, [1.0, 1.0], 0.5, 0.5) == [0.5, 1.0]
    assert reference.adam(0.0, [1.0], 1.0, 0.5, 0.75, 0.5)[0] == pytest.approx((1 - 0.5625) ** 0.5 / 0.75 * 0.5)
    assert reference.yogi(0.0, [1.0], 1.0, 0.5, 0.75, 0.5) == [0.5]


@pytest.mark.parametrize("name", CASES)
def test_buffers_are_averaged_and_types_are_kept(name: str) -> None:
    first, second, *_ = states(CASES[name][0], "batch")
    mean, _ = next(averages(first.weights))
    for key, value in unflatten(mean, first.weights).items():
        assert second.weights[key].dtype == value.dtype
        if "running" in key:
            torch.testing.assert_close(second.weights[key], value)
    assert not any("running" in key or "tracked" in key for key in second.memory)


def run_of(out: Path, algorithm: dict[str, Any]) -> tuple[Path, str]:
    words = {"rounds": 3, "algorithm": algorithm, "method": None, "server": None}
    raw = merge(parse_yaml(TINY, "test"), words)
    folder = execute(resolve(FederatedRun, {key: value for key, value in raw.items() if value is not None}), out)
    return folder, json.loads((folder / "result.json").read_text())["model_sha256"]


@pytest.mark.parametrize(
    "name",
    ["fedadam", pytest.param("fedavgm", marks=pytest.mark.slow), pytest.param("fedyogi", marks=pytest.mark.slow)],
)
def test_a_run_cut_off_goes_on_with_its_moments(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    folder, whole = run_of(tmp_path, {"name": name, "server_lr": 0.1})
    for path in (
        "result.json",
        "checkpoints/round_0003.safetensors",
        "clients/client_0001/round_003/upload.safetensors",
    ):
        (folder / path).unlink()
    kept = load_tensors(folder / "checkpoints/round_0002.safetensors")[0]
    assert sum(key.startswith("memory.") for key in kept) == 10 * (1 if name == "fedavgm" else 2)
    assert run_of(tmp_path, {"name": name, "server_lr": 0.1}) == (folder, whole)
    assert "aggregate_train" not in "".join(capsys.readouterr())


def test_they_are_algorithms_and_a_wrong_setting_is_one_line() -> None:
    assert all(isinstance(algorithm, Algorithm) for algorithm, _ in CASES.values())
    with pytest.raises(UserError, match=r"^algorithm\.beta_1: .*1"):
        load_run(CONFIG, ["algorithm.beta_1=1.0"])
    with pytest.raises(UserError, match=r"^algorithm\.server_momentum"):
        load_run(CONFIG, ["algorithm.server_momentum=0.5"])
