"""The benchmark of what is left of a backdoor: its runs are possible, its curves and pairs are what they say."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import afterwards_tables as tables
import backdoor_afterwards as benchmark
from model_defence_runs import RUNS

SHORT = {"model": {"depth": 1, "width": 4}, "method": {"name": "random", "ipc": 2}, "server": {"epochs": 1}}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> argparse.Namespace:
    """Runs of moments: random real images in the place of condensed ones."""
    monkeypatch.setitem(RUNS, "digits", RUNS["digits"] | SHORT)
    monkeypatch.setattr("model_defence_runs.START", {})
    monkeypatch.setattr(benchmark, "ROUNDS", 3)
    monkeypatch.setattr(benchmark, "CASES", (("feddm", "naive"), ("fedavg", "model_replacement")))
    monkeypatch.setattr(benchmark, "EPOCHS", 1)
    monkeypatch.setitem(benchmark.LOCAL, "epochs", 1)
    torch.set_num_threads(1)
    return argparse.Namespace(data="digits", scratch=tmp_path, device="cpu")


def test_an_attacker_acts_in_its_rounds_and_is_looked_at_after_every_one(short: argparse.Namespace) -> None:
    rows = benchmark.persistence_part(short, 0)["rows"]
    assert [(row["algorithm"], row["attack"]) for row in rows] == list(benchmark.CASES)
    for row in rows:
        first = row["acting"][0]
        assert [value is None for value in row["val"]] == [number < first for number in (1, 2, 3)]
        assert row["lift"] == pytest.approx(row["asr"] - row["asr_clean"])
    replaced = rows[-1]
    assert replaced["acting"] == [2, 2]


def test_networks_on_poisoned_and_clean_sets_are_twins(
    short: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = benchmark.sent
    monkeypatch.setattr(benchmark, "sent", lambda run, number: seen.append(number) or whole(run, number))
    rows = benchmark.transfer_part(short, 0)["rows"]
    assert [(row["attack"], row["network"]) for row in rows] == [
        (attack, network) for attack in benchmark.SENT for network in benchmark.NETWORKS
    ]
    assert set(seen) == {2}  # the last round of two
    clean = {(row["network"], row["accuracy_clean"]) for row in rows}
    assert len(clean) == len(benchmark.NETWORKS)  # whatever the attack, the same network on the same sets


def row(seed: int, **more: Any) -> dict[str, Any]:
    """One of a kept part."""
    figures = {
        "asr": 0.5 + seed / 10,
        "asr_clean": 0.0,
        "lift": 0.5 + seed / 10,
        "accuracy": 0.9,
        "accuracy_clean": 0.9,
    }
    return figures | {"algorithm": "fedavg", "attack": "naive", "network": "mlp", "acting": [2, 2]} | more


def test_the_tables() -> None:
    parts = [{"rows": [row(seed, val=[None, 0.5 + seed / 10, 0.25])]} for seed in (0, 1)]
    assert tables.curve([part["rows"][0] for part in parts]) == "– **55.00** 25.00"
    assert "| fedavg | naive | 2 | – **55.00** 25.00 | 55.00 (50.00 to 60.00) |" in tables.persistence(parts)
    assert "| naive | mlp | 2 | 55.00 (50.00 to 60.00) |" in tables.transfer(parts)


def test_what_is_not_run_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "kept", lambda *_: [])
    found = tables.afterwards()
    assert len(found) == 4
    assert all("Not run yet: `python benchmarks/backdoor_afterwards.py --data " in one for one in found)
