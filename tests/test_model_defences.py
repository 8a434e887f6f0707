"""The benchmark of defences on models: a threshold leaves its seed out, pruned gradients hide, parts are kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import model_defence_tables as tables
import pruned_gradients
from kept_parts import keep
from model_defence_runs import private, raw_run
from model_defences import asked
from pruned_gradients import accuracy_of, attacked

from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError

CPU, DIGITS = torch.device("cpu"), {"name": "digits", "val": 0.2}


def part(clean: float, naive: float, seed: int = 0) -> dict[str, Any]:
    """A kept part of one seed; its stamps are of class 0 where it was attacked."""
    cleanse = {"norms": [1.0], "unreached": 0}
    strip = {"auroc": 0.75, "threshold": -1.0, "found": 3, "stamped": 10, "false": 1, "plain": 10}
    told = {"asr": 0.5, "asr_clean": 0.1, "lift": 0.4, "accuracy": 0.8, "accuracy_clean": 0.9}
    first, second = ({"index": one, "ratio": one, "class": label} for one, label in ((clean, 3), (naive, 0)))
    rows = [
        {"attack": "clean", "accuracy": 0.9, "cleanse": cleanse | first, "strip": strip},
        {"attack": "naive", **told, "cleanse": cleanse | second, "strip": strip},
    ]
    return {"rows": rows, "source": {"commit": "0" * 40, "device": "cpu", "torch": "2"}, "seconds": 1.0, "seed": seed}


def test_a_threshold_leaves_its_seed_out() -> None:
    clean = [1.0, 2.0, 3.0, 9.0]
    assert [tables.limit(clean, seed) for seed in range(4)] == [9.0, 9.0, 9.0, 3.0]
    assert tables.flagged(clean, clean) == 1  # the largest of all is above the others, by construction
    assert tables.flagged([9.5, 9.5, 1.0, 4.0], clean) == 3


def test_twins_are_of_one_seed() -> None:
    assert tables.above([3.0, 1.0, 5.0], [2.0, 1.0, 9.0]) == 1


def test_tables_of_models() -> None:
    parts = [part(1.0, 5.0), part(2.0, 6.0), part(3.0, 1.5)]
    clean, naive = tables.cleansed(parts)[:2]
    assert (clean[0], naive[0]) == ("clean", "naive")
    assert naive[4] == "0.78"  # 7 of 9 pairs
    assert naive[5].startswith("2/3, 67 [")
    assert naive[6] == "3/3"
    assert naive[7] == "2/3"
    assert clean[4:] == [""] * 4  # one of n by construction
    (_, first), (_, second) = ((row[0], row[2]) for row in tables.stripped(parts))
    assert first == second
    assert first.startswith("9/30, 30 [")


def test_pruned_counts_have_no_interval_over_seeds_of_the_same_networks() -> None:
    row = {
        "keep": 0.1,
        "entries": "sent",
        "records": 10,
        "identified": 3,
        "chance": 1,
        "labels": 9,
        "mse": 0.5,
        "accuracy": 0.9,
    }
    found = tables.pruned([{"rows": [row]}, {"rows": [row | {"identified": 1, "accuracy": 0.8}]}])
    assert found == [["10.00", "sent", "4/20", "2/20", "18/20", "0.5", "85.00 (80.00 to 90.00)"]]


def test_one_seed_has_no_threshold() -> None:
    """The section is made nevertheless."""
    clean, naive = tables.cleansed([part(1.0, 5.0)])[:2]
    assert (clean[7], naive[7]) == ("", "")
    assert tables.cleansed([part(1.0, 5.0), part(2.0, 0.5)])[1][7] == "1/2"
    assert len(tables.models([part(1.0, 5.0)])) == 4


def test_what_is_not_run_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "kept", lambda *_: [])
    found = tables.model_defences()
    assert len(found) == 6
    assert all("Not run yet: `python benchmarks/model_defences.py --data " in one for one in found)


@pytest.mark.parametrize("name", ["digits", "mnist"])
@pytest.mark.parametrize("epsilon", [None, 1.0])
def test_the_runs_are_possible(name: str, epsilon: float | None) -> None:
    raw = private(raw_run(name, {"name": name, "val": 0.2}, "cpu", 3), epsilon)
    config = resolve(FederatedRun, raw | {"attackers": [{"name": "naive", "clients": [1]}]})
    assert (config.seed, config.rounds, config.privacy is None) == (3, 1, epsilon is None)


def test_a_part_under_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits_models_s0.json"
    keep(path, {}, asked("models", "digits"), lambda: {"rows": []})
    keep(path, {}, asked("models", "digits"), lambda: pytest.fail("made again"))
    with pytest.raises(UserError, match=r"kept under other settings \(run\); remove it"):
        keep(path, {}, asked("models", "digits") | {"run": {}}, dict)


def test_pruned_gradients_hide_the_record_and_the_whole_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pruned_gradients.ATTACK, "problems", 2)
    monkeypatch.setitem(pruned_gradients.ATTACK, "iterations", 40)
    whole, few = (attacked(DIGITS, share, 0, CPU) for share in (1.0, 0.01))
    assert (whole["records"], whole["beside"]) == (2, 99)
    assert whole["identified"] == whole["labels"] == 2
    assert few["mse"] > whole["mse"]


def test_who_knows_of_the_pruning_matches_what_was_sent_and_sees_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pruned_gradients.ATTACK, "problems", 2)
    monkeypatch.setitem(pruned_gradients.ATTACK, "iterations", 60)
    unaware, adaptive = (attacked(DIGITS, 0.2, 0, CPU, entries) for entries in pruned_gradients.ENTRIES)
    assert adaptive["mse"] < unaware["mse"]
    assert attacked(DIGITS, 1.0, 0, CPU, "sent") == attacked(DIGITS, 1.0, 0, CPU)


def test_training_by_whole_gradients_is_sgd_on_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pruned_gradients.TRAINING, "steps", 12)
    full, few = (accuracy_of(DIGITS, share, 0, CPU) for share in (1.0, 0.01))
    assert np.isfinite([full, few]).all()
    assert full > few
