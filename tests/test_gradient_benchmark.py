"""What the gradient-leakage benchmark counts, and that it takes up where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsim.types import UserError

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import gradient_cases
import gradient_leakage
import gradient_measures
import gradient_pairs
import gradient_tables
from gradient_parts import PARTS


def row(problem: int, error: float, names: bool) -> dict:
    """One record."""
    values = {"mse": [error], "psnr": [20.0], "ssim": [0.5], "identified": [names], "chance": [False]}
    return {"problem": problem, "labels_right": 1, "gradient_loss": 0.0, "steps": 3} | values


def test_shares_and_medians_have_their_intervals():
    rows = [row(at, 1e-4 if at < 90 else 1.0, at < 50) for at in range(100)]
    found = gradient_measures.summary(rows)
    assert found["labels"] == pytest.approx((1.0, 0.9638, 1.0), abs=1e-4)
    assert found["recovered"] == pytest.approx((0.9, 0.8238, 0.9510), abs=1e-4)
    assert found["identified"] == pytest.approx((0.5, 0.3983, 0.6017), abs=1e-4)
    assert found["chance"] == pytest.approx((0.0, 0.0, 0.0362), abs=1e-4)
    assert found["mse"] == (1e-4, 1e-4, 1e-4)


def test_the_median_lies_in_its_interval_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        _, low, high = gradient_measures.middle(rng.normal(size=15).tolist())
        inside += low <= 0 <= high
    assert 0.95 <= inside / 2000 <= 0.98  # ranks 4 and 12 of 15: 0.965
    assert gradient_measures.middle([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_a_loop_that_gives_up_early_is_not_faster_per_recovered_image():
    turns = []
    for seconds in (10.0, 30.0, 20.0):
        sides = {
            "literal": ({"wall": seconds, "cpu": 5.0}, [1e-6, 1.0]),
            "batched": ({"wall": 10.0, "cpu": 5.0}, [1e-6] * 4),
        }
        turns.append({side: {"images": len(mse), "seconds": s, "mse": mse} for side, (s, mse) in sides.items()})
    found = gradient_pairs.summed(turns)
    assert found["wall"]["ratio"] == 4.0
    assert found["wall"]["range"] == [2.0, 6.0]
    assert found["wall"]["images_per_minute"] == {"literal": 6.0, "batched": 24.0}
    assert found["wall"]["per_recovered"] == pytest.approx(8.0)  # 60 s for 3 against 30 s for 12
    assert found["cpu"]["per_recovered"] == pytest.approx(4.0)
    assert found["literal"]["recovered"][0] == 0.5


def test_what_is_missing_is_done_in_chunks_of_any_size():
    assert gradient_leakage.missing([], 5, 2) == [[0, 1], [2, 3], [4]]
    assert gradient_leakage.missing([0, 1, 3], 6, 2) == [[2, 4], [5]]
    assert gradient_leakage.missing(range(6), 6, 2) == []


def test_kept_chunks_are_taken_up_and_other_settings_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_leakage, "RESULTS", tmp_path)
    monkeypatch.setattr(gradient_tables, "RESULTS", tmp_path)
    for problems in ([2, 3], [0, 1]):
        rows = [row(at, 1.0, False) for at in problems]
        gradient_leakage.keep("mnist", problems, {"settings": {"seed": 1}, "problems": problems, "rows": rows}, {})
    chunks = gradient_tables.kept("mnist")
    assert [one["problems"] for one in chunks] == [[0, 1], [2, 3]]
    gradient_leakage.unchanged("mnist", {"seed": 1}, chunks)
    with pytest.raises(UserError, match="differ in seed"):
        gradient_leakage.unchanged("mnist", {"seed": 2}, chunks)
    with pytest.raises(UserError, match="got 'mnits'; valid: idlg_cifar10"):
        gradient_leakage.names_of("mnist,mnits")


def test_settings_are_plain_values_and_all_parts_have_an_attacker():
    held = gradient_cases.Pool(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), "none.npz")
    for name in PARTS:
        settings = gradient_leakage.settings_of(name, held)
        assert json.loads(json.dumps(settings)) == settings
        assert PARTS[name].attacker(3).config.width == 3


def test_others_are_of_the_class_and_not_in_the_batch_and_draws_do_not_depend_on_the_chunk():
    labels = np.arange(600) % 3
    rows, others = gradient_cases.drawn(labels, "mnist", range(20), 4)
    assert rows.shape == (20, 4)
    assert others.shape == (20, 4, 99)
    assert len(np.unique(rows)) == 80
    assert (labels[others] == labels[rows][..., None]).all()
    for batch, beside in zip(rows, others, strict=True):
        assert not np.isin(beside, batch).any()
    again, beside = gradient_cases.drawn(labels, "mnist", [7], 4)
    assert (again[0] == rows[7]).all()
    assert (beside[0] == others[7]).all()
    with pytest.raises(UserError, match="has 600 images"):
        gradient_cases.drawn(labels, "mnist", [150], 4)
    assert gradient_cases.first_of_each(np.array([1, 0, 0, 1, 0]), 2).tolist() == [0, 1, 2, 3]
