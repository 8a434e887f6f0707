"""What happened in each round: the ledger of bytes, failures and losses that a run keeps and its report shows.

rounds.jsonl holds a line per round, appended before the round's checkpoint is stored: what a round costs to write does
not grow with the rounds before it. Lines beyond the last checkpoint are of rounds that will be run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedsim.runs import write_atomic
from fedsim.types import UserError

FILE = "rounds.jsonl"
Flops = Callable[[Sequence[int]], tuple[float, float]]
"""Operations of a round that these clients answer: theirs together, and the server's."""


@dataclass
class RoundRecord:
    """What happened in one round."""

    round: int
    asked: list[int]
    responders: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    uplink_bytes: dict[int, int] = field(default_factory=dict)
    downlink_bytes: dict[int, int] = field(default_factory=dict)
    losses: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    client_flops: float | None = None
    """Operations of the responders together; None in a round of a version that did not count them."""
    server_flops: float | None = None
    available: list[int] | None = None
    """Clients that could be reached, under a trace; None: all."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundRecord:
        """JSON turns integer keys into strings and pairs into lists; turn them back."""
        for name in ("failed", "rejected", "uplink_bytes", "downlink_bytes", "losses"):
            values[name] = {int(key): value for key, value in values[name].items()}
        for client, logged in values["losses"].items():
            values["losses"][client] = [(int(at), float(loss)) for at, loss in logged]
        return cls(**values)


def spent(records: Sequence[RoundRecord], flops: Flops) -> dict[str, Any]:
    """What all rounds cost, under the names of result.json; operations are counted anew from who answered."""
    operations = [flops(record.responders) for record in records]
    return {
        "uplink_bytes": sum(sum(record.uplink_bytes.values()) for record in records),
        "downlink_bytes": sum(sum(record.downlink_bytes.values()) for record in records),
        "client_flops": sum(clients for clients, _ in operations),
        "server_flops": sum(server for _, server in operations),
    }


def append_record(folder: Path, record: RoundRecord) -> None:
    """Add a line to the run directory's rounds.jsonl."""
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read_records(folder: Path) -> list[RoundRecord]:
    """All whole lines of rounds.jsonl; a damaged one is a `UserError`."""
    path = folder / FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    try:
        return [RoundRecord.from_json(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or delete the run's folder and run again") from error


def keep_records(folder: Path, rounds: int) -> list[RoundRecord]:
    """Those of the first `rounds` rounds; the file is cut to them. `UserError` where one of them is missing."""
    records = [record for record in read_records(folder) if record.round <= rounds]
    if [record.round for record in records] != list(range(1, rounds + 1)):
        raise UserError(
            f"{folder / FILE} lacks rounds that the last checkpoint has (1 to {rounds}); restore it, or delete the "
            "run's folder and run again"
        )
    write_records(folder, records)
    return records


def write_records(folder: Path, records: Sequence[RoundRecord]) -> None:
    """The whole file, atomically."""
    write_atomic(folder / FILE, "".join(json.dumps(asdict(record)) + "\n" for record in records))
