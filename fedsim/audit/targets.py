"""The runs of an audit as targets: what each released, who its members were, and the view an attack gets of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fedsim.audit.distilled_gradients import DistilledCases
from fedsim.audit.gradients import GradientCases
from fedsim.audit.schema import AuditRun
from fedsim.audit.types import Knowledge, ThreatModel, Truth
from fedsim.audit.view import AdversaryView, Public, Released, Shadow, Source
from fedsim.build import Parts
from fedsim.data.images import Images
from fedsim.data.membership import Pool
from fedsim.runs import RunDirectory, load_tensors
from fedsim.schema import FederatedRun
from fedsim.types import Params, UserError
from fedsim.workload import settled


@dataclass(frozen=True)
class Targets:
    """Everything that the runs of the rows released, and the truth about them."""

    config: AuditRun
    folders: Mapping[int, Path]
    """Run directory of each row."""

    @cached_property
    def parts(self) -> Parts:
        """The audited run; its split is the one before records change places."""
        return settled(Parts(self.config.run))

    @cached_property
    def pool(self) -> Pool:
        """Records that are asked about."""
        return self.parts.pool(self.config.client)

    @cached_property
    def granted(self) -> dict[Knowledge, Images]:
        """Records that a threat model may know: the pool without who is a member, and the server's val."""
        parts = self.parts
        return {
            Knowledge.CANDIDATES: parts.images(self.pool.positions),
            Knowledge.AUXILIARY: parts.images(parts.split.val),
        }

    @cached_property
    def public(self) -> Public:
        """What is known without any record."""
        setting = self.parts.setting
        return Public(
            setting.fresh, setting.normalise, setting.classes, setting.image_shape, setting.device, setting.execution,
            self.config.run.server,
        )  # fmt: skip

    def source(self, row: int, client: int | None = None) -> Source:
        """Releases of a row's run, of the audited client, or of another in the first round: what it then sends knows
        nothing of the audited one."""
        folder = self.folders[row]
        who = self.config.client if client is None else client
        broadcasts = (lambda: received(folder, who)) if self.config.run.transcript == "all" else None
        until = None if client is None else 1
        release = (lambda: self.cases(row).release()) if client is None else None
        return Source(folder, who, lambda: server_weights(folder), broadcasts, release, until)

    def cases(self, row: int) -> GradientCases | DistilledCases:
        """Batches of the audited client's records in a row's run, or of the last set that it sent."""
        asked, client = self.config.gradients, self.config.client
        parts = settled(Parts(self.config.row(row)))
        weights = server_weights(self.folders[row]) if asked.at == "last" else None
        if asked.of == "records":
            return GradientCases(parts, client, asked.cases, asked.records, self.config.seed, weights)
        sets = Source(self.folders[row], client, dict).sets()
        return DistilledCases(parts, sets, client, asked.cases, asked.records, self.config.seed, weights)

    def truth(self, row: int) -> Truth:
        """Who of the pool was a member, and the classes."""
        return {"members": self.pool.members(row), "labels": self.pool.labels}

    def view(
        self, row: int, threat: ThreatModel, cache: Callable[..., np.ndarray], client: int | None = None
    ) -> AdversaryView:
        """What an attack on this row gets: its shadows are all rows but this one and its complement."""
        others = [other for other in self.folders if other // 2 != row // 2]
        shadows = [
            Shadow(self.pool.members(other), Released(self.source(other, client), threat, self.key(other, client)))
            for other in others
        ]
        target = Released(self.source(row, client), threat, self.key(row, client))
        granted = {what: images for what, images in self.granted.items() if what in threat.knows}
        return AdversaryView(threat, target, self.public, granted, shadows, cache)

    def key(self, row: int, client: int | None = None) -> str:
        """Name of a run's releases in a cache."""
        return f"row_{row:04d}" + (f".client_{client:04d}" if client is not None else "")


def server_weights(folder: Path) -> Params:
    """The server's weights after the last stored round."""
    stored = RunDirectory(folder).last_round()
    if stored is None:
        raise UserError(f"{folder} has no checkpoint of the server; run it to its end")
    return {name.removeprefix("weights."): one for name, one in stored[1].items() if name.startswith("weights.")}


def received(folder: Path, client: int) -> list[Params]:
    """The weights that a client was sent, round by round, from a transcript of `all`."""
    found = []
    for path in sorted((folder / "transcript").glob("round_*/broadcasts.json")):
        sent = json.loads(path.read_text())
        name = next((name for name, clients in sent.items() if client in clients), None)
        if name is not None:
            tensors = load_tensors(folder / "transcript" / "broadcasts" / f"{name}.safetensors")[0]
            found.append({key: one for key, one in tensors.items() if not key.startswith("extra.")})
    return found


def alone(run: FederatedRun) -> FederatedRun:
    """The run as an audit makes it: clients in the run's own process, no controls of its own."""
    compute = run.compute.model_copy(update={"workers": 0})
    controls = run.controls.model_copy(
        update={"upload_real_subset": False, "centralised": None, "noisy_class_means": False}
    )
    return run.model_copy(update={"compute": compute, "controls": controls})
