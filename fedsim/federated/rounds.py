"""The server's loop over rounds: ask, collect, check, train, score on `val`, store. It can be killed anywhere.

Nothing here knows the algorithm or the engine. Replies are attributed by the message they answer, never by their
sender (a reply about a dead node comes from elsewhere), and are ordered by client before they are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedsim.federated.base import Algorithm, ServerState, Setting
from fedsim.federated.blocks import Envelopes, read_answer
from fedsim.federated.deadline import lifetime
from fedsim.federated.defences import Aggregation, Filter, served
from fedsim.federated.messages import Contract, failure, payload_bytes, read_upload, write_failure
from fedsim.federated.nodes import Absent, Nodes
from fedsim.federated.participation import Participation, Roll
from fedsim.federated.record import Flops, RoundRecord, append_record, keep_records
from fedsim.federated.transcript import Receipt, StoredUploads, Transcript
from fedsim.federated.wire import Rejected, as_received
from fedsim.runs import RunDirectory
from fedsim.types import RunFailed


@runtime_checkable
class Console(Protocol):
    """Where the loop says how far it is."""

    def say(self, text: str) -> None: ...
    def round_started(self, number: int, rounds: int, clients: Sequence[int]) -> None: ...
    def client_done(self, client: int, outcome: str) -> None: ...
    def round_finished(self, number: int, metrics: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Server:
    """Everything the loop works with."""

    algorithm: Algorithm
    setting: Setting
    run: RunDirectory
    rounds: int
    participation: Participation
    contract: Contract
    transcript: Transcript
    roll: Roll
    """Clients that hold images, and when they can be reached."""
    score: Callable[[ServerState], float]
    """Accuracy of the server's model on `val`."""
    flops: Flops
    """What a round computes."""
    console: Console
    nodes: int
    """Nodes that the clients are spread over."""
    defences: Mapping[str, Filter | Aggregation] = field(default_factory=dict)
    """What is done about uploads before they are trained on, in this order."""
    connect_timeout: float = 0.0
    """Seconds the first round waits for nodes that are not there yet; then it does without them if it can."""


def run_rounds(grid: Grid, server: Server) -> tuple[ServerState, list[RoundRecord]]:
    """All rounds that are not stored yet; returns the last state and the record of every round."""
    server.transcript.discard()
    state, records = _resume(server)
    nodes = Nodes(grid, server.nodes, server.participation.timeout)
    if state.round < server.rounds:
        _gather(server, nodes, state.round + 1)
    for number in range(state.round + 1, server.rounds + 1):
        started = time.monotonic()
        streams = server.setting.streams.at("round", number)
        record = _opened(server, number)
        server.console.round_started(number, server.rounds, record.asked)
        uploads = collect(grid, server, nodes.serving(), state, record)
        if len(uploads) < server.participation.min_replies:
            append_record(server.run.path, record)
            raise RunFailed(_too_few(record, server.participation.min_replies))
        state, record.metrics = served(
            server.algorithm, server.defences, server.setting, state, uploads, streams.at("server")
        )
        record.metrics["accuracy"] = server.score(state)
        record.client_flops, record.server_flops = server.flops(record.responders)
        record.seconds = time.monotonic() - started
        records.append(record)
        _store(server, state, record)
        server.transcript.discard()
        server.console.round_finished(number, record.metrics)
    return state, records


def _opened(server: Server, number: int) -> RoundRecord:
    """The record of a round that begins."""
    roll, streams = server.roll, server.setting.streams
    available = roll.available(number, streams) if roll.trace is not None else None
    return RoundRecord(number, roll.chosen(server.participation.fraction, number, streams), available=available)


