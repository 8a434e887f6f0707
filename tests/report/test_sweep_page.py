"""The page of a sweep with filters: its columns, and words that say how thresholds were made."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.data.trigger import white
from fedsim.report import sweep_page
from fedsim.report.sweep_page import write_sweep
from tests.report.sweep_runs import cell, said, trigger


def test_the_page_says_what_was_flagged_at_which_threshold_and_how_a_defence_changes_accuracy(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, "clean", accuracy=0.9),
        cell(tmp_path, "clean", "checks", accuracy=0.87, defenses=[{"checks": said(1.0, 2.0, 3.0)}]),
        cell(tmp_path, "naive", "checks", defenses=[{"checks": said(1.0, 4.0, 3.0)}], backdoor={"acted": [[1]]}),
    ]
    write_sweep(tmp_path / "sweep.html", "tiny", cells, ["clean · other: it failed"])
    page = (tmp_path / "sweep.html").read_text()
    for words in (
        "<th>flagged</th>",
        "<th>flagged above the largest clean score</th>",
        "<th>detection AUROC</th>",
        "checks 3, the largest of 3 clean scores",
        "<td>-3.0</td>",
        "<td>0/1</td>",
        "<td>1/1</td>",
        "<th>accuracy change without an attacker, points</th>",
        "Accuracy change without an attacker: less that of the same run without the defence",
        "it failed",
    ):
        assert words in page
    assert page.count("<tr>") == 4 + 4  # three lines and their head, three runs and theirs
    assert '<a href="naive-checks-0-1/report.html">naive-checks-0-1</a>' in page
    write_sweep(tmp_path / "plain.html", "tiny", cells[:1], [])
    plain = (tmp_path / "plain.html").read_text()
    assert "agged" not in plain
    assert "hange" not in plain


def test_before_is_what_the_run_of_the_same_settings_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may differ in more than attackers; the last clean row is not everybody's."""
    monkeypatch.setattr(sweep_page, "_uploaded", lambda one, row: [one.path.name])
    attack = trigger(0.5, 0.4)
    attack["triggers"][0] |= {"client": 1, "round": 1, "target": 0}
    cells = [
        cell(tmp_path, "clean"), cell(tmp_path, "clean", seed=1), cell(tmp_path, "clean", rounds=2),
        cell(tmp_path, "naive", backdoor=attack), cell(tmp_path, "naive", rounds=3, backdoor=attack),
    ]  # fmt: skip
    for one in cells[3:]:
        folder = one.path / "clients/client_0001/round_001"
        folder.mkdir(parents=True)
        white((1, 8, 8), 2, 0).save(folder / "trigger.safetensors")
    (shown,) = sweep_page.pictures(cells)
    assert (shown["after"], shown["before"]) == (["naive-none-0-1"], ["clean-none-0-1"])
    (alone,) = sweep_page.pictures([*cells[:3], cells[4]])
    assert alone["before"] is None


def test_a_run_whose_files_are_gone_keeps_its_numbers_and_says_why_it_has_no_pictures(tmp_path: Path) -> None:
    attack = trigger(0.5, 0.4)
    attack["triggers"][0] |= {"client": 1, "round": 1, "target": 0}
    cells = [cell(tmp_path, "clean"), cell(tmp_path, "naive", backdoor=attack)]
    write_sweep(tmp_path / "sweep.html", "tiny", cells, [])
    page = (tmp_path / "sweep.html").read_text()
    assert "Nothing to show" in page
    assert "trigger.safetensors" in page
    assert "+40.0" in page
