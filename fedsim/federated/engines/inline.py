"""The local engine without workers: clients are answered in the server's own process, one after another.

For a debugger's breakpoints, and for sweeps of runs so small that starting a process would take longer than they do.
Messages cross in Flower's encoding, so that results and byte counts are those of workers.
"""

from __future__ import annotations

from typing import Any

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from fedsim.federated.engines.base import load
from fedsim.federated.engines.local import LocalGrid
from fedsim.federated.engines.workers import called, identify
from fedsim.federated.progress import LISTENER, Listener


class InlineGrid(LocalGrid):
    """Grid of `nodes` nodes that answers when it is asked for replies; nobody is there to give up on a client."""

    def __init__(
        self,
        client_app: str,
        run_config: dict[str, Any],
        node_config: dict[str, Any],
        *,
        nodes: int,
        progress: Listener | None = None,
    ) -> None:
        super().__init__(
            client_app, run_config, node_config, nodes=nodes, workers=0, threads=1, timeout=0.0, progress=progress
        )

    def _turn(self, moment: float) -> None:
        """Answer everything that is queued."""
        said = LISTENER.set(self._progress)
        try:
            while self._queue:
                message = _crossed(self._queue.popleft())
                node = {**self._node_config, "partition-id": message.metadata.dst_node_id - 1}
                configs = {"node": node | {"num-partitions": self._nodes}, "run": self._run_config}
                reply = called(load(self._client_app), message, configs)
                self._replies[message.metadata.message_id] = _crossed(reply)
        finally:
            LISTENER.reset(said)
            identify(0)


def _crossed(message: Message) -> Message:
    return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))
