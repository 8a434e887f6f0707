"""The local engine: every message is answered, hung and dead workers are replaced; and Flower is as we know it."""

from __future__ import annotations

import inspect
import os
import signal
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from packaging.requirements import Requirement

from fedsim.federated.engines.base import Job
from fedsim.federated.engines.local import Config, Local, LocalGrid
from fedsim.federated.engines.workers import RUN_ID, identify

APP = "tests.federated.engines.apps:app"
Heard = list[tuple[int, int, int, float | None]]


@pytest.fixture(scope="module")
def heard() -> Heard:
    return []


@pytest.fixture(scope="module")
def grid(heard: Heard) -> Iterator[LocalGrid]:
    identify(0)
    with LocalGrid(
        APP,
        {"greeting": "hello"},
        {"extra": "yes"},
        nodes=5,
        workers=2,
        threads=1,
        timeout=60.0,
        progress=lambda *entry: heard.append(entry),
    ) as made:
        yield made


def ask(node: int, what: str) -> Message:
    return Message(RecordDict({"ask": ConfigRecord({"do": what})}), node, MessageType.TRAIN, group_id="1")


def exchange(grid: LocalGrid, messages: list[Message]) -> list[Message]:
    """Replies in the order of the messages."""
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.send_and_receive(messages)}
    return [replies[message.metadata.message_id] for message in messages]


def seen(reply: Message) -> dict[str, Any]:
    return dict(reply.content.config_records["seen"])


def test_more_messages_than_workers_are_all_answered_by_their_own_node(grid: LocalGrid) -> None:
    nodes = list(grid.get_node_ids())
    assert nodes == [1, 2, 3, 4, 5]
    replies = exchange(grid, [ask(node, "echo") for node in nodes])
    assert [reply.metadata.src_node_id for reply in replies] == nodes
    assert [seen(reply)["partition"] for reply in replies] == [0, 1, 2, 3, 4]
    assert {seen(reply)["partitions"] for reply in replies} == {5}
    assert len({seen(reply)["pid"] for reply in replies}) <= 2


def test_push_and_pull_give_what_has_come_and_each_reply_once(grid: LocalGrid) -> None:
    identities = list(grid.push_messages([ask(1, "echo"), ask(2, "echo"), ask(3, "echo")]))
    assert len(set(identities)) == 3
    got: list[str] = []
    until = time.monotonic() + 30
    while len(got) < 3 and time.monotonic() < until:
        got += [reply.metadata.reply_to_message_id for reply in grid.pull_messages(identities)]
    assert sorted(got) == sorted(identities)
    assert list(grid.pull_messages(identities)) == []


def test_progress_reaches_the_listener(grid: LocalGrid, heard: Heard) -> None:
    heard.clear()
    exchange(grid, [ask(1, "progress")])
    assert heard == [(3, 1, 2, 0.5), (3, 2, 2, None)]


def test_errors_do_not_disturb_the_others(grid: LocalGrid) -> None:
    good, bad, also_good = exchange(grid, [ask(1, "echo"), ask(2, "raise"), ask(3, "echo")])
    assert seen(good)["partition"] == 0
    assert seen(also_good)["partition"] == 2
    assert bad.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "ValueError" in str(bad.error.reason)


def test_the_hung_and_the_dead_are_replaced_and_the_next_message_is_answered(
    grid: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {seen(reply)["pid"] for reply in exchange(grid, [ask(node, "echo") for node in (1, 2, 3, 4)])}
    monkeypatch.setattr(grid, "_timeout", 1.0)
    died, silent = exchange(grid, [ask(1, "die"), ask(2, "silent")])
    monkeypatch.undo()
    assert died.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert "exit code 7" in str(died.error.reason)
    assert silent.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert "no reply within 6 s; its worker was killed" in str(silent.error.reason)
    after = {seen(reply)["pid"] for reply in exchange(grid, [ask(node, "echo") for node in (1, 2, 3, 4)])}
    assert not after & before
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_died_while_idle_costs_no_answer(grid: LocalGrid) -> None:
    (worker, *_) = grid._workers
    os.kill(worker._process.pid or 0, signal.SIGKILL)
    worker._process.join(10)
    assert not any(reply.has_error() for reply in exchange(grid, [ask(node, "echo") for node in (1, 2, 3)]))


def test_leaving_ends_every_worker_and_a_server_app_sees_the_grid(tmp_path: Path) -> None:
    pids: list[int] = []

    def serve(grid: Grid) -> None:
        assert isinstance(grid, LocalGrid)
        pids.extend(worker._process.pid or 0 for worker in grid._workers)
        raise RuntimeError("the server fails")

    job = Job({"greeting": "hi"}, tmp_path, nodes=1, workers=4, threads=1, timeout=60.0, client_app=APP)
    with pytest.raises(RuntimeError, match="the server fails"):
        Local(Config()).run(job, serve)
    assert len(pids) == 1  # never more workers than nodes
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


# --- what we rely on in Flower ---


def test_every_method_of_flowers_grid_is_there_with_its_parameters() -> None:
    assert LocalGrid.__abstractmethods__ == frozenset()
    for name in Grid.__abstractmethods__:
        theirs, ours = getattr(Grid, name), LocalGrid.__dict__[name]
        if not isinstance(theirs, property):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name


def test_flower_is_of_a_version_we_know() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (needed,) = [Requirement(text) for text in project["dependencies"] if text.startswith("flwr")]
    assert flwr.__version__ in needed.specifier


def test_a_message_keeps_its_arrays_and_its_name_in_flowers_encoding() -> None:
    identify(0)
    value = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    message = Message(RecordDict({"x": ArrayRecord({"w": Array(value)})}), 7, MessageType.TRAIN, group_id="2")
    message.metadata.__dict__["_message_id"] = "named"
    back = message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))
    assert np.array_equal(back.content.array_records["x"]["w"].numpy(), value)
    assert (back.metadata.message_id, back.metadata.dst_node_id, back.metadata.group_id) == ("named", 7, "2")
    assert Message(RecordDict(), reply_to=back).metadata.reply_to_message_id == "named"


def test_a_task_knows_its_identity() -> None:
    identify(12)
    assert (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id) == (0, RUN_ID, 12)
    identify(0)
    assert all(hasattr(TaskIdentity, f"_{name}") for name in ("task_id", "run_id", "node_id"))


def test_run_and_messages_of_the_grid(grid: LocalGrid) -> None:
    run = Run.create_empty(RUN_ID)
    grid.set_run(run)
    assert grid.run is run
    message = grid.create_message(RecordDict(), MessageType.TRAIN, 3, "9")
    assert (message.metadata.dst_node_id, message.metadata.group_id) == (3, "9")
