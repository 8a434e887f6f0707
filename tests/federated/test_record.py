"""The ledger of a round survives JSON as it was."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.record import RoundRecord

CLIENTS = st.integers(0, 10**6)
BYTES = st.dictionaries(CLIENTS, st.integers(0, 10**9), max_size=4)
REASONS = st.dictionaries(CLIENTS, st.text(max_size=20), max_size=4)
CURVES = st.dictionaries(CLIENTS, st.lists(st.tuples(st.integers(1, 99), st.floats(allow_nan=False)), max_size=3))


@given(st.lists(CLIENTS, max_size=5), BYTES, BYTES, REASONS, REASONS, CURVES)
def test_a_record_goes_through_json_and_back(
    asked: list[int],
    up: dict[int, int],
    down: dict[int, int],
    failed: dict[int, str],
    rejected: dict[int, str],
    losses: dict[int, list[tuple[int, float]]],
) -> None:
    record = RoundRecord(3, asked, asked[:2], failed, rejected, up, down, losses, {"accuracy": 0.5}, 1.25)
    assert RoundRecord.from_json(json.loads(json.dumps(asdict(record)))) == record
