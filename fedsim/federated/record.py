"""What happened in one round: the ledger of bytes, failures and losses that a run keeps and its report shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RoundRecord:
    """What happened in one round; kept in the checkpoint and shown in the report."""

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

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundRecord:
        """JSON turns integer keys into strings and pairs into lists; turn them back."""
        for name in ("failed", "rejected", "uplink_bytes", "downlink_bytes", "losses"):
            values[name] = {int(key): value for key, value in values[name].items()}
        for client, logged in values["losses"].items():
            values["losses"][client] = [(int(at), float(loss)) for at, loss in logged]
        return cls(**values)
