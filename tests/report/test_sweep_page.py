"""The page of a sweep with filters: its columns, and words that say how thresholds were made."""

from __future__ import annotations

from pathlib import Path

from fedsim.report.sweep_page import write_sweep
from tests.report.sweep_runs import cell, said


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
    assert page.count("<tr>") == 4
    write_sweep(tmp_path / "plain.html", "tiny", cells[:1], [])
    plain = (tmp_path / "plain.html").read_text()
    assert "agged" not in plain
    assert "hange" not in plain
