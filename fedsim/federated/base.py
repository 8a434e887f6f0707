"""What passes between the halves of a federated method, and the method's protocol.

An algorithm's file holds both halves and reads like the paper's listing. Flower carries messages; `client.py` and
`rounds.py` map them to these calls. Everything here is the same on every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from fedsim.config import Section
from fedsim.data.canaries import Planted
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.distill.cost import Passes
from fedsim.distill.drive import Log
from fedsim.models.execution import AS_WRITTEN, Execution, Runner
from fedsim.models.functional import model_sha256
from fedsim.models.network import Network
from fedsim.privacy.agreement import Agreement
from fedsim.seeding import Streams
from fedsim.types import Params


@dataclass(frozen=True)
class Setting:
    """What both halves know before any data is seen."""

    streams: Streams
    """Random streams of the whole run."""
    classes: tuple[str, ...]
    """Class names."""
    image_shape: tuple[int, int, int]
    """(c, h, w)."""
    normalise: Normalise
    """Bytes to network input."""
    fresh: Callable[[torch.Generator], Network]
    """A newly initialised network on the device."""
    device: torch.device
    """Where networks and images live."""
    execution: Execution = AS_WRITTEN
    """How networks are run."""
    clients: int = 0
    """Clients of the federation that hold images."""
    progress: Callable[[str, int, int, str], None] | None = None
    """Told how far the server's own work is: (what, done, of how many, note)."""
    privacy: Agreement | None = None
    """What is agreed on differential privacy; None: there is none."""
    scales: tuple[float, ...] = ()
    """Share of a round's full work that each client does; empty: all of it."""
    start: Streams | None = None
    """Streams of the first weights, where runs of an audit share these and nothing else; None: those of the run."""

    def first_network(self) -> Network:
        """A network with the server's first weights."""
        return self.fresh((self.start or self.streams).generator("server", "init"))

    def scale(self, client: int) -> float:
        """Share of a round's full work that this client does."""
        return self.scales[client] if self.scales else 1.0

    def runner(self) -> Runner:
        """A network whose weights are yet to be copied in, and how it is run."""
        return Runner(self.fresh(self.streams.generator("template")), self.execution).frozen()


@dataclass(frozen=True)
class ClientView:
    """What one client sees: its own images and the public setting."""

    client: int
    """Partition id, 0..K−1."""
    setting: Setting
    images: Images
    """Its training images, on the CPU."""
    store: Path | None = None
    """Its own folder, where half-done work survives a kill."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints of half-done work."""
    log: Log | None = None
    """Called with (iteration, metrics) while it works."""
    memory: Params = field(default_factory=dict)
    """What it kept after the last earlier round that it took part in; empty at first."""
    planted: Planted | None = None
    """Its images again, those apart that an audit dealt to it; None: it did not."""


@dataclass(frozen=True)
class Broadcast:
    """What the server sends one client."""

    round: int
    """r, from 1."""
    weights: Params
    """w_r, and what belongs to it (SCAFFOLD's c); read only: the clients of a node share them."""
    extra: Params = field(default_factory=dict)
    """Further tensors of the algorithm (another client's set …); read only too."""

    def tensors(self) -> Params:
        """Everything that is sent, by name."""
        return self.weights | {f"extra.{name}": value for name, value in self.extra.items()}

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of what is sent."""
        return model_sha256(self.tensors())


@dataclass(frozen=True)
class Upload:
    """What a client sends back: a synthetic set or weights."""

    client: int
    round: int
    examples: int
    """Real images it used."""
    synthetic: SyntheticSet | None = None
    weights: Params | None = None
    losses: Sequence[tuple[int, float]] = ()
    """(iteration or epoch, loss) as logged."""
    memory: Params = field(default_factory=dict)
    """What the client keeps for its next round; it never leaves the client's folder."""


@dataclass(frozen=True)
class ServerState:
    """Everything the server must remember between rounds."""

    round: int
    """Rounds finished."""
    weights: Params
    """w."""
    memory: Params = field(default_factory=dict)
    """The algorithm's own tensors (server momentum, control variates …)."""


@runtime_checkable
class Algorithm(Protocol):
    """Both halves of a federated method."""

    @property
    def Config(self) -> type[Section]:  # noqa: N802 - the class attribute that the catalog reads
        """Its settings' class."""
        ...

    rounds: ClassVar[int | None]
    """How many rounds it has by definition; None: as many as asked for."""
    sends_weights: ClassVar[bool]
    """Whether clients are sent the server's weights, which networks can then be drawn around."""
    method_defaults: ClassVar[Mapping[str, Any] | None]
    """Settings of `method` that the paper prescribes; None: the algorithm condenses nothing."""
    server_defaults: ClassVar[Mapping[str, Any]]
    """Settings of `server` that the paper prescribes."""

    def init(self, setting: Setting) -> ServerState:
        """The server's state before round 1."""
        ...

    def broadcast(self, state: ServerState, clients: Sequence[int]) -> Mapping[int, Broadcast]:
        """What each of `clients` is sent; the same object where it is the same, so that it travels once."""
        ...

    def client(self, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """ClientUpdate(k, w_r)."""
        ...

    def server(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> tuple[ServerState, dict[str, float]]:
        """The server's part of a round: the next state and what to log. `uploads` are ordered by client."""
        ...

    def work(self) -> int:
        """Steps or epochs of one client's part of a round, for the progress display."""
        ...

    def budget(self, setting: Setting) -> int:
        """Synthetic images a client may upload at most per class; 0 where none are uploaded."""
        ...

    def uploaded(self, setting: Setting) -> Params | None:
        """Tensors of the shapes and types that a client uploads as weights; None where it uploads none."""
        ...

    def passes(self, counts: Sequence[Int64[Tensor, "k"]]) -> tuple[Passes, Passes]:
        """What a round with clients of that many images per class costs: all clients together, and the server."""
        ...


@runtime_checkable
class Together(Protocol):
    """An algorithm that can do several clients' part at once, where they share what they draw."""

    @property
    def together(self) -> bool:
        """Whether the settings allow it."""
        ...

    def clients(self, views: Sequence[ClientView], broadcast: Broadcast, streams: Sequence[Streams]) -> list[Upload]:
        """ClientUpdate(k, w_r) of each; the uploads agree with those of `client` up to rounding."""
        ...


def network_with(setting: Setting, weights: Params) -> Network:
    """A network that holds `weights`."""
    network = setting.fresh(setting.streams.generator("template"))
    network.load_state_dict(weights)
    return network
