"""The local engine: a Flower Grid whose nodes are worker processes of this machine.

It runs the same ServerApp and ClientApp as Flower's own engines. Nodes are numbered from 1 in the order of the blocks
of clients they serve. Work is handed out in the order pushed; which worker does it has no influence on the result.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import wait
from typing import Any, Literal

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedsim.config import Section
from fedsim.federated.blocks import addressed
from fedsim.federated.deadline import GRACE
from fedsim.federated.engines.base import Job, Serve, server_app
from fedsim.federated.engines.workers import RUN_ID, Worker, identify
from fedsim.federated.progress import Listener


class Config(Section):
    """How many processes work is `compute.workers`; it has no influence on the result."""

    name: Literal["local"] = "local"


class Local:
    """Worker processes of this machine."""

    Config = Config
    connect_timeout = 0.0

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, job: Job, serve: Serve) -> None:
        """Run the ServerApp in this process, its clients in the grid's workers, or here if there are none."""
        from fedsim.federated.engines.inline import InlineGrid

        settings = (job.client_app, job.run_config, {"folder": str(job.store)})
        if job.workers:
            grid = LocalGrid(
                *settings, nodes=job.nodes, workers=job.workers, threads=job.threads, timeout=job.timeout,
                progress=job.progress,
            )  # fmt: skip
        else:
            grid = InlineGrid(*settings, nodes=job.nodes, progress=job.progress)
        identify(0)
        with grid:
            server_app(serve)(grid, Context(RUN_ID, 0, {}, RecordDict(), job.run_config))


class LocalGrid(Grid):
    """Grid of `nodes` nodes, served by `workers` processes; `timeout` is in seconds for each client of a message."""

    def __init__(
        self,
        client_app: str,
        run_config: dict[str, Any],
        node_config: dict[str, Any],
        *,
        nodes: int,
        workers: int,
        threads: int,
        timeout: float,
        progress: Listener | None = None,
    ) -> None:
        self._client_app, self._threads = client_app, threads
        self._run_config, self._node_config = run_config, node_config
        self._nodes, self._timeout, self._progress = nodes, timeout, progress
        self._queue: deque[Message] = deque()
        self._replies: dict[str, Message] = {}
        self._workers = [Worker(client_app, threads) for _ in range(min(workers, nodes))]
        self._run = Run.create_empty(RUN_ID)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def set_run(self, run: Run) -> None:
        """Remember the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """1 … number of nodes."""
        return range(1, self._nodes + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages and start on them; returns their ids."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex  # the grid names messages, as Flower's do
            self._queue.append(message)
            ids.append(message.metadata.message_id)
        self._turn(0)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come; waits a moment for news, so that a loop around this call does not spin."""
        wanted = set(message_ids)
        until = time.monotonic() + 0.2
        while wanted and not wanted & self._replies.keys() and (left := until - time.monotonic()) > 0:
            self._turn(left)  # progress ends a turn early, a reply is what is waited for
        return [self._replies.pop(identity) for identity in list(self._replies) if identity in wanted]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, and pull until every message is answered (late ones by an error: the grid's own timeout)."""
        open_ids = set(self.push_messages(messages))
        replies: list[Message] = []
        while open_ids:
            came = list(self.pull_messages(open_ids))
            open_ids -= {reply.metadata.reply_to_message_id for reply in came}
            replies += came
        return replies

    def _turn(self, moment: float) -> None:
        """Hand out work, collect what came, replace what hangs or died."""
        self._hand_out()
        busy = [worker.connection for worker in self._workers if worker.message is not None]
        if busy and moment:
            wait(busy, moment)
        for index, worker in enumerate(self._workers):
            if worker.message is None:
                continue
            identity = worker.message.metadata.message_id
            patience = self._timeout * max(1, len(addressed(worker.message.content))) + GRACE
            reply, progress = worker.poll()
            for entry in progress:
                if self._progress is not None:
                    self._progress(*entry)
            lost = reply is not None and reply.has_error() and worker.message is not None
            if reply is None:
                reply = worker.expired(patience)
                lost = reply is not None
            if reply is not None:
                self._replies[identity] = reply
            if lost:
                self._replace(index)
        self._hand_out()

    def _replace(self, index: int) -> Worker:
        self._workers[index].kill()
        self._workers[index] = Worker(self._client_app, self._threads)
        return self._workers[index]

    def _hand_out(self) -> None:
        for index, idle in enumerate(self._workers):
            if idle.message is None and self._queue:
                worker = idle if idle.alive else self._replace(index)
                message = self._queue.popleft()
                node = {**self._node_config, "partition-id": message.metadata.dst_node_id - 1}
                worker.send(message, node | {"num-partitions": self._nodes}, self._run_config)
