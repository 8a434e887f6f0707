"""Worker processes of the local engine: each answers one message at a time and dies with its parent.

Messages cross the pipe in Flower's own encoding, never as pickles. A worker that does not answer in time is killed and
replaced; so is one that dies. The lifeline is a pipe whose writing end only the parent holds: when the parent is gone,
however it went, its reading end closes and the worker exits.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import struct
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.task_identity import TaskIdentity

from fedsim.federated.engines.base import load, reply_of
from fedsim.federated.progress import LISTENER

RUN_ID = 1
_REPLY, _PROGRESS, _READY = b"R", b"P", b"S"

START = 300.0
"""Seconds that a worker may take to start and import what it needs, before its first message counts as work."""


def identify(node_id: int) -> None:
    """Flower creates messages only in a process that knows which task it is; its runtime sets this, so do we."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, RUN_ID, node_id


class Worker:
    """The parent's handle on one process."""

    def __init__(self, client_app: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        lifeline, self._alive = context.Pipe(duplex=False)
        arguments = (child, lifeline, client_app, threads)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        child.close()
        lifeline.close()
        self.busy_since: float | None = None
        self._ready = False
        self.message: Message | None = None

    def send(self, message: Message, node_config: dict[str, Any], run_config: dict[str, Any]) -> None:
        """Give it a message; returns at once."""
        envelope = json.dumps({"node": node_config, "run": run_config}).encode()
        body = message_to_proto(message).SerializeToString()
        self.message, self.busy_since = message, time.monotonic()
        with suppress(ConnectionError):  # it died this moment: `poll` says so in the message's error reply
            self._pipe.send_bytes(struct.pack("<Q", len(envelope)) + envelope + body)

    def poll(self) -> tuple[Message | None, list[tuple[int, int, int, float | None]]]:
        """What it said since: a reply, if it is done, and progress."""
        progress: list[tuple[int, int, int, float | None]] = []
        try:
            while self._pipe.poll():
                frame = self._pipe.recv_bytes()
                if frame[:1] == _READY:
                    self._ready, self.busy_since = True, time.monotonic()
                    continue
                if frame[:1] == _REPLY:
                    self.message = self.busy_since = None
                    return message_from_proto(ProtoMessage.FromString(frame[1:])), progress
                progress.append(tuple(json.loads(frame[1:])))
        except (EOFError, ConnectionError):
            self._process.join(1)
        if self.message is not None and not self._process.is_alive():
            reason = f"worker died with exit code {self._process.exitcode}"
            return Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=self.message), progress
        return None, progress

    def expired(self, timeout: float) -> Message | None:
        """An error reply if the message in work is older than `timeout` seconds; starting up is no work."""
        timeout = timeout if self._ready else max(timeout, START)
        if self.message is None or self.busy_since is None or time.monotonic() - self.busy_since < timeout:
            return None
        reason = f"no reply within {timeout:g} s; its worker was killed"
        return Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason), reply_to=self.message)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    @property
    def connection(self) -> Any:
        """What to wait on."""
        return self._pipe

    def kill(self) -> None:
        """End the process now and free its pipes."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._alive.close()


def _work(pipe: Connection, lifeline: Connection, client_app: str, threads: int) -> None:
    """Body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    app = load(client_app)

    def listen(client: int, iteration: int, iterations: int, loss: float | None) -> None:
        pipe.send_bytes(_PROGRESS + json.dumps([client, iteration, iterations, loss]).encode())

    LISTENER.set(listen)
    pipe.send_bytes(_READY)
    while True:
        try:
            frame = pipe.recv_bytes()
        except EOFError:
            return
        (size,) = struct.unpack("<Q", frame[:8])
        configs = json.loads(frame[8 : 8 + size])
        message = message_from_proto(ProtoMessage.FromString(frame[8 + size :]))
        reply = called(app, message, configs)
        pipe.send_bytes(_REPLY + message_to_proto(reply).SerializeToString())


def called(app: Any, message: Message, configs: dict[str, Any]) -> Message:
    """The app's reply, as the node that the message is for."""
    node_id = message.metadata.dst_node_id
    identify(node_id)
    context = Context(RUN_ID, node_id, configs["node"], RecordDict(), configs["run"])
    return reply_of(app, message, context)


def _die_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
