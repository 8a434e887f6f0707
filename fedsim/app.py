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
from fedsim.federated.client import answer
from fedsim.federated.messages import read_broadcast
from fedsim.schema import FederatedRun
from fedsim.types import UserError

client_app = ClientApp()
server_app = ServerApp()

SERVE: ContextVar[Callable[[Grid], None] | None] = ContextVar("fedsim_serve", default=None)
"""What the server does with the grid; set by `simulation.py`, which knows the run directory and the console."""


@client_app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Say which partition this node serves."""
    identity = ConfigRecord({"partition-id": int(context.node_config["partition-id"])})
    return Message(RecordDict({"identity": identity}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's part of a round."""
    parts = _parts(str(context.run_config["config"]))
    config = parts.config
    assert isinstance(config, FederatedRun)
    client = int(context.node_config["partition-id"])
    store = context.node_config.get("store")
    algorithm = parts.algorithm()
    content = answer(
        algorithm,
        parts.setting,
        parts.images(parts.split.client[client]),
        client,
        read_broadcast(message.content),
        iterations=algorithm.work(),
        store=Path(str(store)) if store else None,
        checkpoint_every=config.checkpoint_every,
        faults=config.faults,
    )
    return Message(content, reply_to=message)


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