def _gather(server: Server, nodes: Nodes, number: int) -> None:
    """Wait for the nodes of all clients; without some go on if round `number` can have its replies from the others.

    A run that is resumed after its machines lost one goes on, as it would have if they had lost it in a round.
    """
    block = server.participation.per_node
    try:
        nodes.wait_for({client // block for client in server.roll.holding}, server.connect_timeout)
    except Absent as absent:
        there = nodes.serving()
        chosen = server.roll.chosen(server.participation.fraction, number, server.setting.streams)
        if sum(client // block in there for client in chosen) < server.participation.min_replies:
            raise
        server.console.say(f"warning: {absent}; going on without")


def collect(
    grid: Grid, server: Server, nodes: Mapping[int, int], state: ServerState, record: RoundRecord
) -> StoredUploads:
    """Send the broadcasts, wait for every reply or error, check and store each upload as it comes."""
    wire = server.contract.wire
    broadcasts = as_received(server.algorithm.broadcast(state, record.asked), wire)
    server.transcript.open(record.round)
    server.transcript.send(record.round, broadcasts)
    owners = _send(grid, server, nodes, Envelopes(broadcasts, wire), record)
    receipts: list[Receipt] = []
    while owners:
        for reply in grid.pull_messages(list(owners)):
            for client in owners.pop(reply.metadata.reply_to_message_id):
                receipt = _receive(server, client, record, _content(reply, client))
                receipts += [receipt] if receipt is not None else []
    uploads = StoredUploads(receipts)
    record.responders = uploads.clients
    return uploads


def _send(
    grid: Grid, server: Server, nodes: Mapping[int, int], envelopes: Envelopes, record: RoundRecord
) -> dict[str, list[int]]:
    """One message per node that serves asked clients; returns message id → its clients."""
    blocks: dict[int, list[int]] = {}
    for client in record.asked:
        node = nodes.get(client // server.participation.per_node)
        if node is None:
            _failed(server, client, record, "its node is not connected")
            continue
        blocks.setdefault(node, []).append(client)
        record.downlink_bytes[client] = envelopes.size(client)
    ttl = lifetime(server.participation.timeout, max(map(len, blocks.values()), default=1), len(blocks))
    messages = [
        Message(envelopes.write(clients), node, MessageType.TRAIN, group_id=str(record.round), ttl=ttl)
        for node, clients in blocks.items()
    ]
    return dict(zip(grid.push_messages(messages), blocks.values(), strict=True))


def _content(reply: Message, client: int) -> RecordDict:
    """What a reply holds of one client; where its whole node failed, that it failed."""
    return read_answer(reply.content, client) if reply.has_content() else write_failure(str(reply.error.reason))


def _failed(server: Server, client: int, record: RoundRecord, reason: str) -> None:
    record.failed[client] = reason
    server.console.client_done(client, f"failed: {reason}")


def _receive(server: Server, client: int, record: RoundRecord, content: RecordDict) -> Receipt | None:
    if (reason := failure(content)) is not None:
        _failed(server, client, record, reason)
        return None
    record.uplink_bytes[client] = payload_bytes(content)
    try:
        upload = read_upload(content, client, record.round, server.contract)
    except Rejected as verdict:
        record.rejected[client] = str(verdict)
        server.console.client_done(client, f"rejected: {verdict}")
        return None
    record.losses[client] = list(upload.losses)
    receipt = server.transcript.accept(upload)
    server.console.client_done(client, "done")
    return receipt


def _resume(server: Server) -> tuple[ServerState, list[RoundRecord]]:
    stored = server.run.last_round()
    if stored is None:
        server.run.forget_after(0)
        return server.algorithm.init(server.setting), keep_records(server.run.path, 0)
    number, tensors, _ = stored
    server.run.forget_after(number)
    records = keep_records(server.run.path, number)
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    memory = {name.removeprefix("memory."): value for name, value in tensors.items() if name.startswith("memory.")}
    return ServerState(number, weights, memory), records


def _store(server: Server, state: ServerState, latest: RoundRecord) -> None:
    for name, value in latest.metrics.items():
        server.run.metric(latest.round, "val" if name == "accuracy" else "train", name, value)
    tensors = {f"weights.{name}": value for name, value in state.weights.items()}
    tensors |= {f"memory.{name}": value for name, value in state.memory.items()}
    append_record(server.run.path, latest)
    server.run.save_round(latest.round, tensors, {"round": latest.round})


def _too_few(record: RoundRecord, needed: int) -> str:
    reasons = {**record.failed, **record.rejected}
    first = "; ".join(f"client {client}: {reason}" for client, reason in sorted(reasons.items())[:3])
    return (
        f"round {record.round}: {len(record.responders)} of {len(record.asked)} uploads were usable, "
        f"participation.min_replies is {needed} ({first})"
    )
