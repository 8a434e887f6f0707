"""What an engine is: it runs Flower's ServerApp, and every node of its grid runs the same ClientApp.

The grid an engine hands to the server keeps two promises beyond Flower's interface, so that the loop over rounds need
not know the engine: every message that was pushed is answered in time, by a reply or by an error, and `pull_messages`
waits a moment for news, so that a loop around it does not spin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim.config import Section
from fedsim.federated.progress import Listener

CLIENT_APP = "fedsim.app:client_app"
"""The ClientApp of every engine, by name: processes import it, none is sent."""

Serve = Callable[[Grid], None]
"""What the server does with the grid: all rounds."""


@dataclass(frozen=True)
class Job:
    """What an engine must know of a run."""

    run_config: dict[str, Any]
    """Flower's run config: `config`, the resolved YAML."""
    store: Path
    """Folder of the clients' own folders."""
    nodes: int
    """Nodes of the federation; node i has `partition-id` i."""
    workers: int
    """Client processes, where the engine starts them itself."""
    threads: int
    """torch threads of each process."""
    timeout: float
    """Seconds a node may work on one message."""
    progress: Listener | None = None
    """Told how far a client is, where the engine can tell."""
    client_app: str = CLIENT_APP
    """`module:attribute` of the ClientApp."""


class Engine(Protocol):
    """One way to carry messages."""

    @property
    def Config(self) -> type[Section]:  # noqa: N802 - the class attribute that the catalog reads
        """Its settings' class."""
        ...

    connect_timeout: float
    """Seconds until all nodes must have come."""

    def run(self, job: Job, serve: Serve) -> None:
        """Start the nodes, run the ServerApp in this process, end the nodes whatever happened."""
        ...


def server_app(serve: Serve) -> ServerApp:
    """Flower's ServerApp that does `serve`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        serve(grid)

    return app
