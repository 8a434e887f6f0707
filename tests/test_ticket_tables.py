"""The tables of tickets: what of a pair is counted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import ticket_tables
from ticket_likeness import PAIRS


def test_pairs_without_a_ticket_are_left_out_and_counted() -> None:
    """Of three seeds the second drew no early-bird mask of b."""

    def part(value: float, epoch: int | None) -> dict[str, Any]:
        sets_of = {name for pair in PAIRS.values() for name in pair}
        masks = {name: {"masks": {"iou": [0.0, 0.0, value]}} for name in ("iterated", "cut", "scales")}
        return {"epoch_drawn": dict.fromkeys(sets_of, 3) | {"b": epoch}, "pairs": dict.fromkeys(PAIRS, masks)}

    parts = [part(0.1, 4), part(0.9, None), part(0.3, 2)]

    def over(pairs: list[str], mask: str) -> str:
        return ticket_tables.over(parts, pairs, mask, lambda one: ticket_tables.corrected(one, pairs[0], mask))

    assert over(["honest"], "scales") == "0.20 (0.10 to 0.30) (n = 2)"
    assert over(["same data", "honest"], "scales").endswith("(n = 2)")  # a difference needs both
    assert over(["same data"], "scales") == over(["honest"], "iterated") == ticket_tables.number([0.1, 0.9, 0.3])
    assert ticket_tables.over([parts[1]], ["honest"], "scales", lambda one: 0.0) == "none drawn"
    count = 3 * len(parts[0]["epoch_drawn"])
    assert f"in {count - 1} of {count} trainings" in ticket_tables.drawings({"real": parts})
