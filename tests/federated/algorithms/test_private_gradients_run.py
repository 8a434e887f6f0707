"""Runs under `privacy: gradients`: what is paid, what a reply holds, that a kill costs nothing, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim import catalog
from fedsim.build import Parts
from fedsim.config import merge, parse_yaml
from fedsim.distill.private_steps import OTHER, REFUSED, SERVED, check
from fedsim.experiment import execute
from fedsim.federated.algorithms import feddm
from fedsim.federated.messages import METRICS
from fedsim.federated.messages import write_upload as own
from fedsim.privacy.ledger import Ledger
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError
from tests.reference.tiny_run import TINY, InlineGrid

PRIVACY = {"name": "gradients", "target_epsilon": 8.0, "public_bound": 2000, "noise": "seeded"}
META = {"name": "meta_knowledge", "ipc": 1, "iterations": 3, "batch_real": 0, "inner_steps": 2}
GRADIENT = {"ipc": 1, "iterations": 2, "batch_real": 0}
FEDMK = {"name": "fedmk", "generator": {"width": 4, "steps": 3, "batch": 8, "pseudo": 1}}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def config(algorithm: Any = FEDMK, method: dict[str, Any] | None = None, **changes: Any) -> FederatedRun:
    raw = parse_yaml(TINY, "test") | {"algorithm": algorithm, "method": method or META, "privacy": PRIVACY}
    raw["model"] = {"name": "convnet", "depth": 1, "width": 4}
    raw["controls"] = {"upload_real_subset": False, "noisy_class_means": False}
    return resolve(FederatedRun, merge(raw, changes))


def run(out: Path, *words: Any, **changes: Any) -> tuple[Path, dict[str, Any]]:
    folder = execute(config(*words, **changes), out)
    return folder, json.loads((folder / "result.json").read_text())


def ledger(folder: Path, client: int) -> Ledger:
    return Ledger(folder / f"clients/client_{client:04d}", 1e-5, "add_remove")


def test_fedmk_spends_what_was_planned_and_its_replies_hold_constants(tmp_path, monkeypatch):
    replies = []

    def reading(upload: Any) -> Any:
        replies.append(own(upload))
        return replies[-1]

    monkeypatch.setattr("fedsim.federated.client.write_upload", reading)
    folder, found = run(tmp_path, rounds=2)
    assert found["epsilon"] == found["privacy"]["planned_epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert found["privacy"]["label"] == "simulated_dp"
    assert [len(ledger(folder, client).charges) for client in (0, 1)] == [6, 6]
    assert len(replies) == 4
    for reply in replies:  # T9
        assert dict(reply.metric_records[METRICS]) == {"examples": 1, "iterations": [], "losses": []}


@pytest.mark.parametrize(
    ("algorithm", "method", "around"),
    [
        ("feddm", "dm", "perturb"),
        ("one_shot", "dc", "fresh"),
        pytest.param("feddm", "dsa", "fresh", marks=pytest.mark.slow),
        (FEDMK, "idc", "perturb"),
    ],
)
def test_every_served_method_spends_its_steps_under_sampling(tmp_path, algorithm, method, around):
    extra = {"train_on": "synthetic", "metric": "mse"} if method == "idc" else {}
    chosen = {"name": method, **GRADIENT, **extra, "networks": {"name": around}}
    folder, found = run(
        tmp_path, algorithm, chosen, rounds=1, privacy={"rate": 0.05, "target_epsilon": None, "sigma": 1.0}
    )
    assert [len(ledger(folder, client).charges) for client in (0, 1)] == [2, 2]
    assert found["privacy"]["method"] in ("prv", "rdp")
    assert found["epsilon"] == found["privacy"]["planned_epsilon"]


class KilledError(BaseException):
    """The process ends here."""


def test_killed_in_the_middle_of_a_client_a_run_resumes_to_the_same_model(tmp_path, monkeypatch):
    """The second client of round 2 dies after two of its releases, before it sends."""
    _, whole = run(tmp_path / "whole", rounds=2)
    condense, calls = feddm.condense, []

    def dying(*words: Any, **settings: Any) -> Any:
        calls.append(words)
        if len(calls) == 4:
            condense(words[0], words[1], 2, *words[3:], **settings)
            raise KilledError
        return condense(*words, **settings)

    monkeypatch.setattr(feddm, "condense", dying)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", rounds=2)
    folder = next(path.parent for path in (tmp_path / "killed").glob("*/*/clients"))
    assert len(ledger(folder, 1).charges) == 3 + 2
    _, found = run(tmp_path / "killed", rounds=2)
    assert found["model_sha256"] == whole["model_sha256"]
    assert found["epsilon"] == whole["epsilon"]
    assert [len(ledger(folder, client).charges) for client in (0, 1)] == [6, 6]


def test_the_plan_counts_every_step_of_every_round():
    agreed = Parts(config(rounds=5)).privacy
    assert agreed is not None
    assert agreed.number == 15


# --- refusals ---


@pytest.mark.parametrize("name", list(catalog.CATALOG["method"]))
def test_every_method_is_served_or_refused_with_its_reason(name):
    settings = catalog.resolve("method", name).Config
    if settings in SERVED:
        assert name not in REFUSED
        return
    with pytest.raises(UserError) as refused:
        check(settings())
    reason = f"privacy: method {name}: {REFUSED[name]}; valid: dc, dsa, idc, meta_knowledge, dm"
    assert str(refused.value) == reason


def test_an_unknown_method_is_refused_too():
    from fedsim.config import Section

    class Mine(Section):
        name: str = "my.package:Experts"

    with pytest.raises(UserError) as refused:
        check(Mine())
    assert str(refused.value).startswith(f"privacy: method my.package:Experts: {OTHER}")


@pytest.mark.parametrize(
    ("algorithm", "method", "changes", "says"),
    [
        ("fedavg", None, {"server": None}, "privacy: algorithm fedavg sends what is not accounted for"),
        ("feddm", {**META, "init": "real"}, {}, "method.init: got real"),  # T1
        ("feddm", {"name": "idc", **GRADIENT, "init": "mix"}, {}, "method.init: got mix"),
        ("feddm", {**META, "batch_real": 8}, {}, "method.batch_real: got 8"),  # T18
        (
            "feddm",
            {"name": "dc", "networks": {"name": "early"}, **GRADIENT},
            {},
            "method.networks: early: its",
        ),
        ("feddm", {"name": "dm", "networks": {"name": "pool"}, **GRADIENT}, {}, "method.networks: pool: it keeps"),
        ("feddm", {"name": "idc", **GRADIENT}, {}, "method.train_on: got real"),
        ("feddm", {"name": "cafe"}, {}, "privacy: method cafe: its discrimination term"),
        ("feddm", META, {"privacy": {"clip": -1.0}}, "privacy.clip"),
        ("feddm", META, {"privacy": {"kappa": 0.0}}, "privacy.kappa"),
        ("feddm", META, {"privacy": {"rate": 1.5}}, "privacy.rate"),
        ("feddm", META, {"privacy": {"least": 0}}, "privacy.least"),
        ("feddm", META, {"privacy": {"delta": 1e-3}}, "delta: got 0.001"),  # T14
        ("feddm", META, {"controls": {"upload_real_subset": True}}, "controls.upload_real_subset: got true"),
    ],
)
def test_what_would_release_more_than_is_paid_is_refused_before_any_work(algorithm, method, changes, says):
    raw = parse_yaml(TINY, "test") | {"algorithm": algorithm, "method": method, "privacy": PRIVACY}
    raw = {key: value for key, value in merge(raw, changes).items() if value is not None}
    with pytest.raises(UserError) as refused:
        resolve(FederatedRun, raw)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)
