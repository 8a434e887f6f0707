"""Whom filters suspected and flagged: by hand, and at thresholds from the clean runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.report.sweep_detection import calibrated, detection, flagged, flagged_calibrated
from tests.report.sweep_runs import cell, said


def test_detection_is_of_clients_that_acted_in_that_round(tmp_path: Path) -> None:
    rounds = [
        {"one": {"0": [5.0, False, True], "1": [4.0, True, True], "2": [1.0, False, True]}},  # 1 acts: above one of two
        {"one": {"0": [0.0, True, True], "1": [9.0, True, True], "2": [1.0, False, True]}},  # 1 is honest now
    ]
    found = cell(tmp_path, "naive", "one", defenses=rounds, backdoor={"acted": [[1], []]})
    assert detection(found) == 0.5
    assert flagged(found) == (1, 1)
    assert flagged(found, honest=True) == (2, 5)


def test_an_attacker_that_nobody_looked_at_was_not_found(tmp_path: Path) -> None:
    rounds = [{"one": {"0": [5.0, False, True], "1": [0.0, False, False], "2": [-1.0, False, True]}}]
    found = cell(tmp_path, "naive", "one", defenses=rounds, backdoor={"acted": [[1]]})
    assert detection(found) == 0.0
    assert flagged(found) == (0, 1)
    clean = cell(tmp_path, "clean", "one", defenses=rounds)
    assert detection(clean) is None
    assert flagged(clean) is None
    assert flagged(clean, honest=True) == (0, 3)
    thresholds = calibrated([clean])
    assert (thresholds["one"].value, thresholds["one"].scores) == (
        5.0,
        2,
    )  # the client without a judgement has no score
    below = calibrated([cell(tmp_path, "clean", "below", defenses=[{"one": said(-1.0, -2.0)}])])
    assert flagged_calibrated(found, below) == (0, 1)  # its 0 is no score


def test_a_run_without_filters_has_nothing_of_it(tmp_path: Path) -> None:
    for found in (cell(tmp_path), cell(tmp_path, "naive", backdoor={"acted": [[1], [1]]})):
        assert detection(found) is None
        assert flagged(found) is None
        assert flagged(found, honest=True) is None
        assert calibrated([found]) == {}


def test_an_upload_that_any_of_several_filters_flags_counts_once(tmp_path: Path) -> None:
    both = [{"one": said(0.0, 10.0, 10.0), "two": {"0": [9.5, True, True]}}]  # the second sees what the first left
    found = cell(tmp_path, "naive", "one", defenses=both, backdoor={"acted": [[1]]})
    assert flagged(found) == (1, 1)
    assert flagged(found, honest=True) == (2, 2)


def test_a_threshold_keeps_five_per_cent_where_there_are_enough_scores(tmp_path: Path) -> None:
    many = [cell(tmp_path, "clean", "one", seed, defenses=[{"one": said(*range(10))}] * 2) for seed in range(2)]
    found = calibrated(many)["one"]
    assert found.kept
    assert (found.value, found.scores) == (9.0, 40)  # ⌈0.95 · 41⌉ = 39 of 40
    few = calibrated([cell(tmp_path, "clean", "two", defenses=[{"one": said(*range(18))}])])["one"]
    assert not few.kept
    assert (few.value, few.scores) == (17.0, 18)
    nineteen = calibrated([cell(tmp_path, "clean", "three", defenses=[{"one": said(*range(19))}])])["one"]
    assert nineteen.kept


@pytest.mark.parametrize(("score", "hits"), [(3.9, 0), (4.0, 0), (4.1, 1)])
def test_flagged_above_the_threshold_of_the_clean_runs(score: float, hits: int, tmp_path: Path) -> None:
    clean = cell(tmp_path, "clean", "one", defenses=[{"one": said(1.0, 2.0, 4.0)}])
    found = cell(tmp_path, "naive", "one", defenses=[{"one": said(8.0, score, 0.0)}], backdoor={"acted": [[1]]})
    assert flagged(found) == (0, 1)
    assert flagged_calibrated(found, calibrated([clean])) == (hits, 1)
    assert flagged_calibrated(found, {}) is None
