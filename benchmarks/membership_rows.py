"""Releases of one central condensation over the rows of a membership audit, laid out as a run lays out its own.

The pool holds `2 · members` records of each class, drawn from the train split without exact copies; row r of
`fedsim.data.membership.Pool` says which half is condensed. FOLDER/row_0007/synthetic/round_001/client_0000.safetensors is the
set of row 7, and FOLDER/row_0007/model.safetensors a network trained on its members themselves.

Distribution Matching condenses all rows together (`distill/cohort.py`): every row has its own start and its own members, and
all see one pool of random networks. An adversary who makes the other rows thus knows the networks of the target, which is more
than he would know of a stranger. Gradient matching has a network of its own for each row, so its rows follow one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim import api, catalog
from fedsim.audit.types import Knowledge, ThreatModel
from fedsim.audit.view import AdversaryView, Public, Released, Shadow, Source
from fedsim.compute import Compute
from fedsim.data.images import Dataset, Images
from fedsim.data.membership import Pool
from fedsim.data.transforms import Normalise
from fedsim.distill.base import Task
from fedsim.distill.cohort import condense_together
from fedsim.distill.drive import condense
from fedsim.models.functional import state
from fedsim.runs import load_tensors, save_tensors
from fedsim.seeding import Streams, numpy_stream
from fedsim.tasks import Fresh, central_task, network_factory
from fedsim.training.train import TrainConfig, fit


def computed(device: str) -> Compute:
    """How everything is computed: as written, in float32, on a GPU with the networks of a training stacked."""
    stacked = "vmap" if device.startswith("cuda") else "loop"
    chunk = 256 if device.startswith("cuda") else 16
    return Compute(
        device=device, precision="float32", compile=False, chunk=chunk, channels_last=False, ensemble=stacked
    )


@dataclass(frozen=True)
class Ground:
    """What all lines of a data set share: the records in question and what is known without any of them."""

    data: Dataset
    pool: Pool
    auxiliary: Images
    """Public records, outside the pool."""
    compute: Compute
    public: Public
    cache: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays that several targets and lines need, in memory."""

    @property
    def candidates(self) -> Images:
        """Records of the pool."""
        return self.data.train.take(torch.from_numpy(self.pool.positions))

    def members(self, rows: int) -> np.ndarray:
        """M, (rows, N)."""
        return np.stack([self.pool.members(row) for row in range(rows)])

    def remembered(self, name: str, compute: Any) -> np.ndarray:
        """`compute()`, once for each name."""
        if name not in self.cache:
            self.cache[name] = compute()
        return self.cache[name]


def ground(
    data: Dataset, members: int, auxiliary: int, model: dict[str, Any], train: TrainConfig, compute: Compute, seed: int
) -> Ground:
    """The pool of `members` members and as many others of each class, and `auxiliary` public records of each."""
    drawn, beside = drawn_records(data.train, 2 * members, auxiliary, numpy_stream(seed, "table", "pool"))
    labels = data.train.labels.numpy()
    device, fresh = (
        torch.device(compute.device),
        network_factory(api.section("model", model), data, torch.device(compute.device)),
    )
    public = Public(
        fresh, Normalise(data.mean, data.std), data.classes, data.image_shape, device, compute.execution(), train
    )
    return Ground(data, Pool(0, drawn, labels[drawn], seed), data.train.take(torch.from_numpy(beside)), compute, public)


