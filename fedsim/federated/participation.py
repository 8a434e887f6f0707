"""Who is asked in a round: a share of those that can be reached, drawn anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field

from fedsim.config import Choice, Section
from fedsim.federated.traces import Trace
from fedsim.seeding import Streams
from fedsim.types import UserError


class Participation(Section):
    """Who takes part in a round, and how long it is waited for."""

    later = ("trace",)
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the clients asked in each round, drawn anew; at least one."""
    trace: Choice("trace") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Who can be reached in which round, of whom `fraction` is then a share; null: everyone in all of them."""
    min_replies: int = Field(default=1, ge=1)
    """Usable uploads a round needs; with fewer the run fails."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds one client may work on one round, by its own clock; a node that does not keep to it is given up, on
    a SuperLink when no node at all has answered for that long times the clients of a node, and 30 s."""
    per_node: int = Field(default=1, ge=1)
    """Clients that one Flower node serves, a contiguous block in one message per round. No influence on the result
    (under `method.networks.shared` none but rounding). A client that raises or is late fails alone; one that kills
    its process takes those asked of its node along."""


@dataclass(frozen=True)
class Roll:
    """The clients that hold images, and when they are there."""

    holding: Sequence[int]
    """Clients that may be asked at all."""
    clients: int
    """All clients of the federation, numbered from 0."""
    trace: Trace | None = None
    """When they can be reached; None: always."""

    def available(self, number: int, streams: Streams) -> list[int]:
        """Those that can be reached in round `number`, ascending; `streams` are the run's."""
        if self.trace is None:
            return list(self.holding)
        there = self.trace.available(self.clients, number, streams)
        return [client for client in self.holding if client in there]

    def chosen(self, fraction: float, number: int, streams: Streams) -> list[int]:
        """Those that are asked in round `number`, ascending."""
        return sample(self.available(number, streams), fraction, streams.at("round", number))

    def share(self, fraction: float, rounds: int, streams: Streams) -> float:
        """`fraction`; under a trace, what it comes to of all clients on average over the rounds."""
        if self.trace is None:
            return fraction
        asked_for = [len(self.chosen(fraction, number, streams)) for number in range(1, rounds + 1)]
        return sum(asked_for) / rounds / len(self.holding)

    def check(self, asking: Participation, rounds: int, streams: Streams) -> None:
        """`UserError` where some round asks fewer clients than must reply."""
        if self.trace is not None:
            self.trace.check(self.clients, rounds)
        for number in range(1, 1 + (rounds if self.trace is not None else 1)):
            there = len(self.available(number, streams))
            most = min(there, asked(asking.fraction, there))
            if most < asking.min_replies:
                when = "can never be reached" if self.trace is None else f"cannot be reached in round {number}"
                of = "" if self.trace is None else f" of the {there} that participation.trace has there"
                valid = f"valid: 1 to {most}" if most else "give another trace or seed"
                raise UserError(
                    f"participation.min_replies={asking.min_replies} {when}: {most} clients are asked in a "
                    f"round{of}; {valid}"
                )


def asked(fraction: float, clients: int) -> int:
    """⌈fraction · K⌉, at least one; 0.07 · 100 is 7 although the floating product is a little more."""
    return max(1, math.ceil(fraction * clients - 1e-9))


def sample(available: Sequence[int], fraction: float, streams: Streams) -> list[int]:
    """`asked` of the clients, ascending."""
    count = asked(fraction, len(available))
    order = torch.randperm(len(available), generator=streams.generator("participation"))
    return sorted(available[int(index)] for index in order[:count])
