"""FedDM under `privacy`: what is paid, what a reply holds, that it repeats, and what is refused before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedsim.build import Parts
from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.algorithms import feddm
from fedsim.federated.base import ClientView
from fedsim.federated.messages import METRICS
from fedsim.federated.messages import write_upload as own
from fedsim.privacy.ledger import Ledger
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import Streams
from fedsim.types import UserError
from fedsim.workload import settled
from tests.reference.tiny_run import TINY, InlineGrid

PRIVACY = {"name": "features", "target_epsilon": 8.0, "public_bound": 2000, "noise": "seeded"}
CHANGES: dict[str, Any] = {
    "privacy": PRIVACY,
    "method": {"batch_real": 0, "networks": {"size": 2}},
    "partition": {"clients": 2},
    "controls": {"noisy_class_means": False},
}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def config(**changes: Any) -> FederatedRun:
    raw = merge(merge(parse_yaml(TINY, "test"), CHANGES), changes)
    return resolve(FederatedRun, {key: value for key, value in raw.items() if value is not None})


def run(out: Path, **changes: Any) -> Path:
    return execute(config(**changes), out)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def ledger(folder: Path, client: int) -> Ledger:
    return Ledger(folder / f"clients/client_{client:04d}", 1e-5, "add_remove")


@pytest.mark.parametrize("algorithm", ["feddm", "one_shot"])
def test_a_run_spends_what_was_planned_and_says_that_it_is_a_simulation(tmp_path, algorithm):
    rounds, around = (2, "server") if algorithm == "feddm" else (1, "fresh")
    networks = {"name": "pool", "size": 2, "around": around}
    folder = run(tmp_path, algorithm=algorithm, rounds=rounds, method={"networks": networks})
    found = result(folder)
    assert found["epsilon"] == found["privacy"]["planned_epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert (found["delta"], found["privacy"]["label"], found["privacy"]["ledgers"]) == (1e-5, "simulated_dp", 2)
    assert [len(ledger(folder, client).charges) for client in (0, 1)] == [2 * rounds, 2 * rounds]
    assert found["privacy"]["method"] == "gaussian"
    assert "simulated_dp" in (folder / "report.html").read_text()


def test_a_sampled_run_is_accounted_for_by_prv_and_stays_below_its_target(tmp_path):
    found = result(run(tmp_path, privacy={"rate": 0.01, "target_epsilon": 1.0}, rounds=1))
    assert found["privacy"]["method"] == "prv"
    assert found["epsilon"] == found["privacy"]["planned_epsilon"] <= 1.0
    (charge,) = found["privacy"]["charges"]
    assert (charge["rate"], charge["number"]) == (0.01, 2)
    (coins,) = [one for one in found["privacy"]["assumptions"] if one["name"] == "participation of records"]
    assert coins["evidence"] == "independent coins with one public rate"


def test_a_run_of_releases_per_step_pays_for_every_step(tmp_path):
    method = {"name": "dm", "batch_real": 0, "iterations": 3, "ipc": 1, "networks": {"name": "perturb"}}
    raw = merge(parse_yaml(TINY, "test"), CHANGES) | {"method": method, "privacy": PRIVACY | {"mode": "per_step"}}
    folder = execute(resolve(FederatedRun, raw), tmp_path)
    found = result(folder)
    assert found["privacy"]["releases"] == 3 * 2
    assert [len(ledger(folder, client).charges) for client in (0, 1)] == [6, 6]
    assert found["epsilon"] == pytest.approx(8.0, rel=1e-6)


def test_noise_of_the_system_is_no_simulation_and_differs(tmp_path):
    found = [result(run(tmp_path / name, privacy={"noise": "system"}, rounds=1)) for name in "ab"]
    assert [one["privacy"]["label"] for one in found] == ["dp", "dp"]
    assert found[0]["model_sha256"] != found[1]["model_sha256"]
    assert {one["status"] for one in found[0]["privacy"]["assumptions"]} == {"enforced", "assumed"}


@pytest.mark.parametrize("noise", ["system", "seeded"])
def test_under_real_noise_neither_result_nor_warning_tells_who_holds_few_records(tmp_path, capsys, noise):
    changes = {"privacy": {"noise": noise}, "rounds": 1, "partition": {"clients": 4}, "method": {"ipc": 5}}
    folder = run(tmp_path, **changes)
    found, said = result(folder), " ".join(capsys.readouterr().err.split())
    told = noise == "seeded"
    assert (found["small_classes"] is not None, found["clients_empty"] is not None) == (told, told)
    assert not told or found["small_classes"]
    assert ("client-class cells hold" in said) == told
    label = "simulated_dp; violated: noise that nobody can repeat" if told else "dp"
    assert f"epsilon 8, delta 1e-05 for one record: {label} " in said
    assert "Differential privacy" in (folder / "report.html").read_text()


def test_a_simulation_repeats_however_many_clients_a_node_serves(tmp_path):
    one, other = (result(run(tmp_path / str(g), participation={"per_node": g})) for g in (1, 2))
    assert one["model_sha256"] == other["model_sha256"]
    assert one["epsilon"] == other["epsilon"]


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("noise", ["seeded", "system"])
def test_killed_between_charge_and_send_a_run_resumes_with_what_was_released(tmp_path, monkeypatch, noise):
    """The second client's releases are charged and stored; it dies while it condenses, before it sends."""
    condense, calls = feddm.condense, []

    def dying(*args: Any, **settings: Any) -> Any:
        found = condense(*args, **settings)
        calls.append(found[0].images)
        if len(calls) == 2:
            raise KilledError
        return found

    monkeypatch.setattr(feddm, "condense", dying)
    with pytest.raises(KilledError):
        run(tmp_path, privacy={"noise": noise}, rounds=1)
    folder = next(path.parent for path in tmp_path.glob("*/*/clients"))
    before = len(ledger(folder, 1).charges)
    assert before == 2
    run(tmp_path, privacy={"noise": noise}, rounds=1)
    assert (calls[2] == calls[1]).all()  # made again from the stored releases, to the same bytes
    assert len(ledger(folder, 1).charges) == before


