"""What an attack is handed: exactly what its threat model grants, nothing that would tell it the answer.

A run directory holds the truth beside what was released: `split.npz` says who is a member. An attack never gets the
folder. It gets a `Released`, which reads what was sent and refuses what the threat model does not see, and an
`AdversaryView` around it. The truth goes to `Attack.evaluate`, which gets no view.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from fedsim.audit.canaries import CanaryRelease
from fedsim.audit.gradients import GradientRelease
from fedsim.audit.types import Knowledge, NotGranted, Release, ThreatModel
from fedsim.audit.updates import UpdateRelease
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.network import Network
from fedsim.runs import load_tensors
from fedsim.training.train import TrainConfig
from fedsim.types import Params, UserError

Statistic = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Source:
    """Where the releases of one run lie; the runner has it, attacks do not."""

    run: Path
    """Run directory."""
    client: int
    """The audited client."""
    server_model: Callable[[], Params]
    """Reads the server's weights after the last round."""
    broadcasts: Callable[[], list[Params]] | None = None
    """Reads the weights that the client was sent, round by round; None: not kept."""
    gradients: Callable[[], GradientRelease] | None = None
    """Makes what FedSGD would have sent; None: not asked for."""
    local_updates: Callable[[], UpdateRelease] | None = None
    """Makes what FedAvg would have sent; None: not asked for."""
    canaries: CanaryRelease | None = None
    """What is known of planted records; None: none are."""
    until: int | None = None
    """Last round of which sets, weights sent and weights sent back are shown; None: all."""

    def sets(self, round_number: int | None = None) -> list[Path]:
        """Synthetic sets: of this client in every round, or of all clients in one round."""
        numbers = [round_number] if round_number is not None else range(1, self.rounds() + 1)
        who = f"client_{self.client:04d}" if round_number is None else "client_*"
        folders = (self.run / "synthetic" / f"round_{number:03d}" for number in numbers)
        return [path for folder in folders for path in sorted(folder.glob(f"{who}.safetensors"))]

    def updates(self) -> list[Path]:
        """Weights that this client sent back, in the order of rounds."""
        found = sorted((self.run / "transcript").glob(f"round_*/client_{self.client:04d}.safetensors"))
        return [path for path in found if int(path.parent.name.removeprefix("round_")) <= (self.until or sys.maxsize)]

    def rounds(self) -> int:
        """Rounds of which sets are shown."""
        found = (path.name.removeprefix("round_") for path in (self.run / "synthetic").glob("round_*"))
        return min(max(map(int, found), default=0), self.until or sys.maxsize)


class Released:
    """The releases of one run, as far as a threat model sees them."""

    def __init__(self, source: Source, threat: ThreatModel, key: str) -> None:
        self._source, self._threat = source, threat
        self.key = key
        """Names the run in a cache; says nothing of who is a member."""

    def client_sets(self) -> list[SyntheticSet]:
        """The audited client's sets, in the order of rounds."""
        self._needs(Release.CLIENT_SETS, Release.TRANSCRIPT)
        return _loaded(self._source.sets(), self._source.run)

    def final_set(self) -> list[SyntheticSet]:
        """The sets of all clients in the last round."""
        self._needs(Release.FINAL_SET)
        return _loaded(self._source.sets(self._source.rounds()), self._source.run)

    def server_model(self) -> Params:
        """The server's weights after the last round."""
        self._needs(Release.SERVER_MODEL)
        return self._source.server_model()

    def updates(self) -> list[Params]:
        """The weights that the audited client sent back, in the order of rounds."""
        self._needs(Release.UPDATE)
        paths = self._source.updates()
        if not paths:
            raise UserError(
                f"{self._source.run} keeps no weights of a client; audit a run of an algorithm that uploads them "
                "(transcript=uploads)"
            )
        return [load_tensors(path)[0] for path in paths]

    def broadcasts(self) -> list[Params]:
        """The weights that the client was sent, round by round."""
        if Knowledge.WEIGHTS not in self._threat.knows:
            raise NotGranted(f"{self._threat.name} does not know the weights of each round")
        if self._source.broadcasts is None:
            raise UserError("broadcasts were not kept; run with transcript=all")
        return self._source.broadcasts()[: self._source.until]

    def gradients(self) -> GradientRelease:
        """The gradients that the audited client would have sent under FedSGD."""
        self._needs(Release.GRADIENT)
        if self._source.gradients is None:
            raise UserError("no gradients were made for this target; they belong to the audited client's first row")
        return self._source.gradients()

    def local_updates(self) -> UpdateRelease:
        """The weight changes that the audited client would have sent under FedAvg."""
        self._needs(Release.LOCAL_UPDATE)
        if self._source.local_updates is None:
            raise UserError("no updates were made for this target; they belong to a run of FedAvg")
        return self._source.local_updates()

    def canaries(self) -> CanaryRelease:
        """What the worst-case observer of planted records holds, of all clients."""
        self._needs(Release.TRANSCRIPT)
        if self._source.canaries is None:
            raise UserError("no records were planted in this run; set run.audit.planted")
        return self._source.canaries

    def of_client(self, client: int) -> Released:
        """The same run's releases of another client, for whoever sees the whole transcript."""
        self._needs(Release.TRANSCRIPT)
        return Released(replace(self._source, client=client), self._threat, f"{self.key}.client_{client:04d}")

    def _needs(self, *one_of: Release) -> None:
        if not self._threat.sees.intersection(one_of):
            raise NotGranted(f"{self._threat.name} does not see {' or '.join(one_of)}")


