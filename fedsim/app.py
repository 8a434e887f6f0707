"""Flower's entry point: a ServerApp and a ClientApp that any engine runs. The whole YAML travels as one string key."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.build import Parts
from fedsim.config import parse_yaml, validate
from fedsim.federated.blocks import addressed, clients_of, read_broadcasts
from fedsim.federated.client import Node
from fedsim.federated.serve import serve
from fedsim.schema import FederatedRun
from fedsim.types import UserError

client_app = ClientApp()
server_app = ServerApp()

SERVE: ContextVar[Callable[[Grid], None] | None] = ContextVar("fedsim_serve", default=None)
"""What the server does with the grid; set by `simulation.py`, which knows the run directory and the console."""


@client_app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Say which block of clients this node serves: its partition-id is the block's number."""
    identity = ConfigRecord({"partition-id": int(context.node_config["partition-id"])})
    return Message(RecordDict({"identity": identity}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Do the part of a round of every client of this node that is asked."""
    parts = _parts(str(context.run_config["config"]))
    config = parts.config
    assert isinstance(config, FederatedRun)
    number = int(context.node_config["partition-id"])
    block = clients_of(number, len(parts.split.client), config.participation.per_node)
    if strangers := set(addressed(message.content)) - set(block):
        raise UserError(f"node {number} was asked for client {min(strangers)}; it serves {block[0]} to {block[-1]}")
    store = context.node_config.get("store")
    node = Node(
        algorithm=parts.algorithm(),
        setting=parts.setting,
        images=lambda client: parts.images(parts.split.client[client]),
        store=Path(str(store)) if store else None,
        checkpoint_every=config.checkpoint_every,
        faults=config.faults,
        forget=config.transcript == "none",
    )
    return Message(serve(node, read_broadcasts(message.content)), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    serve = SERVE.get()
    if serve is None:
        raise UserError("the ServerApp was started by itself; start the run with: fedsim run CONFIG")
    serve(grid)


@lru_cache(maxsize=1)
def _parts(text: str) -> Parts:
    """Objects of a config, kept while a process serves the same run."""
    return Parts(validate(FederatedRun, parse_yaml(text, "the run's config")))
