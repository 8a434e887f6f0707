"""Unequal work: who does how much, that clients do it, that it is counted, and that FedNova's server knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.build import Parts
from fedsim.config import merge, parse_yaml
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.cost import Passes
from fedsim.experiment import execute
from fedsim.federated.algorithms import fedavg
from fedsim.federated.algorithms.fednova import Config, FedNova
from fedsim.federated.base import ServerState, Upload
from fedsim.federated.budgets import Groups, GroupsConfig, scaled_local, whole
from fedsim.schema import FederatedRun, load_run, resolve
from fedsim.seeding import Streams
from fedsim.types import UserError
from fedsim.workload import federated, round_flops
from tests.reductions.training import LOCAL
from tests.reference import fedavg as federation
from tests.reference import fednova as reference
from tests.reference.tiny_run import TINY, InlineGrid

LIGHT = settings(max_examples=40, deadline=None)
PRIVATE = Path(__file__).parents[2] / "configs/quickstart/feddm_private_digits.yaml"


@LIGHT
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 60), st.integers(0, 5))
def test_groups_have_their_shares_of_the_clients(parts: list[int], clients: int, seed: int) -> None:
    shares = [part / sum(parts) for part in parts]
    scale = [1.0, 0.5, 0.25, 0.125][: len(parts)]
    groups = Groups(GroupsConfig(shares=tuple(shares), scale=tuple(scale)))
    found = groups.scales(clients, Streams(seed))
    assert len(found) == clients
    for share, one in zip(shares, scale, strict=True):
        assert abs(found.count(one) - share * clients) < 1 + 1e-9
    assert found == groups.scales(clients, Streams(seed))


def test_who_is_in_which_group_depends_on_the_seed() -> None:
    groups = Groups(GroupsConfig())
    assert len({groups.scales(20, Streams(seed)) for seed in range(5)}) == 5
    assert sorted(groups.scales(10, Streams(0))) == [0.25] * 2 + [0.5] * 3 + [1.0] * 5


@pytest.mark.parametrize(("scale", "count", "expected"), [(0.5, 5, 3), (0.5, 4, 2), (0.25, 1, 1), (1, 7, 7)])
def test_work_is_rounded_to_the_nearest_and_never_nothing(scale: float, count: int, expected: int) -> None:
    assert whole(scale, count) == expected


# --- FedNova, which exists for this ---

FULL = LOCAL.model_copy(update={"epochs": 4, "momentum": 0.9})
SCALES = (0.25, 1.0, 0.5)


def a_round(scales: tuple[float, ...]) -> tuple[ServerState, list[Upload], ServerState, dict[str, float]]:
    """Before, uploads, after, metrics: clients of 9, 6 and 4 images, batches of 3, up to four epochs."""
    here = replace(federation.setting(), scales=scales)
    config = Config(local=FULL.model_copy(update={"batch_size": 3}))
    algorithm = FedNova(config, None, None, None)
    before = algorithm.init(here)
    sent = algorithm.broadcast(before, range(3))
    uploads = []
    for k in range(3):
        own = FedNova(scaled_local(config, here.scale(k)), None, None, None)
        uploads.append(own.client(federation.view(k, here), sent[k], Streams(k)))
    return before, uploads, *algorithm.server(here, before, uploads, Streams(9))


def test_fednova_divides_by_the_steps_that_were_taken() -> None:
    before, uploads, after, metrics = a_round(SCALES)
    taken = [1 * 3, 4 * 2, 2 * 2]
    assert (metrics["fewest_steps"], metrics["most_steps"]) == (3, 8)
    assert [upload.losses[-1][0] for upload in uploads] == [1, 4, 2]
    vectors = [reference.coefficients([FULL.lr] * count, FULL.momentum) for count in taken]
    expected = reference.update(before.weights, [one.weights or {} for one in uploads], [9, 6, 4], vectors)
    assert max(float((after.weights[name] - value).abs().max()) for name, value in expected.items()) < 1e-6
    blind = [reference.coefficients([FULL.lr] * count, FULL.momentum) for count in (12, 8, 8)]
    wrong = reference.update(before.weights, [one.weights or {} for one in uploads], [9, 6, 4], blind)
    assert max(float((after.weights[name] - value).abs().max()) for name, value in wrong.items()) > 1e-3


def test_unequal_steps_are_where_it_leaves_fedavg() -> None:
    before, uploads, after, _ = a_round(SCALES)
    plain = fedavg.average(before.weights, uploads)[0]
    assert max(float((after.weights[name] - plain[name]).abs().max()) for name in plain) > 1e-3


# --- whole runs ---


def tiny(**changes: Any) -> FederatedRun:
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    return resolve(FederatedRun, raw)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def ledger(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


HALVES = {"name": "groups", "shares": [0.5, 0.5], "scale": [1.0, 0.5]}
WEIGHTS: dict[str, Any] = {"method": None, "server": None, "partition": {"clients": 4}}


@pytest.mark.parametrize(
    "algorithm", ["fedavg", pytest.param("fedprox", marks=pytest.mark.slow), "scaffold", "fednova"]
)
def test_clients_train_as_long_as_their_budget(tmp_path: Path, inline: None, algorithm: str) -> None:
    given = {"name": algorithm, "local": {"epochs": 2, "momentum": 0.0}}
    config = tiny(algorithm=given, budgets=HALVES, **WEIGHTS)
    folder = execute(config, tmp_path)
    scales = result(folder)["budgets"]
    assert sorted(scales) == [0.5, 0.5, 1.0, 1.0]
    for record in ledger(folder):
        assert {int(client): logged[-1][0] for client, logged in record["losses"].items()} == {
            client: 2 * scale for client, scale in enumerate(scales)
        }
    plain = execute(tiny(algorithm=given, **WEIGHTS), tmp_path)
    assert result(plain)["model_sha256"] != result(folder)["model_sha256"]
    assert result(plain)["budgets"] == []
    assert result(folder)["client_flops"] == pytest.approx(0.75 * result(plain)["client_flops"], rel=0.01)


def test_everyone_at_full_work_is_no_budget(tmp_path: Path, inline: None) -> None:
    full = {"name": "groups", "shares": [0.5, 0.5], "scale": [1.0, 1.0]}
    hashes = {result(execute(tiny(budgets=one), tmp_path))["model_sha256"] for one in (None, full)}
    assert len(hashes) == 1


def test_clients_condense_as_long_as_their_budget_and_resume_so(tmp_path: Path, inline: None) -> None:
    method = {"ipc": 2, "iterations": 4}
    config = tiny(budgets={**HALVES, "ipc": True}, method=method, controls={"upload_real_subset": True})
    folder = execute(config, tmp_path)
    scales = result(folder)["budgets"]
    for client, scale in enumerate(scales):
        own = SyntheticSet.load(folder / f"synthetic/round_001/client_{client:04d}.safetensors")
        assert len(own) == 10 * 2 * scale
        assert ledger(folder)[0]["losses"][str(client)][-1][0] == 4 * scale
    expected = result(folder)
    assert expected["synthetic_images"] == 30
    for name in (
        "result.json",
        "checkpoints/round_0002.safetensors",
        "clients/client_0001/round_002/upload.safetensors",
    ):
        (folder / name).unlink()
    assert execute(config, tmp_path) == folder
    for key in ("model_sha256", "controls", "client_flops", "server_flops", "uplink_bytes"):
        assert result(folder)[key] == expected[key], key


def test_the_cost_is_that_of_what_each_does() -> None:
    method = {"ipc": 4, "iterations": 8}
    here = Parts(tiny(budgets={**HALVES, "ipc": True}, method=method, server={"epochs": 3}))
    real = [len(positions) for positions in here.split.client]
    steps = sum(8 * scale * 40 * scale for scale in here.scales)
    assert federated(here) == (Passes(forward=sum(real), pixels=steps), Passes(training=3 * (40 + 20)))
    full = here.scales.index(1.0)
    one, other = (round_flops(here)([client])[0] for client in (full, 1 - full))
    assert one > other > 0


def test_under_privacy_it_is_refused() -> None:
    with pytest.raises(UserError, match="budgets: got groups; under privacy every client does the same: leave it out"):
        load_run(PRIVATE, ["budgets=groups"])
