"""A tiny audit by hand: run folders with one synthetic set each, and the views that a runner would make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedsim.audit.types import Knowledge, Scores, ThreatModel
from fedsim.audit.view import AdversaryView, Public, Released, Shadow, Source
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.models.functional import state
from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network
from fedsim.seeding import Streams, numpy_stream, stream
from fedsim.training.train import TrainConfig
from tests.reference.membership import complementary

SIDE = 8
CLASSES = 2
SHAPE = (1, SIDE, SIDE)
QUICK = TrainConfig(epochs=2, lr=0.05, batch_size=32, weight_decay=0.0)


class Plain(Network):
    """ψ(x) = x, so that what an embedding should give is known."""

    def __init__(self) -> None:
        super().__init__([nn.Flatten()], SIDE * SIDE, CLASSES)


def mlp(rng: torch.Generator) -> Network:
    """Two layers of 16 units."""
    return build_network(MLP, MLPConfig(depth=1, width=16), SHAPE, CLASSES, rng)


def plain(rng: torch.Generator) -> Network:
    """The identity and a head."""
    network = Plain()
    network.reset(rng)
    return network


def noise_images(count: int, seed: int) -> Images:
    """So many images of normal noise around a grey that differs between classes, half of each class."""
    rng = stream(seed, "images")
    labels = torch.arange(count) % CLASSES
    pixels = 110 + 30 * labels[:, None, None, None] + 30 * torch.randn((count, *SHAPE), generator=rng)
    return Images(pixels.round().clamp(0, 255).to(torch.uint8), labels)


Release = Callable[[Images, int], Images]
"""(members of a row, number of the row) → the synthetic images it releases."""


def publish(share: int) -> Release:
    """So many members of each class, as they are."""

    def release(members: Images, row: int) -> Images:
        rng = numpy_stream(row, "publish")
        of = [np.flatnonzero(members.labels.numpy() == label) for label in range(CLASSES)]
        return members.take(torch.from_numpy(np.concatenate([rng.permutation(rows)[:share] for rows in of])))

    return release


@dataclass
class Audit:
    """Rows, candidates and where each row's run lies."""

    folder: Path
    release: Release
    pairs: int = 4
    candidates: Images = field(default_factory=lambda: noise_images(40, 0))
    auxiliary: Images = field(default_factory=lambda: noise_images(60, 1))
    fresh: Callable[[torch.Generator], Network] = plain
    train: TrainConfig | None = QUICK
    cache: dict[str, np.ndarray] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = numpy_stream(0, "rows")
        self.members = complementary(self.pairs, self.candidates.labels.numpy(), rng)
        for row, members in enumerate(self.members):
            self.write(row, self.release(self.candidates.take(torch.from_numpy(np.flatnonzero(members))), row))

    def write(self, row: int, images: Images) -> None:
        """The run of a row, with one set of one round."""
        made = SyntheticSet(images.pixels, images.labels, ("a", "b"), (0.5,), (0.25,))
        path = self.folder / f"row_{row}" / "synthetic" / "round_001" / "client_0000.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)

    def released(self, row: int, threat: ThreatModel) -> Released:
        """What the threat sees of a row."""

        def model() -> dict[str, torch.Tensor]:
            return state(self.fresh(stream(row, "server")))

        return Released(Source(self.folder / f"row_{row}", 0, model), threat, f"row_{row}")

    def view(self, target: int, threat: ThreatModel, shadows: Sequence[int] | None = None) -> AdversaryView:
        """Of one target; `shadows` None: all rows but the target and its complement."""
        rows = range(2 * self.pairs)
        shadows = [row for row in rows if row // 2 != target // 2] if shadows is None else shadows
        public = Public(
            fresh=self.fresh, normalise=Normalise((0.5,), (0.25,)), classes=("a", "b"), image_shape=SHAPE,
            device=torch.device("cpu"), train=self.train,
        )  # fmt: skip
        everything = {Knowledge.CANDIDATES: self.candidates, Knowledge.AUXILIARY: self.auxiliary}
        return AdversaryView(
            threat, self.released(target, threat), public, everything,
            [Shadow(self.members[row], self.released(row, threat)) for row in shadows], self._cached,
        )  # fmt: skip

    def run(self, attack: object, targets: Sequence[int] | None = None) -> list[Scores]:
        """The attack on each target."""
        targets = range(2 * self.pairs) if targets is None else targets
        return [attack.run(self.view(row, attack.threat), Streams(0, ("target", row))) for row in targets]

    def truths(self) -> list[dict[str, np.ndarray]]:
        """What only `evaluate` is told."""
        return [{"members": row, "labels": self.candidates.labels.numpy()} for row in self.members]

    def _cached(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if name not in self.cache:
            self.computed.append(name)
            self.cache[name] = compute()
        return self.cache[name]
