"""The benchmark of defences on models: a threshold leaves its seed out, pruned gradients hide, parts are kept."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import model_defence_runs
import model_defence_tables as tables
import model_defences
import pruned_gradients
from kept_parts import keep
from model_defence_runs import CENTRAL, private, raw_run
from model_defences import asked
from pruned_gradients import accuracy_of, attacked

from fedsim.data.images import Images
from fedsim.data.trigger import white
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError

CPU, DIGITS = torch.device("cpu"), {"name": "digits", "val": 0.2}


def part(clean: float, naive: float, seed: int = 0) -> dict[str, Any]:
    """A kept part of one seed; its stamps are of class 0 where it was attacked."""
    cleanse = {"norms": [1.0], "unreached": 0}
    one = {"auroc": 0.75, "threshold": -1.0, "held": 20, "found": 3, "taken": 10, "false": 1, "plain": 10}
    strip = {"1/2, 1/2": one, "1, 1": one | {"found": 9}}
    none = {"1/2, 1/2": one | {"auroc": None, "found": 0, "taken": 0}, "1, 1": one}
    told = {"asr": 0.5, "asr_clean": 0.1, "lift": 0.4, "accuracy": 0.8, "accuracy_clean": 0.9}
    first, second = ({"index": one, "ratio": one, "class": label} for one, label in ((clean, 3), (naive, 0)))
    rows = [
        {"attack": "clean", "twin": None, "accuracy": 0.9, "cleanse": cleanse | first, "strip": none},
        {"attack": "naive", "twin": "clean", **told, "cleanse": cleanse | second, "strip": strip},
        {"attack": "central clean", "twin": None, "accuracy": 0.9, "cleanse": cleanse | first, "strip": none},
        {"attack": "central naive", "twin": "central clean", **told, "cleanse": cleanse | second, "strip": strip},
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
    assert [row[0] for row in tables.cleansed(parts)[2:4]] == ["central clean", "central naive"]
    assert tables.cleansed(parts)[3][1:] == naive[1:]
    nobody, _, mean, added = tables.stripped(parts)[:4]
    assert nobody == ["clean", "", "1/2, 1/2", "0", "", "", tables.share(3, 30)]
    assert mean[:6] == ["naive", "50.00 (all equal)", "1/2, 1/2", "30", "0.75 (0.75 to 0.75)", tables.share(9, 30)]
    assert added[2:6] == ["1, 1", "30", "0.75 (0.75 to 0.75)", tables.share(27, 30)]


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


def marked(count: int) -> Images:
    """Images of their own number; a third of them of class 0."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    return Images(pixels, torch.arange(count) % 3)


def test_the_threshold_is_of_images_that_are_no_overlays_nor_of_the_target() -> None:
    overlays, calibration = model_defences.halves(marked(90), 0, 4)
    one, other = (set(images.pixels[:, 0, 0, 0].tolist()) for images in (overlays, calibration))
    assert not one & other
    assert len(overlays) == 45
    assert set(calibration.labels.tolist()) == {1, 2}
    assert set(overlays.labels.tolist()) == {0, 1, 2}


def test_strip_looks_at_stamped_images_that_are_taken_for_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes a stamped image for 0 where its number is even."""
    monkeypatch.setattr(model_defences, "LOOKED", 20)
    square = white((1, 8, 8), 2, 0)
    monkeypatch.setattr(
        model_defences, "success", lambda _, images, trigger, __: images.pixels[:, 0, 0, 0] % 2 == 0
    )  # fmt: skip
    run: Any = SimpleNamespace(test=marked(90), network=None, normalise=None)
    plain, taken = model_defences.looked_at(run, square, 4)
    numbers = set(taken.pixels[:, 0, 0, 0].tolist())
    assert (len(plain), 0 in plain.labels.tolist()) == (20, False)
    assert all(number % 2 == 0 and number % 3 for number in numbers)
    assert not numbers & set(plain.pixels[:, 0, 0, 0].tolist())
    assert len(taken) == len(numbers) <= 20
    assert bool((taken.pixels[..., square.mask] == 255).all())


def test_strip_finds_the_backdoor_of_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of a clean model, which takes next to nothing for the target, it has little to say."""
    monkeypatch.setattr(model_defences, "LOOKED", 40)
    monkeypatch.setattr(model_defence_runs, "CENTRAL", CENTRAL.model_copy(update={"epochs": 6}))
    few = {name: one.model_copy(update={"overlays": 8}) for name, one in model_defences.STRIP.items()}
    monkeypatch.setattr(model_defences, "STRIP", few)
    base, square = raw_run("digits", DIGITS, "cpu", 0), white((1, 8, 8), 2, 0)
    runs = model_defence_runs.central(base, square, 0)
    clean, bad = runs["central clean"], runs["central naive"]
    assert bad.measured["asr"] > 0.95
    assert bad.measured["asr_clean"] < 0.1
    assert min(clean.measured["accuracy"], bad.measured["accuracy"]) > 0.8
    found = model_defences.stripped(bad, square, 0)
    assert list(found) == list(model_defences.STRIP)
    assert all(one["taken"] == 40 for one in found.values())
    assert found["1, 1"]["auroc"] > 0.9
    assert model_defences.stripped(clean, square, 0)["1, 1"]["taken"] < 20


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
