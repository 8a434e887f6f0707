"""The two files a user writes: a federated run (`fedsim run`) and a central condensation (`fedsim distill`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import Field

from fedsim import catalog
from fedsim.compute import Compute, settle
from fedsim.config import Choice, Raw, Section, merge, override, read, validate
from fedsim.consistency import check_central, check_federated
from fedsim.data.split import AuditConfig
from fedsim.federated.budgets import UniformConfig
from fedsim.federated.engines.local import Config as LocalConfig
from fedsim.federated.faults import Fault
from fedsim.federated.messages import UploadLimits
from fedsim.federated.participation import Participation
from fedsim.federated.transcript import Mode
from fedsim.federated.wire import PLAIN, Wire
from fedsim.training.evaluate import EvaluationConfig
from fedsim.training.ranking import RankingConfig
from fedsim.training.train import TrainConfig
from fedsim.types import UserError


class Controls(Section):
    """Which controls are run beside the result."""

    upload_real_subset: bool = True
    """FedDM and its kind: the same rounds with random real images, as many per client and class."""
    centralised: TrainConfig | None = None
    """The upper bound: the run's model so trained on the images of all clients together; null: not trained."""
    without_attackers: bool = Field(default=True, exclude_if=lambda value: value)
    """Where there are attackers: the same run without them, a run directory of its own that is made first or found."""
    noisy_class_means: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    """Under privacy: pixel class sums noised once at the run's ε, and the server's training on their means; null: where
    the noise is seeded, as it is one more release of the same records."""


class SetControls(Section):
    """Which controls are scored beside a condensed set."""

    random_subset: bool = True
    """Random real subsets of the same size, as many as the result has networks."""


class Experiment(Section):
    """What both kinds of run share."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Folder name under --out."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random stream."""
    compute: Compute = Compute()
    """Device, number format, compilation, chunk, threads, workers."""
    data: Choice("data")  # pyright: ignore[reportInvalidTypeForm]
    """Which images."""
    audit: AuditConfig = AuditConfig()
    """Records reserved for a later privacy audit, drawn when the data are partitioned or never."""
    model: Choice("model")  # pyright: ignore[reportInvalidTypeForm]
    """Architecture of clients, server and evaluation."""
    checkpoint_every: float = Field(default=30.0, gt=0)
    """Seconds between two checkpoints of one condensation."""


class FederatedRun(Experiment):
    """`fedsim run`."""

    later: ClassVar[tuple[str, ...]] = ("wire", "budgets", "attackers", "defenses")
    rounds: int = Field(ge=1)
    """Communication rounds R."""
    engine: Choice("engine") = LocalConfig()  # pyright: ignore[reportInvalidTypeForm]
    """What carries Flower's messages; no influence on the result."""
    partition: Choice("partition")  # pyright: ignore[reportInvalidTypeForm]
    """Who holds which images."""
    algorithm: Choice("algorithm")  # pyright: ignore[reportInvalidTypeForm]
    """Federated method."""
    method: Choice("method") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """How a client condenses; only where the algorithm uploads synthetic images."""
    privacy: Choice("privacy") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Differential privacy of what clients release, for one record of one client; null: none."""
    server: TrainConfig | None = None
    """The server's training on the uploads; only where the algorithm uploads synthetic images."""
    participation: Participation = Participation()
    """Who is asked, how long, how many must answer."""
    budgets: Choice("budgets") = UniformConfig()  # pyright: ignore[reportInvalidTypeForm]
    """How much of the work of a round each client does."""
    wire: Wire = PLAIN
    """How arrays travel: number formats, compression."""
    upload_limits: UploadLimits = UploadLimits()
    """What an upload may hold."""
    transcript: Mode = "uploads"
    """What is kept of what travelled: `uploads`, `all` (broadcasts too, each distinct one once), or `none` (nothing but
    what a resumed run needs)."""
    controls: Controls = Controls()
    """Which controls are run."""
    attackers: tuple[Choice("attacker"), ...] = Field(default=(), strict=False)  # pyright: ignore[reportInvalidTypeForm]
    """Compromised clients and what they do."""
    defenses: tuple[Choice("defense"), ...] = Field(default=(), strict=False)  # pyright: ignore[reportInvalidTypeForm]
    """What the server does about uploads before it trains on them, in this order."""
    faults: tuple[Fault, ...] = Field(default=(), strict=False)
    """Planned misbehaviour, to see that the run survives it."""

    @property
    def means_beside(self) -> bool:
        """Whether the control `noisy_class_means` is run."""
        wanted, agreed = self.controls.noisy_class_means, cast(Any, self.privacy)
        by_itself = agreed is not None and agreed.noise == "seeded" and self.server is not None
        own = getattr(self.method, "name", None) == "class_means"  # the run is that control
        return wanted if wanted is not None else by_itself and not own


