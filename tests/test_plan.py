"""`--dry-run`: the config as it will be stored, counts and bytes that the run then has, times that scale."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedsim import plan as planning
from fedsim.build import Parts
from fedsim.config import merge, parse_yaml, to_yaml
from fedsim.experiment import execute
from fedsim.plan import plan
from fedsim.schema import Distillation, FederatedRun, resolve
from fedsim.types import UserError
from fedsim.workload import settled
from tests.reference.tiny_run import CENTRAL, TINY, InlineGrid


def federated(**changes: Any) -> FederatedRun:
    return resolve(FederatedRun, merge(parse_yaml(TINY, "test"), changes))


def central(**changes: Any) -> Distillation:
    return resolve(Distillation, merge(parse_yaml(CENTRAL, "test"), changes))


def number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found.group(1).replace(",", ""))


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second per image forward, two backward."""
    monkeypatch.setattr(planning, "_pass_seconds", lambda *_: (1.0, 2.0))


@pytest.mark.parametrize("config", [federated(), central()], ids=["federated", "central"])
def test_it_is_a_config_that_can_be_run(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = plan(config)
    resolved = settled(Parts(config)).config
    assert resolve(type(config), parse_yaml(text, "test")) == resolved
    assert text.startswith(to_yaml(resolved).rstrip())
    assert list(tmp_path.iterdir()) == []


def test_it_counts_the_records_and_weights():
    text = plan(federated())
    counts = re.search(r"# train (\d+) images, val (\d+), test (\d+), weights (\d+)", text)
    assert counts
    train, val, test, weights = map(int, counts.groups())
    assert (train + val + test, test, val) == (1797, 359, 144)
    # Two blocks of 3×3 convolution and norm, four channels each, and a head over 4×2×2 features.
    assert weights == (9 * 4 + 4) + (4 + 4) + (9 * 4 * 4 + 4) + (4 + 4) + (16 * 10 + 10)


def test_what_it_foretells_is_what_the_run_has(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    config = federated(method={"ipc": 3})
    text = plan(config)
    result = json.loads((execute(config, tmp_path) / "result.json").read_text())
    assert number(text, r"(\d+) synthetic images a round") == result["synthetic_images"] == 60
    down = number(text, r"downlink ([\d,]+) bytes a round") * config.rounds
    assert down == result["downlink_bytes"]
    up = number(text, r"uplink about ([\d,]+) and") * config.rounds
    assert 0.5 < up / result["uplink_bytes"] < 1.5


def test_no_class_gets_more_images_than_it_has(steady):
    train, iterations = 1294, 2
    assert number(plan(federated(method={"ipc": 10**6})), r"(\d+) synthetic images") == train
    seconds = number(plan(central(method={"ipc": 10**6})), r"condensation about ([\d,]+) s")
    assert seconds == iterations * 3 * train + train


# Two clients, two iterations: 10 synthetic images each way three seconds, 647 real ones forward once for the pool.
CLIENTS, SERVER = 2 * (2 * 10 * 3 + 647), 20 * 3


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 2 * (CLIENTS + SERVER)),
        ({"rounds": 4}, 4 * (CLIENTS + SERVER)),
        ({"compute": {"workers": 2}}, 2 * (CLIENTS / 2 + SERVER)),
        ({"compute": {"workers": 99}}, 2 * (CLIENTS / 2 + SERVER)),
        ({"participation": {"fraction": 0.5}}, CLIENTS + SERVER),
        ({"participation": {"trace": {"name": "cyclic", "period": 2, "share": 0.5}}}, CLIENTS + SERVER),
        ({"server": {"epochs": 11}}, 2 * (CLIENTS + 11 * SERVER)),
        ({"method": {"iterations": 4}}, 2 * (CLIENTS + 2 * 2 * 10 * 3 + SERVER)),
    ],
)
def test_time_follows_from_what_is_asked(steady, changes, seconds):
    assert number(plan(federated(**changes)), r"time about ([\d,]+) s") == seconds


def test_what_travels_both_ways_is_counted(steady):
    plain = {key: value for key, value in parse_yaml(TINY, "test").items() if key not in {"method", "server"}}
    found = {}
    for name in ("fedavg", "scaffold"):
        text = plan(resolve(FederatedRun, plain | {"algorithm": {"name": name}}))
        assert "0 synthetic images" in text
        found[name] = number(text, r"uplink about ([\d,]+)")
        assert found[name] == number(text, r"downlink ([\d,]+)") > 0
    assert found["scaffold"] == pytest.approx(2 * found["fedavg"], rel=0.1)


def test_it_says_that_there_is_no_privacy_and_refuses_what_a_run_refuses():
    assert "# epsilon: none; no differential privacy is applied" in plan(federated())
    with pytest.raises(UserError, match=r"model\.depth=4 pools images of 8×8 to nothing"):
        plan(federated(model={"depth": 4}))
    with pytest.raises(UserError, match="client 9 does not exist"):
        plan(federated(faults=[{"name": "nan", "client": 9}]))


def test_the_place_it_is_measured_in_is_left_alone(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = plan(federated()), plan(federated())
    keep = [line for line in first.splitlines() if " s " not in line]
    assert keep == [line for line in second.splitlines() if " s " not in line]
