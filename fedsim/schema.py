"""The two files a user writes: a federated run (`fedsim run`) and a central condensation (`fedsim distill`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from fedsim import catalog
from fedsim.compute import Compute, settle
from fedsim.config import Choice, Raw, Section, merge, override, read, validate
from fedsim.data.split import AuditConfig
from fedsim.distill.distribution import private_dm
from fedsim.distill.soft_labels import learns_labels
from fedsim.federated.budgets import UniformConfig, check_budgets
from fedsim.federated.engines.local import Config as LocalConfig
from fedsim.federated.faults import Fault
from fedsim.federated.messages import UploadLimits
from fedsim.federated.participation import Participation
from fedsim.federated.transcript import Mode
from fedsim.federated.wire import PLAIN, Wire, check_wire
from fedsim.privacy.ledger import check_delta
from fedsim.training.evaluate import EvaluationConfig
from fedsim.training.ranking import RankingConfig
from fedsim.training.train import TrainConfig
from fedsim.types import UserError

PRIVATE = ("feddm", "one_shot")
"""Algorithms whose clients release nothing but what `privacy` accounts for."""


class Controls(Section):
    """Which controls are run beside the result."""

    upload_real_subset: bool = True
    """FedDM and its kind: the same rounds with random real images, as many per client and class."""
    centralised: TrainConfig | None = None
    """The upper bound: the run's model so trained on the images of all clients together; null: not trained."""


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

    later: ClassVar[tuple[str, ...]] = ("wire", "budgets")
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
    faults: tuple[Fault, ...] = Field(default=(), strict=False)
    """Planned misbehaviour, to see that the run survives it."""


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


def load_run(path: Path, assignments: Sequence[str] = ()) -> FederatedRun:
    """A federated run from its file, overrides applied, `auto` resolved."""
    raw = _raw(path, assignments, needs="algorithm", other="distill")
    return resolve(FederatedRun, raw)


def load_distillation(path: Path, assignments: Sequence[str] = ()) -> Distillation:
    """A central condensation from its file, overrides applied, `auto` resolved."""
    raw = _raw(path, assignments, needs="method", other="run")
    return resolve(Distillation, raw)


E = TypeVar("E", bound=Experiment)


def resolve(schema: type[E], raw: Raw) -> E:
    """Validate and write out everything that stands for something else: `auto`, and the algorithm's own defaults."""
    if schema is FederatedRun:
        raw = _method_defaults(raw)
    config = validate(schema, raw)
    _possible(config)
    return config.model_copy(update={"compute": settle(config.compute)})


def _possible(config: Experiment) -> None:
    """Refuse what every section allows and the whole does not."""
    data: Any = config.data
    if isinstance(config, FederatedRun) and data.val == 0:
        raise UserError("data.val: got 0; the server scores every round on val, give more than 0 and at most 0.5")
    if isinstance(config, Distillation) and (late := [at for at in config.curve if at > config.method.iterations]):
        raise UserError(
            f"curve: {late[0]} is after the last iteration; valid: 0 to method.iterations ({config.method.iterations})"
        )
    if isinstance(config, Distillation) and config.evaluation.labels == "soft" and not learns_labels(config.method):
        raise UserError(
            "evaluation.labels: soft takes the labels stored in a set, and this method makes none; "
            "give hard or teacher, or method.labels: learned (dc, dsa, idc, model_augmentation)"
        )
    if isinstance(config, FederatedRun) and data.zca is not None:
        raise UserError(
            "data.zca: whitening is fitted to all training images, which no party of a federation holds, and would be "
            "a release of its own; leave it out"
        )
    formation = getattr(getattr(config, "method", None), "formation", 1)
    if data.zca is not None and formation > 1:
        raise UserError(
            f"method.formation={formation}: parts of a stored image are cut from plain pixels and cannot be whitened; "
            "give formation=1, or no data.zca"
        )
    if isinstance(config, FederatedRun):
        check_wire(config.wire, config.algorithm.name, config.method)
        check_budgets(config.budgets, config.algorithm, config.method)
        if config.privacy is not None:
            _private(config)
    networks = getattr(getattr(config, "method", None), "networks", None)
    around = "server" if getattr(networks, "name", None) == "perturb" else getattr(networks, "around", None)
    if isinstance(config, Distillation) and around == "server":
        raise UserError(
            "method.networks: draws around the server's weights, which a central run does not have; "
            "valid here: fresh, or pool with around: fresh"
        )
    if isinstance(config, Distillation) and getattr(networks, "shared", False):
        raise UserError("method.networks.shared: a central run has one owner and nobody to share with; leave it out")


def _private(config: FederatedRun) -> None:
    """Refuse what would release more than is accounted for."""
    if config.algorithm.name not in PRIVATE:
        raise UserError(
            f"privacy: algorithm {config.algorithm.name} sends what is not accounted for; valid: {', '.join(PRIVATE)}"
        )
    if config.budgets.name != "uniform":
        raise UserError(f"budgets: got {config.budgets.name}; under privacy every client does the same: leave it out")
    private_dm.check(config.method)
    agreed: Any = config.privacy
    check_delta(agreed.delta, agreed.public_bound)
    if config.controls.upload_real_subset:
        raise UserError("controls.upload_real_subset: got true; it releases real images; valid under privacy: false")
    if config.transcript == "none":
        raise UserError("transcript: got none, which drops the clients' folders and their ledgers; valid under "
                        "privacy: uploads, all")  # fmt: skip


def _raw(path: Path, assignments: Sequence[str], *, needs: str, other: str) -> Raw:
    raw = override(read(path), assignments)
    if ("algorithm" in raw) != (needs == "algorithm"):
        raise UserError(f"{path} is not a file for this command (it has {'an' if needs == 'method' else 'no'} "
                        f"algorithm); use fedsim {other} {path}")  # fmt: skip
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
