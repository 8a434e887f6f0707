"""What an ε rests on: premises are told as they are, plans are kept to, and processes that share a ledger all pay."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedsim.build import Parts
from fedsim.config import validate
from fedsim.distill import private
from fedsim.privacy.features import Config, Features
from fedsim.privacy.ledger import Charge, Known, Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.premises import assumptions, statement
from fedsim.types import UserError
from tests.federated.algorithms.test_private_feddm import config

MECHANISM = Mechanism(1.0, 0.1, 5.0)


def ledger(folder: Path, known: Known | None = None) -> Ledger:
    return Ledger(folder, 1e-5, "add_remove", known or Known())


def pay(one: Ledger, key: str, number: int = 1) -> None:
    one.once(Charge.of(key, MECHANISM, number, simulated=False), lambda: {"values": torch.zeros(1)})


def status(one: Ledger) -> dict[str, str]:
    return {premise.name: premise.status for premise in assumptions(one, 1000, 10)}


# --- the plan ---


def test_releases_beyond_the_plan_are_told(tmp_path):
    one = ledger(tmp_path, Known(planned=3))
    pay(one, "round 1", 3)
    assert status(one)["releases within the plan"] == "enforced"
    pay(one, "round 1, again", 1)
    (broken,) = [premise for premise in assumptions(one, 1000, 10) if premise.status == "violated"]
    assert broken.name == "releases within the plan"
    assert broken.evidence.startswith("4 releases, and 3 were agreed on")
    assert statement(one, 1000, 10)["releases"] == 4


def test_beyond_twice_the_plan_nothing_is_charged_or_drawn(tmp_path):
    one, drawn = ledger(tmp_path, Known(planned=2)), []
    pay(one, "round 1", 4)
    with pytest.raises(UserError, match="holds 4 releases, 2 were agreed on, and 1 more") as refused:
        one.once(Charge.of("round 2", MECHANISM, 1, simulated=False), lambda: drawn.append(1) or {})
    assert "\n" not in str(refused.value)
    assert drawn == []
    assert ledger(tmp_path).made == one.made == 4


def test_an_agreement_hands_its_plan_to_every_ledger(tmp_path):
    agreed = Features(validate(Config, {"name": "features", "sigma": 5.0, "public_bound": 2000}), 2)
    agreed.data = "enforced"
    assert agreed.ledger(tmp_path).known == Known(2, "enforced", "assumed")
    assert status(ledger(tmp_path))["releases within the plan"] == "assumed"


# --- the user's own parts ---


@pytest.mark.parametrize(("data", "model"), [("enforced", "assumed"), ("assumed", "enforced")])
def test_what_is_not_seen_is_assumed(tmp_path, data, model):
    found = status(ledger(tmp_path, Known(1, data, model)))
    assert found["normalisation and class list are public"] == data
    assert found["vectors depend on one record each"] == model


@pytest.mark.parametrize(
    ("data", "model", "seen"),
    [
        ("digits", "convnet", ("enforced", "enforced")),
        ("npz", "my.nets:Net", ("enforced", "assumed")),
        ("image_folder", "vit", ("assumed", "enforced")),
        ("my.sets:Scans", "mlp", ("assumed", "enforced")),
    ],
)
def test_parts_of_the_catalog_are_vouched_for_and_the_users_own_are_not(data, model, seen):
    agreed = private.vouched(SimpleNamespace(), data, model)
    assert (agreed.data, agreed.model) == seen


def test_a_run_on_the_catalog_assumes_nothing_of_its_parts():
    agreed = Parts(config()).privacy
    assert agreed is not None
    assert (agreed.data, agreed.model) == ("enforced", "enforced")


# --- processes that share a ledger ---


def test_a_charge_of_another_process_is_read_before_the_next(tmp_path):
    one, other, third = (ledger(tmp_path, Known(planned=1)) for _ in range(3))
    pay(one, "round 1")
    pay(other, "round 2")
    assert other.made == 2
    with pytest.raises(UserError, match="holds 2 releases"):
        pay(one, "round 3")
    for key in ("round 1", "round 2"):  # each finds its own charge
        pay(third, key)
    assert ledger(tmp_path).made == 2


def test_charging_waits_for_who_is_charging(tmp_path):
    one = ledger(tmp_path)
    working = threading.Thread(target=pay, args=(one, "round 1"))
    with (tmp_path / ".privacy.jsonl.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        working.start()
        working.join(0.5)
        assert working.is_alive()
        assert not (tmp_path / "privacy.jsonl").exists()
    working.join(30)
    assert ledger(tmp_path).made == 1


def test_the_name_of_a_new_ledger_is_on_the_disk_before_noise_is_drawn(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def seeing(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino if stat.S_ISDIR(os.fstat(handle).st_mode) else 0)
        sync(handle)

    monkeypatch.setattr(os, "fsync", seeing)
    folder = tmp_path / "client_0000"
    seen: list[bool] = []

    def make() -> dict[str, torch.Tensor]:
        seen.append(folder.stat().st_ino in synced)
        return {"values": torch.zeros(1)}

    ledger(folder).once(Charge.of("round 1", MECHANISM, 1, simulated=False), make)
    assert seen == [True]
