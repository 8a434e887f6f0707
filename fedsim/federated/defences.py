"""What a server does about uploads before, or in place of, training on them.

A *filter* looks at the uploads of a round and gives every client a score, the higher the more suspicious; flagged
uploads are left out, the others are used as they came. An *aggregation* takes the place of the server's training. Both
hold what the server holds: its weights and the uploads. Filters act in the order of the config, each on what the one
before it left; an aggregation acts last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Protocol, overload, runtime_checkable

from fedsim.federated.base import Algorithm, ServerState, Setting, Upload
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import UserError

Sends = Literal["synthetic", "weights", "any"]
"""What clients must upload for a defence to have something to look at."""


@dataclass(frozen=True)
class Verdict:
    """What a filter says of one client's upload."""

    client: int
    score: float
    """The higher the more suspicious; finite."""
    flagged: bool
    """Whether the upload is left out."""
    judged: bool = True
    """False: there was too little to compare it with; its score says nothing, and it is not flagged."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise UserError(f"defence: got a score of {self.score} for client {self.client}; valid: finite numbers")


@runtime_checkable
class Filter(Protocol):
    """A defence that leaves uploads out."""

    sends: ClassVar[Sends]

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """A verdict on every upload, in their order. It changes none."""
        ...


@runtime_checkable
class Aggregation(Protocol):
    """A defence in the place of the server's training."""

    sends: ClassVar[Sends]

    def check(self, algorithm: Algorithm, network: Network, clients: int) -> None:
        """Refuse, by a `UserError`, a server that it cannot stand in for, of that model and `clients` with images."""
        ...

    def aggregate(
        self, algorithm: Algorithm, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams,
        *, left_out: int,
    ) -> tuple[ServerState, dict[str, float]]:  # fmt: skip
        """The next state and what to log, as `Algorithm.server` gives them; filters left so many uploads out."""
        ...


class Kept(Sequence[Upload]):
    """Some of the uploads, as lazy as these."""

    def __init__(self, uploads: Sequence[Upload], places: Sequence[int]) -> None:
        self._uploads, self._places = uploads, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Upload: ...
    @overload
    def __getitem__(self, index: slice) -> Kept: ...
    def __getitem__(self, index: int | slice) -> Upload | Kept:
        if isinstance(index, slice):
            return Kept(self._uploads, self._places[index])
        return self._uploads[self._places[index]]


def served(
    algorithm: Algorithm,
    defences: Mapping[str, Filter | Aggregation],
    setting: Setting,
    state: ServerState,
    uploads: Sequence[Upload],
    streams: Streams,
) -> tuple[ServerState, dict[str, float]]:
    """The server's part of a round on what the filters leave, or an aggregation in its place.

    Where nothing is left the server keeps its model. Scores and flags are logged as `defence.NAME.score.CLIENT` and
    `defence.NAME.flagged.CLIENT`, and `defence.NAME.unjudged.CLIENT` for a client that could not be judged. Raises
    `UserError` for verdicts that are not one for each upload.
    """
    verdicts: dict[str, float] = {}
    work, received = algorithm.server, len(uploads)
    aggregation: Aggregation | None = None
    for name, defence in defences.items():
        if not isinstance(defence, Filter):
            aggregation = defence
        elif len(uploads):
            found = defence.inspect(setting, state, uploads, streams.at("defence", name))
            if len(found) != len(uploads):
                raise UserError(
                    f"defence {name}: got {len(found)} verdicts on {len(uploads)} uploads; valid: one on each"
                )
            verdicts |= as_metrics(name, found)
            uploads = kept(uploads, found)
    if not len(uploads):
        return replace(state, round=state.round + 1), verdicts
    if aggregation is not None:
        work = partial(aggregation.aggregate, algorithm, left_out=received - len(uploads))
    following, metrics = work(setting, state, uploads, streams)
    return following, metrics | verdicts


def kept(uploads: Sequence[Upload], verdicts: Sequence[Verdict]) -> Sequence[Upload]:
    """The uploads that are not flagged: the very same sequence where none is."""
    places = [place for place, verdict in enumerate(verdicts) if not verdict.flagged]
    return uploads if len(places) == len(uploads) else Kept(uploads, places)


def as_metrics(name: str, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Verdicts as metrics of a round."""
    scores = {f"defence.{name}.score.{one.client}": one.score for one in verdicts}
    flags = {f"defence.{name}.flagged.{one.client}": float(one.flagged) for one in verdicts}
    return scores | flags | {f"defence.{name}.unjudged.{one.client}": 1.0 for one in verdicts if not one.judged}


def verdicts_in(metrics: Mapping[str, float]) -> dict[str, list[Verdict]]:
    """The verdicts among the metrics of a round, by defence."""
    found: dict[str, list[Verdict]] = {}
    for key, score in metrics.items():
        first, _, rest = key.partition(".")
        name, _, client = rest.rpartition(".score.")
        if first == "defence" and name:
            flagged = bool(metrics[f"defence.{name}.flagged.{client}"])
            judged = f"defence.{name}.unjudged.{client}" not in metrics
            found.setdefault(name, []).append(Verdict(int(client), score, flagged, judged))
    return found


def check_defences(defences: Mapping[str, Filter | Aggregation], *, sets: bool) -> None:
    """Refuse a defence that would have nothing to look at (`sets`: clients upload synthetic images), and two
    aggregations."""
    here = "synthetic" if sets else "weights"
    for name, defence in defences.items():
        if defence.sends not in ("any", here):
            raise UserError(
                f"defenses: {name} looks at {defence.sends}, and clients of this algorithm upload {here}; leave it "
                "out, or choose another algorithm"
            )
    aggregations = [name for name, defence in defences.items() if not isinstance(defence, Filter)]
    if len(aggregations) > 1:
        raise UserError(f"defenses: {' and '.join(aggregations)} both take the place of the server's training; valid: "
                        "one of them")  # fmt: skip


def check_aggregation(
    defences: Mapping[str, Filter | Aggregation], algorithm: Algorithm, network: Network, clients: int
) -> None:
    """Refuse an aggregation that cannot stand in for this algorithm's server, before any client works."""
    for defence in defences.values():
        if not isinstance(defence, Filter):
            defence.check(algorithm, network, clients)
