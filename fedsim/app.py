"""Flower's entry point: a ServerApp and a ClientApp that every engine runs, and `flwr run` too.

The ClientApp is the same everywhere. Where fedsim starts the engine, the resolved YAML travels as the run config's
key `config`, and the server's part runs in fedsim's own process. Where Flower starts the ServerApp (`flwr run .`, a
SuperLink), the ServerApp of this file does what `fedsim run` does, with the grid that Flower gives it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from functools import lru_cache
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.build import Parts
from fedsim.config import digest, parse_yaml, validate
from fedsim.federated.blocks import addressed, clients_of, read_broadcasts
from fedsim.federated.client import Node
from fedsim.federated.engines.base import Outcome
from fedsim.federated.engines.hosted import Hosted
from fedsim.federated.engines.submission import tell
from fedsim.federated.serve import HIDDEN, serve
from fedsim.own_code import own_code
from fedsim.schema import FederatedRun, load_run
from fedsim.types import UserError
from fedsim.verdict import WRONG_INPUT, verdict
from fedsim.workload import settled

CONNECT_TIMEOUT = 120.0
"""Seconds that nodes are waited for, where the config's engine does not say."""

client_app = ClientApp()
server_app = ServerApp()


@client_app.query("identify")
def identify(message: Message, context: Context) -> Message:
    """Say which block of clients this node serves: its partition-id is the block's number."""
    node = context.node_config
    identity = ConfigRecord({key: int(node[key]) for key in ("partition-id", "num-partitions") if key in node})
    return Message(RecordDict({"identity": identity}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Do the part of a round of every client of this node that is asked."""
    try:
        return _train(message, context)
    except Exception as error:
        if isinstance(error, UserError) or read_config(*_asked(context)).privacy is None:
            raise
        raise RuntimeError(HIDDEN) from error


def _train(message: Message, context: Context) -> Message:
    import torch

    parts = _parts(*_asked(context))
    config = parts.config
    assert isinstance(config, FederatedRun)
    torch.set_num_threads(config.compute.threads)
    number = int(context.node_config["partition-id"])
    block = clients_of(number, len(parts.split.client), config.participation.per_node)
    if strangers := set(addressed(message.content)) - set(block):
        raise UserError(f"node {number} was asked for client {min(strangers)}; it serves {block[0]} to {block[-1]}")
    folder, store = context.node_config.get("folder"), context.node_config.get("store")
    node = Node(
        algorithm=parts.algorithm(),
        setting=parts.setting,
        images=lambda client: parts.images(parts.split.client[client]),
        store=Path(str(folder)) if folder else own_folder(Path(str(store)), parts) if store else None,
        checkpoint_every=config.checkpoint_every,
        faults=config.faults,
        timeout=config.participation.timeout,
        wire=config.wire,
        own=parts.algorithm_of if parts.scales else None,
        attacker=parts.attacker,
        planted=parts.planted,
        forget=config.transcript == "none",
    )
    return Message(serve(node, read_broadcasts(message.content, config.wire)), reply_to=message)


def own_folder(store: Path, parts: Parts) -> Path:
    """Where a node keeps what belongs to one run: runs of other settings, seeds, images or code lie beside it.

    Engines that start their nodes for one run give its folder outright (`folder` in the node's config).
    """
    config = parts.config
    facts = [digest(config), config.seed, parts.dataset.fingerprint(), own_code(config)]
    return store / config.name / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Do what `fedsim run` does; the last line it prints says how that ended."""
    from fedsim.experiment import execute

    settings = context.run_config
    try:
        config = read_config(*_asked(context))
        patience = getattr(config.engine, "connect_timeout", CONNECT_TIMEOUT)
        argv = json.loads(str(settings.get("argv") or "[]"))
        out = Path(str(settings.get("out") or "runs"))
        run = execute(config, out, argv=argv, engine=Hosted(grid, patience))
    except Exception as error:
        text, code = verdict(error)
        tell(Outcome("", text, code == WRONG_INPUT))
        raise
    tell(Outcome(str(run.resolve())))


def read_config(text: str, overrides: str) -> FederatedRun:
    """The run that `config` asks for: YAML text, or a file's name with `overrides` as words of a shell.

    A relative name is looked for in the app that Flower unpacked, which it puts first on the module path, then here.
    """
    if "\n" in text:
        return validate(FederatedRun, parse_yaml(text, "the run's config"))
    if not text:
        raise UserError("the run config's `config` is empty; give a file: flwr run . -c 'config=\"FILE.yaml\"'")
    places = [Path(folder) / text for folder in (*sys.path, ".")]
    path = next((place for place in places if place.is_file()), Path(text))
    return load_run(path, shlex.split(overrides))


def _asked(context: Context) -> tuple[str, str]:
    return str(context.run_config.get("config", "")), str(context.run_config.get("overrides", ""))


@lru_cache(maxsize=1)
def _parts(text: str, overrides: str) -> Parts:
    """Objects of a config, kept while a process serves the same run."""
    return settled(Parts(read_config(text, overrides)))
