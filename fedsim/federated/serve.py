"""A node answers for its block of clients: one after the other, or in one go where all see the same networks.

One after the other, a client that raises, or is late, fails alone. In one go a planned fault still hits its client
alone, before the work; an exception in the common work fails all who took part in it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence

from flwr.app import RecordDict

from fedsim.federated.base import Broadcast, Together, Upload
from fedsim.federated.blocks import write_answers
from fedsim.federated.client import Node, answer, keep, kept, stops_the_run, streams_of, view_of
from fedsim.federated.deadline import deadline
from fedsim.federated.faults import before_work, tamper
from fedsim.federated.messages import write_failure, write_stop, write_upload
from fedsim.federated.wire import encode
from fedsim.types import UserError

Answers = dict[int, RecordDict]

HIDDEN = "the client failed; under privacy why is not told (--debug prints it where the client runs)"
"""What a private client says of an exception: texts, and even types, may depend on its records."""


def serve(node: Node, broadcasts: Mapping[int, Broadcast]) -> RecordDict:
    """The answers of a block of clients, as one reply."""
    together = isinstance(node.algorithm, Together) and node.algorithm.together
    answers: Answers = {}
    for broadcast, clients in _groups(broadcasts):
        honest = [client for client in clients if node.attacker(client, broadcast.round) is None]
        block = honest if together and len(honest) > 1 else []
        if block:
            answers |= _in_one_go(node, block, broadcast)
        for client in clients:
            if client not in block:
                answers |= _caught(
                    node, [client], lambda client=client, sent=broadcast: {client: answer(node, client, sent)}
                )
    return write_answers(answers)


def _groups(broadcasts: Mapping[int, Broadcast]) -> list[tuple[Broadcast, list[int]]]:
    """Clients by what they were sent: those that share an object."""
    groups: dict[int, tuple[Broadcast, list[int]]] = {}
    for client, broadcast in broadcasts.items():
        groups.setdefault(id(broadcast), (broadcast, []))[1].append(client)
    return list(groups.values())


def _caught(node: Node, clients: Sequence[int], work: Callable[[], Answers]) -> Answers:
    """The answers; if anything was raised, or their time is over, that is the answer of all of them."""
    try:
        with deadline(node.timeout * len(clients)):
            return work()
    except Exception as error:  # noqa: BLE001 - a client may raise anything; it becomes its answer
        if os.environ.get("FEDSIM_DEBUG"):  # set by --debug
            traceback.print_exc()
        return dict.fromkeys(clients, write_failure(_reason(node, error)))


def _reason(node: Node, error: Exception) -> str:
    return HIDDEN if node.setting.privacy is not None else f"{type(error).__name__}: {error}"


def _in_one_go(node: Node, clients: Sequence[int], broadcast: Broadcast) -> Answers:
    """As `answer` for each, for those whom no planned fault stops before the work."""
    answers: Answers = {}
    for client in clients:

        def stop(client: int = client) -> Answers:
            before_work(node.faults, client, broadcast.round)
            return {}

        answers |= _caught(node, [client], stop)
    block = [client for client in clients if client not in answers]
    return answers | (_caught(node, block, lambda: _sound(node, block, broadcast)) if block else {})


def _sound(node: Node, block: Sequence[int], broadcast: Broadcast) -> Answers:
    try:
        uploads = _uploads(node, block, broadcast)
    except (OSError, UserError) as error:
        if not stops_the_run(node, error):
            raise
        private = node.setting.privacy is not None
        return {client: write_stop(client, error, private=private) for client in block}
    spoilt = {one.client: tamper(node.faults, one.client, broadcast.round, write_upload(one)) for one in uploads}
    return {client: encode(content, node.wire) for client, content in spoilt.items()}


def _uploads(node: Node, block: Sequence[int], broadcast: Broadcast) -> list[Upload]:
    """Those kept, if all of them are and were made together; else all are made again, to the same bits."""
    found = [kept(node, client, broadcast, block) for client in block]
    uploads = [upload for upload in found if upload is not None]
    if len(uploads) < len(block):
        assert isinstance(node.algorithm, Together), "serve saw to it"
        views = [view_of(node, client, broadcast) for client in block]
        streams = [streams_of(node, client, broadcast) for client in block]
        uploads = node.algorithm.clients(views, broadcast, streams)
        for upload in reversed(uploads):  # the first, whose folder holds the half-done state of all, comes last
            keep(node, upload, broadcast, block)
    return uploads
