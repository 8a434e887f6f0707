"""The file of an audit: which run, which client, which attacks, which controls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedsim import catalog
from fedsim.audit.types import Knowledge, Subject, ThreatModel
from fedsim.config import Choice, Raw, Section, merge, override, read, validate
from fedsim.data.split import MembershipConfig
from fedsim.schema import WHAT, FederatedRun, kind_of, load_run, resolve
from fedsim.types import UserError

GRADIENT_ATTACKS = ("dlg", "idlg", "inverting_gradients", "fedavg_inversion", "ntk_reconstruction")
"""What can be tried on a finished run."""
LEAST_SHADOWED_ROWS = 6
"""Two runs with every record and two without it, beside the target and its complement: fewer have no variance."""
OFF = {"publish_subset": False, "overfit": 0, "single": False, "disjoint": False, "permuted": False}
"""No controls."""


class ControlsConfig(Section):
    """What has to come out as known, or the card is INVALID."""

    publish_subset: bool = True
    """Positive: real images uploaded in the place of synthetic ones are found to be members by the exact test."""
    overfit: int = Field(default=100, ge=0)
    """Positive: epochs of a network on the client's records under random labels; its loss tells members. 0: not run."""
    single: bool = True
    """Positive: the method on one record per class; the record is identified from the upload."""
    disjoint: bool = True
    """Negative: the sets of another client, made without the pool, say nothing of who is a member."""
    permuted: bool = True
    """Negative: the attack's scores against membership drawn anew."""


class GradientsConfig(Section):
    """Gradients or updates of few of the client's records, as FedSGD or FedAvg would have sent them, for the attacks
    that see such."""

    later: ClassVar[tuple[str, ...]] = ("panels", "of", "at")
    of: Literal["records", "synthetic"] = "records"
    """What gradients are taken on: the client's records, or the images of its last synthetic set."""
    at: Literal["first", "last"] = "first"
    """The weights: those that clients are sent first, or the server's after the last round."""
    cases: int = Field(default=10, ge=1)
    """Gradients attacked."""
    records: int = Field(default=1, ge=1)
    """Records, or synthetic images, of each."""
    panels: int = Field(default=0, ge=0, le=24)
    """Records shown on the card's page beside what was made of them; private records are then on the page. 0: none."""


class AuditRun(Section):
    """`fedsim audit run`."""

    later: ClassVar[tuple[str, ...]] = ("finished",)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Folder name under --out."""
    seed: int = Field(default=0, ge=0)
    """Seed of the audit's own draws; the run has its own."""
    run: FederatedRun
    """What is audited: a mapping as of `fedsim run`, or the path of such a file with `overrides` beside it."""
    client: int = Field(default=0, ge=0)
    """The audited client."""
    rows: int = Field(default=16, ge=4, le=4096)
    """Runs of the membership audit, in complementary pairs; each is a target once and a shadow of the others."""
    attacks: tuple[Choice("attack"), ...] = Field(strict=False, min_length=1)  # pyright: ignore[reportInvalidTypeForm]
    """What is tried."""
    gradients: GradientsConfig = GradientsConfig()
    """What attacks on gradients are given."""
    controls: ControlsConfig = ControlsConfig()
    """What has to come out as known."""
    workers: int = Field(default=2, ge=1)
    """Runs at a time, each in a process of its own with one thread."""
    finished: str | None = None
    """Folder of a finished run, whose records are attacked as if one or few at a time had sent their gradient or
    update; written by `fedsim audit run RUN`. All is exploratory then: nothing was held out or registered before."""

    @field_validator("rows")
    @classmethod
    def _in_pairs(cls, rows: int) -> int:
        if rows % 2:
            raise ValueError(f"rows go in complementary pairs; give {rows + 1}")
        return rows

    @model_validator(mode="after")
    def _distinct(self) -> AuditRun:
        names = [attack.name for attack in self.attacks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"attack {twice[0]} is there twice; audit it twice under other names of the audit")
        return self

    @model_validator(mode="after")
    def _updates_of_records(self) -> AuditRun:
        asked = self.gradients
        if Subject.UPDATES in self.subjects and (asked.of, asked.at) != ("records", "first"):
            raise ValueError(
                f"gradients: got of={asked.of}, at={asked.at} for an attack on updates; valid: of=records, at=first"
            )
        return self

    @property
    def subjects(self) -> frozenset[Subject]:
        """What its attacks are run on."""
        return frozenset(subject_of(attack) for attack in self.attacks)

    def row(self, row: int) -> FederatedRun:
        """The config of one run of the membership audit."""
        return self._with(membership=MembershipConfig(client=self.client, row=row), planted=None)

    def plain(self) -> FederatedRun:
        """The config of the run as it is, nothing planted."""
        return self._with(planted=None)

    def planted(self) -> FederatedRun:
        """The config of the run in which records are planted."""
        return self.run

    def _with(self, **audit: Any) -> FederatedRun:
        return self.run.model_copy(update={"audit": self.run.audit.model_copy(update=audit)})


def subject_of(attack: Any) -> Subject:
    """What an attack with these settings is run on."""
    return _threat(attack).subject


def _threat(attack: Any) -> ThreatModel:
    return catalog.resolve("attack", attack.name)(attack).threat