class Distillation(Experiment):
    """`fedsim distill`."""

    method: Choice("method")  # pyright: ignore[reportInvalidTypeForm]
    """Condensation method."""
    sets: int = Field(default=1, ge=1)
    """Synthetic sets made, each from its own random stream; the spread of the result is over sets."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the sets are scored."""
    architectures: tuple[Choice("model"), ...] = Field(default=(), strict=False)  # pyright: ignore[reportInvalidTypeForm]
    """Further architectures that the sets, and random subsets beside them, are scored with."""
    curve: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), strict=False)
    """Iterations after which the sets are scored too (0: the start), beside the last: on val, or on test where data.val
    is 0; to look at, never to choose by."""
    ranking: RankingConfig | None = None
    """DD-Ranking's label- and augmentation-robust scores, with `evaluation`'s networks; null: not measured."""
    diversity: TrainConfig | None = None
    """Mean cosine of embeddings within a class, by a network so trained on the real images; null: not measured."""
    controls: SetControls = SetControls()
    """Which controls are scored; a table of methods under one protocol needs them once."""


WHAT = {
    "run": "the file of a run (it has an algorithm)",
    "distill": "the file of a central condensation (it has no algorithm, but a method)",
    "sweep": "the file of a sweep (it has rows, columns or seeds)",
    "audit run": "the file of an audit (it has attacks)",
}
"""What the file of each command is, and by what it is known."""


def kind_of(raw: Raw) -> str:
    """The command whose file these keys are, one of `WHAT`; empty where they do not tell."""
    if "attacks" in raw:
        return "audit run"
    if {"columns", "seeds"} & raw.keys() or isinstance(raw.get("rows"), dict):  # the rows of an audit are a number
        return "sweep"
    if "algorithm" in raw:
        return "run"
    return "distill" if "method" in raw and raw.keys() <= Distillation.model_fields.keys() else ""


def load_run(path: Path, assignments: Sequence[str] = ()) -> FederatedRun:
    """A federated run from its file, overrides applied, `auto` resolved."""
    raw = _raw(path, assignments, "run")
    if "algorithm" not in raw and raw.keys() <= FederatedRun.model_fields.keys():  # else its name may be misspelt
        names = ", ".join(catalog.names("algorithm"))
        raise UserError(
            f"{path} has no algorithm; give algorithm: NAME, valid: {names}; or a method for fedsim distill"
        )
    return resolve(FederatedRun, raw)


def load_distillation(path: Path, assignments: Sequence[str] = ()) -> Distillation:
    """A central condensation from its file, overrides applied, `auto` resolved."""
    return resolve(Distillation, _raw(path, assignments, "distill"))


E = TypeVar("E", bound=Experiment)


def resolve(schema: type[E], raw: Raw) -> E:
    """Validate and write out everything that stands for something else: `auto`, and the algorithm's own defaults."""
    if schema is FederatedRun:
        raw = _method_defaults(raw)
    config = validate(schema, raw)
    (check_federated if isinstance(config, FederatedRun) else check_central)(config)
    return config.model_copy(update={"compute": settle(config.compute)})


def _raw(path: Path, assignments: Sequence[str], command: str) -> Raw:
    raw = override(read(path), assignments)
    if (found := kind_of(raw)) not in {command, ""}:
        raise UserError(f"{path} is {WHAT[found]}, and not for fedsim {command}; use fedsim {found} {path}")
    raw.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).lstrip("_.-") or "run")
    return raw


def _method_defaults(raw: Raw) -> Raw:
    """Lay `method` on what the algorithm's paper prescribes; refuse it where nothing is condensed."""
    algorithm = raw.get("algorithm")
    name = algorithm.get("name") if isinstance(algorithm, dict) else algorithm
    if not isinstance(name, str):
        return raw
    try:
        chosen = catalog.resolve("algorithm", name)
    except UserError as error:
        raise UserError(f"algorithm.name: {error}") from error
    if not hasattr(chosen, "method_defaults"):
        raise UserError(f"algorithm.name: '{name}' has no attribute method_defaults; give the class of an algorithm")
    defaults: Any = chosen.method_defaults
    method = raw.get("method")
    if defaults is None:
        extra = [key for key in ("method", "server") if raw.get(key) is not None]
        if extra:
            how = " ".join(f"{key}=" for key in extra)
            raise UserError(
                f"{' and '.join(extra)}: algorithm {name} uploads no synthetic images; "
                f"leave that out of the file, or override it with nothing ({how})"
            )
        return raw
    method = {"name": method} if isinstance(method, str) else method
    if method is None or (isinstance(method, dict) and method.get("name", defaults["name"]) == defaults["name"]):
        raw = raw | {"method": merge(dict(defaults), method or {})}
    server = raw.get("server")
    return (
        raw | {"server": merge(dict(chosen.server_defaults), server or {})} if isinstance(server, dict | None) else raw
    )
