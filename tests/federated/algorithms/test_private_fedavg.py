"""FedAvg under `privacy: dp_sgd`: what is paid, what a reply holds, that it repeats, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.build import Parts
from fedsim.cli import main
from fedsim.config import to_yaml
from fedsim.experiment import execute
from fedsim.federated import client as answering
from fedsim.federated.base import ClientView
from fedsim.federated.messages import METRICS
from fedsim.federated.messages import write_upload as own
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.ledger import Ledger
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import Streams
from fedsim.types import UserError
from fedsim.workload import settled
from tests.reference.tiny_run import InlineGrid

PRIVACY = {"name": "dp_sgd", "sigma": 1.0, "public_bound": 1000, "rate": 0.01, "steps": 2, "noise": "seeded"}
RUN: dict[str, Any] = {
    "name": "tiny", "rounds": 2, "data": {"name": "digits"}, "partition": {"name": "iid", "clients": 2},
    "model": {"name": "convnet", "depth": 2, "width": 4}, "algorithm": {"name": "fedavg"},
    "controls": {"upload_real_subset": False}, "compute": {"chunk": 0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def config(privacy: dict[str, Any] | None = None, **changes: Any) -> FederatedRun:
    terms = {key: value for key, value in (PRIVACY | (privacy or {})).items() if value is not None}
    return resolve(FederatedRun, RUN | {"privacy": terms} | changes)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def ledger(folder: Path, client: int) -> Ledger:
    return Ledger(folder / f"clients/client_{client:04d}", 1e-5, "add_remove")


def test_the_command_spends_what_was_planned_and_says_that_it_is_a_simulation(tmp_path):
    terms = {"target_epsilon": 1.0, "sigma": None, "steps": 1}
    (tmp_path / "tiny.yaml").write_text(to_yaml(config(terms)))
    assert main(["run", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs")]) == 0
    (path,) = (tmp_path / "runs").rglob("result.json")
    found = result(path.parent)
    assert found["epsilon"] == found["privacy"]["planned_epsilon"] <= 1.0
    assert found["epsilon"] > 0.98
    assert (found["privacy"]["method"], found["privacy"]["label"], found["privacy"]["ledgers"]) == (
        "prv", "simulated_dp", 2,
    )  # fmt: skip
    assert [[one.number for one in ledger(path.parent, client).charges] for client in (0, 1)] == [[1, 1], [1, 1]]
    assert "simulated_dp" in (path.parent / "report.html").read_text()
    assert found["controls"] == {}  # the server trains on no images


def test_one_hash_per_seed_and_another_for_noise_of_the_system(tmp_path):
    one, other = (result(execute(config(participation={"per_node": g}), tmp_path)) for g in (1, 2))
    assert one["model_sha256"] == other["model_sha256"]
    real = result(execute(config({"noise": "system"}), tmp_path))
    assert real["model_sha256"] != one["model_sha256"]
    assert real["privacy"]["label"] == "dp"
    assert {item["status"] for item in real["privacy"]["assumptions"]} == {"enforced", "assumed"}


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("moment", "paid"), [("store", [2, 2]), ("send", [2])])
def test_killed_in_a_round_a_run_ends_the_same_and_pays_for_what_was_lost(tmp_path, monkeypatch, moment, paid):
    """The second client dies after its charge, before or after what it trained is stored."""
    calls: list[object] = []

    def dying(kept: Any) -> Any:
        def planted(*args: Any, **settings: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise KilledError
            return kept(*args, **settings)

        return planted

    whole = result(execute(config(rounds=1), tmp_path / "whole"))
    place = (ledgers, "save_tensors") if moment == "store" else (answering, "keep")
    monkeypatch.setattr(*place, dying(getattr(*place)))
    with pytest.raises(KilledError):
        execute(config(rounds=1), tmp_path / "killed")
    folder = execute(config(rounds=1), tmp_path / "killed")
    assert [one.number for one in ledger(folder, 1).charges] == paid
    assert result(folder)["model_sha256"] == whole["model_sha256"]
    assert result(folder)["privacy"]["releases"] == sum(paid)


def test_a_reply_holds_constants_and_the_average_is_uniform(tmp_path, monkeypatch):
    replies = []

    def reading(upload: Any) -> Any:
        replies.append((own(upload), upload.weights))
        return replies[-1][0]

    monkeypatch.setattr("fedsim.federated.client.write_upload", reading)
    folder = execute(config(rounds=1, partition={"name": "quantity", "clients": 3}), tmp_path)
    for reply, _ in replies:  # T9
        assert dict(reply.metric_records[METRICS]) == {"examples": 1, "iterations": [], "losses": []}
    (checkpoint,) = folder.glob("checkpoints/*.safetensors")
    stored, _ = ledgers.load_tensors(checkpoint)
    name = "head.bias"
    mean = torch.stack([weights[name].double() for _, weights in replies]).mean(0)
    (found,) = [value for key, value in stored.items() if key.endswith(name)]
    assert torch.allclose(found.double(), mean, atol=1e-7)


def test_a_client_without_images_takes_its_steps_like_any_other(tmp_path):
    parts = settled(Parts(config(rounds=1)))
    parts.split.client[1] = parts.split.client[1][:0]
    algorithm, here = parts.algorithm(), parts.setting
    view = ClientView(1, here, parts.images(parts.split.client[1]), tmp_path / "client_0001/round_001")
    state = algorithm.init(here)
    upload = algorithm.client(view, algorithm.broadcast(state, [1])[1], Streams(0))
    assert (upload.examples, upload.losses) == (1, ())
    assert upload.weights is not None
    assert all(not torch.equal(value, state.weights[name]) for name, value in upload.weights.items())
    assert [one.number for one in Ledger(tmp_path / "client_0001", 1e-5, "add_remove").charges] == [2]


@pytest.mark.parametrize(
    ("privacy", "changes", "says"),
    [
        ({"rate": None}, {}, "privacy.rate: "),
        ({"rate": 1.5}, {}, "privacy.rate: "),
        ({"clip": 0.0}, {}, "privacy.clip: "),
        ({"steps": 0}, {}, "privacy.steps: "),
        ({"divisor": -1.0}, {}, "privacy.divisor: "),
        ({"kappa": 1.0}, {}, "privacy.kappa: "),
        ({}, {"algorithm": {"name": "scaffold"}}, "privacy: algorithm scaffold sends what is not accounted for"),
        ({}, {"algorithm": {"name": "fedprox"}}, "privacy: algorithm fedprox sends what is not accounted for"),
        ({}, {"model": {"name": "convnet", "norm": "batch"}}, "model.norm: got batch"),  # T6
        ({}, {"transcript": "none"}, "transcript: got none"),
        ({}, {"algorithm": {"name": "fedavg", "local": {"batch_size": 7}}}, "algorithm.local.batch_size: got 7"),
        ({"delta": 1e-2}, {}, "delta: got 0.01"),  # T14
        ({}, {"controls": {"upload_real_subset": False, "noisy_class_means": True}}, "controls.noisy_class_means: got"),
    ],
)
def test_what_is_not_accounted_for_is_refused_before_any_work(privacy, changes, says):
    with pytest.raises(UserError) as refused:
        config(privacy, **changes)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)
