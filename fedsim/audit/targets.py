"""The runs of an audit as targets: what each released, who its members were, and the view an attack gets of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fedsim import catalog
from fedsim.audit.canaries import CanaryRun
from fedsim.audit.distilled_gradients import DistilledCases
from fedsim.audit.gradients import GradientCases
from fedsim.audit.schema import AuditRun
from fedsim.audit.tangent import residuals
from fedsim.audit.types import Knowledge, Subject, ThreatModel, Truth
from fedsim.audit.updates import UpdateRelease, release
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
    runs: Mapping[str, Path]
    """Run directories by the names of `AuditRun.runs`."""

    @cached_property
    def folders(self) -> dict[int, Path]:
        """Run directory of each row."""
        return {int(name.removeprefix("row_")): path for name, path in self.runs.items() if name.startswith("row_")}

    @property
    def first_name(self) -> str:
        """Name of a run in which nothing was planted."""
        return "row_0000" if self.folders else "plain"

    @property
    def first(self) -> Path:
        """Its folder."""
        return self.runs[self.first_name]

    @cached_property
    def canaries(self) -> CanaryRun:
        """The run in which records were planted."""
        return CanaryRun(self.config.planted(), self.runs["canaries"])

    @cached_property
    def parts(self) -> Parts:
        """The audited run; its split is the one before records change places or are planted."""
        return settled(Parts(self.config.plain()))

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
        return Source(folder, who, lambda: server_weights(folder), broadcasts, until=until)

    @property
    def cases(self) -> GradientCases | DistilledCases:
        """Batches of the audited client's records, or of the last set that it sent, in the run of the first row: for
        attacks on gradients and updates."""
        asked, client = self.config.gradients, self.config.client
        parts = settled(Parts(self.config.row(0) if self.folders else self.config.plain()))
        weights = server_weights(self.first) if asked.at == "last" else None
        if asked.of == "records":
            return GradientCases(parts, client, asked.cases, asked.records, self.config.seed, weights)
        sets = Source(self.first, client, dict).sets()
        return DistilledCases(parts, sets, client, asked.cases, asked.records, self.config.seed, weights)

    def _updates_truth(self) -> Truth:
        """Beside the records, where an attack's premise needs it, how far each change lies outside their gradients."""
        truth, public = self.cases.truth(), self.public
        kinds = (catalog.resolve("attack", attack.name) for attack in self.config.attacks)
        if not any(getattr(kind, "needs_residual", False) for kind in kinds):
            return truth
        seen = self._local_updates()
        shape = truth["images"].shape
        pixels = torch.from_numpy(truth["images"]).flatten(0, 1).to(public.device)
        inputs = public.normalise(pixels).view(shape)
        network = public.with_weights(seen.params).eval()
        return {**truth, "residual": np.array(residuals(network, seen.params, dict(seen.updates), inputs))}

    def _local_updates(self) -> UpdateRelease:
        cases = self.cases
        assert isinstance(cases, GradientCases), "AuditRun refuses updates of a synthetic set"
        return release(cases)

    def truth(self, row: int) -> Truth:
        """Who of the pool was a member, and the classes."""
        return {"members": self.pool.members(row), "labels": self.pool.labels}

    def subjects(self, subject: Subject) -> dict[str, Callable[[], Truth]]:
        """Names of what attacks on such a subject are run on, and the truth of each."""
        if subject is Subject.ROWS:
            return {f"row_{row:04d}": (lambda row=row: self.truth(row)) for row in self.folders}
        if subject is Subject.CANARIES:
            return {str(subject): self.canaries.truth}
        return {str(subject): self._updates_truth if subject is Subject.UPDATES else self.cases.truth}

    def alone(self, threat: ThreatModel, cache: Callable[..., np.ndarray]) -> AdversaryView:
        """What an attack gets that is run on one subject: no shadows."""
        subject, folder = threat.subject, self.first
        granted = {Knowledge.AUXILIARY: self.parts.images(self.parts.split.val)}
        if subject is Subject.CANARIES:
            folder = self.canaries.folder
            granted[Knowledge.CANDIDATES] = self.canaries.images
        source = Source(
            folder, self.config.client, lambda: server_weights(folder),
            gradients=self.cases.release if subject is Subject.GRADIENTS else None,
            local_updates=self._local_updates if subject is Subject.UPDATES else None,
            canaries=self.canaries.release() if subject is Subject.CANARIES else None,
        )  # fmt: skip
        return AdversaryView(threat, Released(source, threat, str(subject)), self.public, granted, (), cache)

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
