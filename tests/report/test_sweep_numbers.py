"""The table of a sweep: pairs by seed, intervals that stay in range, headings that say how thresholds were made."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.report.sweep_numbers import as_now, calibrations, heading, shown, table_of, used
from fedsim.training.intervals import bounded_ci, mean_ci, wilson
from tests.report.sweep_runs import cell, said, trigger


def test_an_interval_is_over_seeds_where_there_are_three(tmp_path: Path) -> None:
    values = [0.8, 0.9, 0.88]
    cells = [cell(tmp_path, seed=seed, accuracy=value) for seed, value in enumerate(values)]
    (line,) = table_of(cells)
    assert line["accuracy"]["over"] == "seeds"
    assert line["accuracy"]["interval"] == list(mean_ci(values)[1] or ())
    (line,) = table_of(cells[:2])
    assert line["accuracy"]["mean"] == pytest.approx(0.85)
    assert line["accuracy"]["interval"] is None
    assert shown(line["accuracy"], "accuracy") == "85.0 (80.0 to 90.0)"
    (line,) = table_of(cells[:1])
    assert line["accuracy"]["over"] == "images"
    assert line["accuracy"]["interval"] == [0.8, 1.0]


def test_seeds_that_agree_are_as_sure_as_the_images_of_one(tmp_path: Path) -> None:
    """Student's t would be of no width there, and the test images of one seed are those of the others."""
    shares = [trigger(1.0, 1.0, images) for images in (100, 50, 80)]
    (line,) = table_of([cell(tmp_path, "naive", seed=seed, backdoor=one) for seed, one in enumerate(shares)])
    assert line["attack_success"] == {"mean": 1.0, "interval": list(wilson(50, 50)), "over": "images", "n": 3}
    assert line["without_attackers"]["interval"] == list(wilson(0, 50))
    assert line["lift"] == {"mean": 1.0, "interval": [0.9, 1.1], "over": "images", "n": 3}  # the widest of a run
    assert line["accuracy"]["interval"] == [0.8, 1.0]
    assert line["accuracy_change"]["interval"] is None
    (mixed,) = table_of(
        [cell(tmp_path, "other", seed=seed, backdoor=one) for seed, one in enumerate((shares[0], trigger(0.5, 0.5)))]
    )
    assert mixed["attack_success"]["over"] == "seeds"


def test_the_change_by_a_defence_is_paired_by_seed_and_of_runs_that_nobody_attacks(tmp_path: Path) -> None:
    values = {"none": (0.9, 0.8, 0.7), "checks": (0.85, 0.79, 0.73)}
    cells = [
        cell(tmp_path, row, column, seed, accuracy=value, backdoor={} if row == "clean" else trigger(0.5, 0.5))
        for row in ("clean", "naive")
        for column, row_values in values.items()
        for seed, value in enumerate(row_values)
    ]
    lines = {(line["row"], line["column"]): line for line in table_of(cells)}
    change = lines["clean", "checks"]["change_unattacked"]
    assert change["mean"] == pytest.approx(-0.01)
    assert change["interval"] == pytest.approx(list(mean_ci([-0.05, -0.01, 0.03])[1] or ()))
    assert [key for key, line in lines.items() if line["change_unattacked"]] == [("clean", "checks")]
    alone = table_of([one for one in cells if one.column == "checks"])
    assert all(line["change_unattacked"] is None for line in alone)
    assert shown(change, "change_unattacked").startswith("-1.0 [")
    better = table_of([one for one in cells if one.row == "clean" and one.seed == 2])[1]["change_unattacked"]
    assert shown(better, "change_unattacked") == "+3.0"  # the defended run is the better one


def test_a_line_says_what_both_thresholds_did(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, row, column, seed, defenses=[{column: said(*scores)}], backdoor=trigger(1.0, 1.0) if bad else {})
        for seed in (0, 1)
        for column in ("checks", "other")
        for row, bad, scores in (("clean", False, range(3)), ("naive", True, (0.0, 5.0, 10.0)))
    ]
    clean, naive, *_ = table_of(cells)
    assert clean["flagged"] is clean["flagged_calibrated"] is clean["detection_auroc"] is None
    uploads = {"interval": None, "over": "uploads", "n": 2}
    assert clean["honest_flagged"] == uploads | {"mean": 0.0, "hits": 0, "of": 6}
    assert (naive["flagged"]["mean"], naive["flagged_calibrated"]["mean"]) == (0.0, 1.0)
    assert shown(naive["flagged_calibrated"], "flagged_calibrated") == "2/2"
    assert naive["honest_flagged"]["mean"] == 0.5
    assert naive["calibration"] == {"checks": {"threshold": 2.0, "scores": 6, "rate": None}}
    assert naive["detection_auroc"]["interval"] is None  # two seeds
    assert calibrations([clean, naive]) == ["checks 2, the largest of 6 clean scores"]


def test_headings_say_which_rule_was_used() -> None:
    few, many = ({"calibration": {"a": {"threshold": 1.0, "scores": 9, "rate": rate}}} for rate in (None, 0.05))
    assert heading("flagged_calibrated", [few]) == "flagged above the largest clean score"
    assert heading("flagged_calibrated", [many, {}]) == "flagged at 5 % false positives"
    assert heading("flagged_calibrated", [few, many]) == "flagged at calibrated thresholds"
    assert heading("detection_auroc", []) == "detection AUROC"
    assert heading("honest_flagged", []) == "honest flagged"
    assert heading("change_unattacked", []) == "accuracy change without an attacker, points"
    assert heading("accuracy", []) == "accuracy, %"
    kept = [{"accuracy": {"mean": 0.5}, "lift": None}]  # of a sweep made before the other numbers were
    assert used(kept) == ["accuracy"]
    assert shown(None, "change_unattacked") == ""


@pytest.mark.parametrize(("hits", "looked"), [(0, 16), (1, 2), (1, 14), (40, 300), (7, 7)])
def test_lines_that_were_kept_before_read_as_those_of_now(hits: int, looked: int) -> None:
    share = {"mean": hits / looked, "interval": list(wilson(hits, looked)), "over": "uploads", "n": 1}
    accuracy = {"mean": 0.85, "interval": [-0.1, 1.8], "over": "seeds", "n": 2}
    old = {"row": "clean", "cost": {"mean": 0.014, "interval": None, "over": "images", "n": 1}, "flagged": share}
    now = as_now(old | {"accuracy": accuracy, "lift": None})
    assert shown(now["change_unattacked"], "change_unattacked") == "+1.4"
    assert "cost" not in now
    assert (now["flagged"]["hits"], now["flagged"]["of"], now["flagged"]["interval"]) == (hits, looked, None)
    assert now["accuracy"]["interval"] is None
    assert as_now(now) == now


def test_no_number_of_uploads_has_such_an_interval() -> None:
    with pytest.raises(ValueError, match=r"got a share of 0\.5 with the interval"):
        as_now({"flagged": {"mean": 0.5, "interval": [0.5, 0.5], "over": "uploads", "n": 1}})


def test_areas_have_an_interval_of_three_seeds(tmp_path: Path) -> None:
    attacked = {"defenses": [{"checks": said(0.0, 5.0, 10.0)}], "backdoor": trigger(1.0, 1.0)}
    (line,) = table_of([cell(tmp_path, "naive", "checks", seed, **attacked) for seed in range(3)])
    assert line["detection_auroc"]["interval"] == list(bounded_ci([0.5] * 3)[1] or ())