def drawn_records(train: Images, pool: int, auxiliary: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions of `pool` records of each class, and of `auxiliary` others; no record is a copy of another."""
    labels, found = train.labels.numpy(), ([], [])
    for label in np.unique(labels):
        seen: dict[bytes, int] = {}
        for position in rng.permutation(np.flatnonzero(labels == label)):
            seen.setdefault(train.pixels[position].numpy().tobytes(), int(position))
            if len(seen) == pool + auxiliary:
                break
        rows = list(seen.values())
        found[0].extend(rows[:pool])
        found[1].extend(rows[pool:])
    return np.sort(np.array(found[0])), np.sort(np.array(found[1]))


@dataclass(frozen=True)
class Rows:
    """The releases of one line of the table."""

    ground: Ground
    name: str
    """Of the line; names its releases in the cache."""
    folder: Path
    count: int

    def set_file(self, row: int) -> Path:
        """Where the set of a row lies."""
        return self.folder / f"row_{row:04d}" / "synthetic" / "round_001" / "client_0000.safetensors"

    def model_file(self, row: int) -> Path:
        """Where the network of a row lies that was trained on its members."""
        return self.folder / f"row_{row:04d}" / "model.safetensors"

    def released(self, row: int, threat: ThreatModel) -> Released:
        """What the adversary sees of a row."""
        source = Source(self.folder / f"row_{row:04d}", 0, lambda: load_tensors(self.model_file(row))[0])
        return Released(source, threat, f"{self.name}.row_{row:04d}")

    def view(self, row: int, threat: ThreatModel) -> AdversaryView:
        """Of one target; its shadows are all rows but itself and its complement."""
        ground = self.ground
        everything = {Knowledge.CANDIDATES: ground.candidates, Knowledge.AUXILIARY: ground.auxiliary}
        granted = {what: images for what, images in everything.items() if what in threat.knows}
        others = [other for other in range(self.count) if other // 2 != row // 2]
        shadows = [Shadow(ground.pool.members(other), self.released(other, threat)) for other in others]
        return AdversaryView(threat, self.released(row, threat), ground.public, granted, shadows, ground.remembered)

    def make_sets(self, method: dict[str, Any], together: bool) -> None:
        """Condense the members of every row that has no set yet; `together` makes all or none."""
        todo = [row for row in range(self.count) if not self.set_file(row).is_file()]
        chosen: Any = api.section("method", method)
        for rows in [todo] if together else [[row] for row in todo]:
            made = self._condensed(chosen, rows, together) if rows else []
            for row, one in zip(rows, made, strict=True):
                self.set_file(row).parent.mkdir(parents=True, exist_ok=True)
                one.save(self.set_file(row))
            if rows:
                print(f"{self.name}: {rows[-1] + 1} of {self.count} sets", flush=True)

    def _condensed(self, chosen: Any, rows: Sequence[int], together: bool) -> list[Any]:
        made, streams = catalog.resolve("method", chosen.name), [self._streams(row) for row in rows]
        tasks = [self._task(row, chosen.ipc) for row in rows]
        if not together:
            return [condense(made(chosen), tasks[0], chosen.iterations, streams[0])[0]]
        shared = Streams(self.ground.pool.seed, ("table", self.name, "networks"))
        tasks = [replace(task, shared=shared) for task in tasks]
        return [one for one, _ in condense_together(made(chosen), tasks, chosen.iterations, streams)]

    def make_models(self, train: TrainConfig) -> None:
        """Train a network on the members of every row that has none."""
        public = self.ground.public
        for row in range(self.count):
            if self.model_file(row).is_file():
                continue
            streams = self._streams(row)
            network = public.fresh(streams.generator("init"))
            rng, execution = streams.generator("train"), replace(public.execution, chunk=0)
            fit(network, self._members(row).to(public.device), public.normalise, train, rng, execution=execution)
            self.model_file(row).parent.mkdir(parents=True, exist_ok=True)
            save_tensors(self.model_file(row), state(network), {})
            print(f"{self.name}: {row + 1} of {self.count} networks", flush=True)

    def _members(self, row: int) -> Images:
        return self.ground.candidates.take(torch.from_numpy(np.flatnonzero(self.ground.pool.members(row))))

    def _streams(self, row: int) -> Streams:
        return Streams(self.ground.pool.seed, ("table", self.name, "row", row))

    def _task(self, row: int, ipc: int) -> Task:
        ground, fresh = self.ground, self.fresh
        return central_task(
            self._members(row), ground.data, ground.public.normalise, fresh, ipc, ground.compute, self._streams(row)
        )

    @property
    def fresh(self) -> Fresh:
        """Newly initialised networks."""
        return self.ground.public.fresh