def load_audit(path: Path, assignments: Sequence[str] = ()) -> AuditRun:
    """An audit from its file: the run's file read too, overrides applied, `auto` resolved.

    `run: FILE` is relative to the audit's file; `overrides: [key=value, …]` are laid on it.
    """
    raw = read(path)
    _refuse_other(raw, path)
    raw = override(raw | {"run": _run(raw, path)}, assignments)
    raw.pop("overrides", None)
    raw.setdefault("name", re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).lstrip("_.-") or "audit")
    if not isinstance(raw["run"], dict):
        raise UserError(f"run={raw['run']!r}: give run.key=value, or another file of an audit")
    config = validate(AuditRun, raw | {"run": resolve(FederatedRun, raw["run"])})
    _check(config)
    return config


def of_finished(run: Path, names: Sequence[str], assignments: Sequence[str] = ()) -> AuditRun:
    """The audit of a run that is made: reconstructions of its records, by these attacks.

    `assignments` are laid on it: `gradients.cases=3`, `attacks=[{name: dlg, iterations: 50}]`. `UserError` for a folder
    of no finished run, and for an attack that needs what would have had to be drawn before the run.
    """
    if not all((run / name).is_file() for name in ("config.yaml", "result.json", "manifest.json")):
        raise UserError(f"{run} is no finished run of fedsim run; give its folder, or a config of an audit")
    raw: Raw = {"attacks": [{"name": name} for name in names], "gradients": {"panels": 10}, "client": 0}
    raw = override(raw, assignments)
    valid = ", ".join(GRADIENT_ATTACKS)
    if not raw["attacks"]:
        raise UserError(f"{run} is a finished run: say what is tried on it; valid: --attack with {valid}")
    if "run" in raw or "finished" in raw:
        raise UserError(f"{run} is a finished run: run.… cannot change any more; valid: gradients.…, attacks, client")
    whole = {"name": "reconstruction", "finished": str(run), "controls": OFF} | raw
    config = validate(AuditRun, whole | {"run": load_run(run / "config.yaml")})
    if names and sorted(names) != sorted(attack.name for attack in config.attacks):
        raise UserError(f"attacks: got others than those of --attack; valid: settings of {', '.join(names)}")
    for attack in config.attacks:
        if subject_of(attack) not in (Subject.GRADIENTS, Subject.UPDATES):
            raise UserError(
                f"--attack {attack.name}: a finished run held nothing out and planted nothing for it; valid: {valid}; "
                "fedsim audit run CONFIG makes runs of its own"
            )
    _check(config)
    return config


def _refuse_other(raw: Raw, path: Path) -> None:
    """Refuse the file of another command, and the folder of a run in the place of an audit's."""
    if (found := kind_of(raw)) in {"audit run", ""}:
        return
    if path.with_name("manifest.json").is_file():
        try_it = f", or attack the run: fedsim audit run {path.parent} --attack dlg" if found == "run" else ""
        raise UserError(
            f"{path.parent} is the folder of a run and no audit; give a folder that fedsim audit run printed{try_it}"
        )
    rather = f", or audit it: a file with run: {path.name} and attacks: [...]" if found == "run" else ""
    raise UserError(f"{path} is no audit but {WHAT[found]}; use fedsim {found} {path}{rather}")


def _run(raw: Raw, path: Path) -> Any:
    """The mapping of the audited run."""
    run, extra = raw.get("run"), raw.get("overrides", [])
    if run is None:
        raise UserError(f"config file {path} is no audit (it has no run); give run: FILE and attacks: [...]")
    if not isinstance(extra, list) or not all(isinstance(word, str) for word in extra):
        raise UserError(f"config file {path}: overrides: {extra!r}; give a list of key=value")
    if isinstance(run, str):
        file = path.parent / run
        run = merge({"name": Path(run).stem}, read(file))
    if not isinstance(run, dict):
        raise UserError(f"config file {path}: run: {run!r}; give the path of a config, or a mapping as of fedsim run")
    return override(run, extra)


def _check(config: AuditRun) -> None:
    """Refuse a run that cannot be audited."""
    run, subjects = config.run, config.subjects
    if Subject.CANARIES in subjects and run.audit.planted is None:
        raise UserError(
            "run.audit.planted: an attack asks for planted records, and there are none; give some and slots for them, "
            "such as run.audit.canaries=400 run.audit.planted.crafted=400"
        )
    for attack in config.attacks:
        check = getattr(catalog.resolve("attack", attack.name)(attack), "check", None)
        if check is not None:
            check(run)
    if config.finished is not None:  # what follows is of runs that are to be made
        return
    if subjects != {Subject.CANARIES} and run.audit.holdout <= 0:
        raise UserError(
            "run.audit.holdout=0: non-members are held out when the data are partitioned, or never; set it, such as 0.4"
        )
    shadowed = [one.name for one in config.attacks if Knowledge.SHADOWS in _threat(one).knows]
    if shadowed and config.rows < LEAST_SHADOWED_ROWS:
        raise UserError(
            f"rows={config.rows}: attack {shadowed[0]} needs at least 4 runs beside the target and its complement; "
            f"valid: even numbers from {LEAST_SHADOWED_ROWS}, such as rows={LEAST_SHADOWED_ROWS}"
        )
    if run.transcript == "none":
        raise UserError("run.transcript=none: nothing released would be kept to attack; give uploads or all")
    clients = getattr(run.partition, "clients", 2)
    if Subject.ROWS in subjects and config.controls.disjoint and clients < 2:
        raise UserError(
            "controls.disjoint: the run has one client, and the control needs sets of another; set "
            "controls.disjoint=false, or run.partition.clients=2"
        )
    if run.engine.name != "local":
        raise UserError(f"run.engine.name={run.engine.name}: an audit makes many small runs; valid: local")