def test_a_reply_holds_neither_counts_nor_losses(tmp_path, monkeypatch):
    replies = []

    def reading(upload: Any) -> Any:
        replies.append(own(upload))
        return replies[-1]

    monkeypatch.setattr("fedsim.federated.client.write_upload", reading)
    run(tmp_path, rounds=1, partition={"name": "dirichlet", "alpha": 0.5})
    assert len(replies) == 10
    for reply in replies:  # T9
        assert dict(reply.metric_records[METRICS]) == {"examples": 1, "iterations": [], "losses": []}


@pytest.mark.parametrize("planted", [{"examples": 321}, {"losses": [(1, 0.5)]}])
def test_a_reply_with_an_exact_number_is_refused_and_stops_the_run(tmp_path, monkeypatch, planted):
    """T9, planted into the algorithm: nothing of it leaves the node."""
    honest = feddm.FedDM.client
    monkeypatch.setattr(feddm.FedDM, "client", lambda *asked: replace(honest(*asked), **planted))
    with pytest.raises(UserError, match="privacy: the algorithm's reply holds a number of images or losses") as refused:
        run(tmp_path, rounds=1)
    assert not any(number in str(refused.value) for number in ("321", "0.5"))
    assert not list(tmp_path.rglob("synthetic/**/*.safetensors"))


def test_a_client_without_images_is_asked_and_answers_like_any_other(tmp_path):
    parts = settled(Parts(config(rounds=1)))
    parts.split.client[1] = parts.split.client[1][:0]
    assert parts.asked == [0, 1]
    algorithm, here = parts.algorithm(), parts.setting
    view = ClientView(1, here, parts.images(parts.split.client[1]), tmp_path / "client_0001/round_001")
    upload = algorithm.client(view, algorithm.broadcast(algorithm.init(here), [1])[1], Streams(0))
    assert (upload.examples, upload.losses) == (1, ())
    assert upload.synthetic is not None
    assert len(upload.synthetic.labels) >= 1
    assert len(Ledger(tmp_path / "client_0001", 1e-5, "add_remove").charges) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": "fedavg", "method": None, "server": None}, "privacy: algorithm fedavg sends what is not"),
        ({"method": {"init": "real"}}, "method.init: got real"),  # T1
        ({"method": {"batch_real": 8}}, "method.batch_real: got 8"),
        ({"method": {"networks": {"refresh": 5}}}, "method.networks: under privacy"),
        ({"controls": {"upload_real_subset": True}}, "controls.upload_real_subset: got true"),
        ({"transcript": "none"}, "transcript: got none"),
        ({"partition": {"min_class": 30}}, "partition.min_class: got 30; it withholds"),  # T8
        ({"privacy": {"delta": 1e-3}}, "delta: got 0.001"),  # T14
        ({"privacy": {"sigma": 1.0}}, "privacy: "),
        ({"privacy": {"target_epsilon": None}}, "privacy: "),
        ({"privacy": {"public_bound": None}}, "privacy.public_bound"),
        ({"privacy": {"clip": float("nan")}}, "privacy.clip"),
        (
            {"privacy": {"adjacency": "replace", "rate": 0.2}},
            "privacy.adjacency: replace is accounted for with all records",
        ),
        ({"privacy": {"subspace": "previous", "dimension": 4}, "rounds": 1}, "privacy.subspace: previous looks at"),
        ({"privacy": {"centre": "previous"}, "rounds": 1}, "privacy.centre: previous looks at"),
        ({"privacy": {"mode": "per_step"}}, "method.networks: got pool; under privacy.mode: per_step"),
        ({"method": {"networks": {"name": "fresh"}}}, "method.networks: under privacy every network is a release"),
    ],
)
def test_what_would_release_more_than_is_paid_is_refused_before_any_work(changes, says):
    with pytest.raises(UserError) as refused:
        config(**changes)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["cafe", "datadam", "dc", "dd", "herding"])
def test_methods_that_are_no_noisy_class_sum_are_refused_with_the_reason(name):
    raw = merge(parse_yaml(TINY, "test"), {"privacy": PRIVACY}) | {"method": {"name": name}}
    with pytest.raises(UserError, match=f"^privacy: method {name}: .*; valid: dm$"):
        resolve(FederatedRun, raw)