def _loaded(paths: Sequence[Path], run: Path) -> list[SyntheticSet]:
    if not paths:
        raise UserError(
            f"{run} keeps no synthetic sets; audit a run of an algorithm that uploads them (transcript=uploads)"
        )
    return [SyntheticSet.load(path) for path in paths]


@dataclass(frozen=True)
class Public:
    """What is known of the network and the protocol without any record."""

    fresh: Callable[[torch.Generator], Network]
    """A newly initialised network on the device."""
    normalise: Normalise
    """Bytes to network input."""
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """(c, h, w)."""
    device: torch.device
    execution: Execution = AS_WRITTEN
    train: TrainConfig | None = None
    """How the server trains on synthetic sets; None where it does not."""

    def with_weights(self, weights: Params) -> Network:
        """A network that holds `weights`."""
        network = self.fresh(torch.Generator())
        network.load_state_dict(weights)
        return network


@dataclass(frozen=True)
class Shadow:
    """A run of the same protocol in which the adversary chose the members."""

    members: Bool[np.ndarray, "N"]
    """Which candidates the client held."""
    released: Released


@dataclass(frozen=True)
class AdversaryView:
    """Everything an attack on one target may use."""

    threat: ThreatModel
    released: Released
    """Of the target."""
    public: Public
    granted: Mapping[Knowledge, Images] = field(default_factory=dict)
    """Candidates and auxiliary records."""
    runs: Sequence[Shadow] = ()
    """Neither the target nor its complement is among them."""
    cache: Callable[[str, Statistic], np.ndarray] = field(default=lambda name, compute: compute())
    """`cache(name, compute)`: an array computed once for all targets; the name must say everything it depends on."""
    tell: Callable[[int], None] = field(default=lambda steps: None)
    """`tell(steps)`: so many more steps were taken, for whoever watches; it says nothing back."""

    @property
    def candidates(self) -> Images:
        """Records of which is asked whether the client held them."""
        return self._images(Knowledge.CANDIDATES)

    @property
    def auxiliary(self) -> Images:
        """Public records of the same distribution."""
        return self._images(Knowledge.AUXILIARY)

    @property
    def shadows(self) -> Sequence[Shadow]:
        """Runs in which the adversary chose who is a member."""
        if Knowledge.SHADOWS not in self.threat.knows:
            raise NotGranted(f"{self.threat.name} cannot make shadow runs")
        return self.runs

    def _images(self, what: Knowledge) -> Images:
        if what not in self.threat.knows:
            raise NotGranted(f"{self.threat.name} does not know {what}")
        return self.granted[what]
