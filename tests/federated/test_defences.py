"""A server with defences: filters one after another, an aggregation last, what is logged and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import pytest
import torch

from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.defences import (
    Aggregation,
    Filter,
    Kept,
    Sends,
    Verdict,
    as_metrics,
    check_aggregation,
    check_defences,
    kept,
    served,
    verdicts_in,
)
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.reference import fedavg as federation

BEFORE = ServerState(3, {"w": torch.zeros(2)}, {"m": torch.ones(1)})


class Against:
    """A filter that flags the clients it is told to, and remembers whom it saw."""

    sends: ClassVar[Sends] = "synthetic"

    def __init__(self, *clients: int, drops: int = 0) -> None:
        self.clients, self.drops, self.seen, self.first = clients, drops, [], 0

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        self.seen = [one.client for one in uploads]
        self.first = streams.seed if not streams.path else hash(streams.path)
        found = [Verdict(one.client, float(one.client), one.client in self.clients) for one in uploads]
        return found[self.drops :]


class Instead:
    """An aggregation that counts what it gets."""

    sends: ClassVar[Sends] = "any"

    def check(self, algorithm: Any, network: Any, clients: int) -> None:
        if clients < 3:
            raise UserError(f"instead: got {clients} clients; valid: 3")

    def aggregate(
        self, algorithm: Any, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams,
        *, left_out: int,
    ) -> tuple[ServerState, dict[str, float]]:  # fmt: skip
        counts = {"aggregated": float(len(uploads)), "left_out": float(left_out)}
        return ServerState(state.round + 1, {"w": torch.full((2,), 9.0)}), counts


class Plain:
    """An algorithm's server that adds up who is there."""

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        total = float(sum(one.client for one in uploads))
        draw = float(torch.rand((), generator=streams.generator()))
        return ServerState(state.round + 1, {"w": torch.full((2,), total)}), {"served": total, "draw": draw}


def uploads(*clients: int) -> list[Upload]:
    return [Upload(client, 4, 1) for client in clients]


def serve(defences: dict[str, Any], *clients: int) -> tuple[ServerState, dict[str, float]]:
    here = federation.setting()
    return served(cast(Any, Plain()), defences, here, BEFORE, uploads(*clients), Streams(5))


def test_without_defences_or_flags_it_is_the_algorithms_own_server() -> None:
    plain, metrics = serve({}, 1, 2, 5)
    assert metrics.keys() == {"served", "draw"}
    found, more = serve({"one": Against(), "two": Against()}, 1, 2, 5)
    assert torch.equal(found.weights["w"], plain.weights["w"])
    assert {name: more[name] for name in metrics} == metrics
    assert more["defence.two.score.5"] == 5.0


def test_filters_act_in_order_each_on_what_is_left() -> None:
    one, two = Against(2), Against(5, 2)
    found, metrics = serve({"one": one, "two": two}, 1, 2, 5)
    assert (one.seen, two.seen) == ([1, 2, 5], [1, 5])
    assert (found.weights["w"].tolist(), metrics["served"]) == ([1, 1], 1)
    assert one.first != two.first
    flags = {name: value for name, value in metrics.items() if "flagged" in name}
    assert flags == {
        "defence.one.flagged.1": 0, "defence.one.flagged.2": 1, "defence.one.flagged.5": 0,
        "defence.two.flagged.1": 0, "defence.two.flagged.5": 1,
    }  # fmt: skip


def test_an_aggregation_acts_last_wherever_it_stands() -> None:
    found, metrics = serve({"instead": Instead(), "one": Against(2)}, 1, 2, 5)
    assert (found.weights["w"].tolist(), metrics["aggregated"], metrics["left_out"]) == ([9, 9], 2, 1)
    assert "served" not in metrics


def test_where_nobody_is_left_the_server_keeps_its_model_and_its_memory() -> None:
    after = Against()
    found, metrics = serve({"one": Against(1, 2), "after": after, "instead": Instead()}, 1, 2)
    assert (found.round, found.weights, found.memory) == (4, BEFORE.weights, BEFORE.memory)
    assert metrics["defence.one.flagged.1"] == 1
    assert after.seen == []
    assert not {"served", "aggregated"} & metrics.keys()


def test_verdicts_must_be_one_for_each_upload() -> None:
    with pytest.raises(UserError, match="defence one: got 2 verdicts on 3 uploads; valid: one on each"):
        serve({"one": Against(drops=1)}, 1, 2, 5)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_is_a_number(score: float) -> None:
    with pytest.raises(UserError, match=f"got a score of {score} for client 3"):
        Verdict(3, score, flagged=False)


def test_what_is_kept_is_the_very_same_sequence_or_the_very_same_items() -> None:
    given = uploads(1, 2, 5, 8)
    clear = [Verdict(one.client, 0.0, flagged=False) for one in given]
    assert kept(given, clear) is given
    some = kept(given, [Verdict(one.client, 0.0, flagged=one.client == 2) for one in given])
    assert isinstance(some, Kept)
    assert [one is other for one, other in zip(some, [given[0], given[2], given[3]], strict=True)] == [True] * 3
    assert (len(some), some[-1] is given[3]) == (3, True)
    assert [one.client for one in some[1:]] == [5, 8]
    assert [one.client for one in kept(some, clear[1:])] == [1, 5, 8]
    with pytest.raises(IndexError):
        some[3]


class Counting(Sequence[Upload]):
    """Uploads that count how often one is asked for."""

    def __init__(self, given: list[Upload]) -> None:
        self.given, self.asked = given, 0

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: Any) -> Any:
        self.asked += 1
        return self.given[index]


def test_what_is_kept_stays_lazy() -> None:
    lazy = Counting(uploads(1, 2, 5))
    some = kept(lazy, [Verdict(one, 0.0, flagged=one == 1) for one in (1, 2, 5)])
    assert (len(some), lazy.asked) == (2, 0)
    assert (some[0].client, lazy.asked) == (2, 1)


def test_verdicts_are_read_back_from_the_metrics_of_a_round() -> None:
    said = [
        Verdict(1, 0.5, flagged=False),
        Verdict(12, -3.0, flagged=True),
        Verdict(2, 0.0, flagged=False, judged=False),
    ]
    own = "my.package:Mine"
    metrics = (
        {"accuracy": 0.5, "defence.robust_aggregation.share.1": 0.2}
        | as_metrics("one", said)
        | as_metrics(own, said[:1])
    )
    assert verdicts_in(metrics) == {"one": said, own: said[:1]}
    assert verdicts_in({"accuracy": 0.5}) == {}


def test_a_defence_needs_something_to_look_at() -> None:
    check_defences({"one": Against(), "instead": Instead()}, sets=True)
    check_defences({"instead": Instead()}, sets=False)
    with pytest.raises(UserError, match="one looks at synthetic, and clients of this algorithm upload weights"):
        check_defences({"one": Against()}, sets=False)
    with pytest.raises(UserError, match="instead and again both take the place"):
        check_defences({"instead": Instead(), "again": Instead()}, sets=True)


def test_an_aggregation_is_asked_whether_it_fits() -> None:
    network = federation.setting().first_network()
    check_aggregation({"one": Against(), "instead": Instead()}, cast(Any, Plain()), network, 3)
    with pytest.raises(UserError, match="instead: got 2 clients"):
        check_aggregation({"one": Against(), "instead": Instead()}, cast(Any, Plain()), network, 2)


def test_a_filter_is_no_aggregation() -> None:
    assert isinstance(Against(), Filter)
    assert not isinstance(Against(), Aggregation)
    assert isinstance(Instead(), Aggregation)
    assert not isinstance(Instead(), Filter)
