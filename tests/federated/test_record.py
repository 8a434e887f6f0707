from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.federated.record import RoundRecord, append_record, keep_records, read_records
from fedsim.types import UserError


def record(number: int) -> RoundRecord:
    losses = {3: [(1, 2.5), (25, 1.25)]}
    return RoundRecord(number, [3, 4], [3], {4: "it broke"}, {}, {3: 10}, {3: 7, 4: 7}, losses, {"accuracy": 0.5}, 1.0)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []
    for number in (1, 2):
        append_record(tmp_path, record(number))
    assert read_records(tmp_path) == [record(1), record(2)]


def test_a_line_cut_by_a_kill_and_rounds_without_checkpoint_are_dropped(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        append_record(tmp_path, record(number))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "ask')
    assert keep_records(tmp_path, 2) == [record(1), record(2)]
    append_record(tmp_path, record(3))
    assert read_records(tmp_path) == [record(1), record(2), record(3)]


def test_what_is_missing_or_damaged_is_one_line(tmp_path: Path) -> None:
    append_record(tmp_path, record(2))
    with pytest.raises(UserError, match=r"lacks rounds that the last checkpoint has \(1 to 2\)"):
        keep_records(tmp_path, 2)
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n')
    with pytest.raises(UserError, match=r"rounds\.jsonl is damaged .*delete the run's folder"):
        read_records(tmp_path)
