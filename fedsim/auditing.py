"""`fedsim audit run`: make the runs, attack what they released, judge, write the card. Resumed wherever it was cut off.

OUT/<name>/<confighash>-s<seed>/   config.yaml · manifest.json · plan/ · runs/ · scores/ · truth/ · cache/ ·
                                   card.json · card.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedsim.admission import check
from fedsim.audit import controls as known
from fedsim.audit.card import Card, Control, to_json
from fedsim.audit.page import write_card
from fedsim.audit.panels import keep_panels
from fedsim.audit.plans import Plans
from fedsim.audit.reconstructions import keep_reconstructions
from fedsim.audit.schema import AuditRun
from fedsim.audit.statement import CITATIONS, limits
from fedsim.audit.store import Store
from fedsim.audit.targets import Targets, alone
from fedsim.audit.types import Attack, Subject, ThreatModel
from fedsim.audit_judgement import again, disjoint, judged_controls, made, summary
from fedsim.audit_runs import make
from fedsim.build import Parts
from fedsim.console import Terminal
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.runs import RunDirectory, manifest
from fedsim.schema import FederatedRun
from fedsim.seeding import Streams
from fedsim.types import UserError


def audit(config: AuditRun, out: Path, *, resume: bool = False, argv: Sequence[str] = ()) -> tuple[Path, int]:
    """Do what `config` says under `out`; returns the audit's folder and the exit code that its card stands for."""
    torch.set_num_threads(1)
    for name, run in planned(config).items():
        if not name.startswith("row_") or name == "row_0000":  # rows differ in who is a member
            check(Parts(run))
    clients = len(Parts(config.plain()).split.client)
    if config.client >= clients:
        raise UserError(f"client: got {config.client}; valid: 0 to {clients - 1}")
    folder = RunDirectory.open(out, config, config.name, config.seed, must_exist=resume)
    with folder.lock(), Terminal() as terminal:
        if (folder.path / "card.json").is_file():
            terminal.say(f"{folder.path} is finished already")
            return folder.path, int(folder.read_json("card")["exit_code"])
        started = time.monotonic()
        facts = manifest(config, config.run.compute.device, list(argv))
        if not (folder.path / "manifest.json").is_file():
            folder.write_json("manifest", facts)
        card = _card(config, folder.path, facts, terminal)
        card = replace(card, provenance=card.provenance | {"wall_seconds": round(time.monotonic() - started, 1)})
        folder.write_json("card", to_json(card))
        write_card(folder.path, card)
        for line in summary(card):
            terminal.say(line)
        terminal.say(f"card: {folder.path / 'card.html'}")
    return folder.path, card.exit_code


def planned(config: AuditRun) -> dict[str, FederatedRun]:
    """Every run that the audit makes, by name: rows where members are asked for, the planted one, else a plain one."""
    if config.finished is not None:
        return {}
    runs: dict[str, FederatedRun] = {}
    subjects, method = config.subjects, config.run.method
    if Subject.ROWS in subjects:
        runs = {f"row_{row:04d}": alone(config.row(row)) for row in range(config.rows)}
    else:
        runs["plain"] = alone(config.plain())
    if Subject.CANARIES in subjects:
        runs["canaries"] = alone(config.planted())
    if Subject.ROWS in subjects and config.controls.publish_subset and method is not None:
        ipc: Any = method
        subset = alone(config.row(0)).model_copy(update={"method": RandomConfig(ipc=ipc.ipc), "privacy": None})
        runs["publish_subset"] = subset.model_copy(update={"rounds": 1, "name": f"{config.run.name}_subset"})
    return runs


def _card(config: AuditRun, folder: Path, facts: dict[str, Any], terminal: Terminal) -> Card:
    """Attack, judge, describe."""
    plans, store = Plans(folder), Store(folder)
    plans.write(planned(config))
    make(folder, config.workers, terminal)
    runs = runs_of(config, folder)
    targets = Targets(config, runs)
    attacks: list[Attack] = [made(chosen) for chosen in config.attacks]
    for attack, chosen in zip(attacks, config.attacks, strict=True):
        for name, truth in targets.subjects(attack.threat.subject).items():
            store.truth(name, truth)
        _attack(attack, chosen.name, targets, store, terminal)
    keep_panels(config, targets, store)
    keep_reconstructions(config, store)
    _controls(config, targets, plans, store, terminal)
    seen = [(chosen.name, threat) for attack, chosen in zip(attacks, config.attacks, strict=True)
            for threat in threats_of(attack)]  # fmt: skip
    return replace(
        again(config, store),
        provenance={key: facts[key] for key in ("config_hash", "versions", "git", "device", "processor", "cores")}
        | {"data": targets.parts.dataset.fingerprint(), "seed": config.seed},
        threats=[threat for _, threat in seen],
        **described(config, targets, runs),
        limits=limits(config, len(targets.pool.positions) if targets.folders else 0),
        citations=CITATIONS,
        details={"arrays": store.fingerprints(), "attacks": [name for name, _ in seen]},
    )


def runs_of(config: AuditRun, folder: Path) -> dict[str, Path]:
    """The folders of an audit's runs, by name; of a run that was finished before, that one."""
    plans = Plans(folder)
    return {"plain": Path(config.finished)} if config.finished else {name: plans.run(name) for name in planned(config)}


def described(config: AuditRun, targets: Targets, runs: dict[str, Path]) -> dict[str, Any]:
    """What the runs' own results say of themselves: release, accounting and utility of the card."""
    results = {name: RunDirectory(path).read_json("result") for name, path in runs.items() if name != "publish_subset"}
    return {
        "release": _release(config, targets, results),
        "accounting": results.get("canaries", results[targets.first_name]).get("privacy"),
        "utility": _utility(results),
    }


def threats_of(attack: Any) -> tuple[ThreatModel, ...]:
    """Everyone who attacks: an attack may read a release at several rungs."""
    return getattr(attack, "threats", (attack.threat,))


def _attack(
    attack: Attack, name: str, targets: Targets, store: Store, terminal: Terminal, client: int | None = None
) -> None:
    """One attack on every target; what is stored is not computed again."""
    label = name if client is None else f"control.disjoint.{name}"
    subjects = list(targets.subjects(attack.threat.subject))
    for number, subject in enumerate(subjects):
        terminal.bar(label, number, len(subjects))
        streams = Streams(
            targets.config.seed, ("attack", name)
        )  # the same for all rows: what one needs serves the others
        if attack.threat.subject is Subject.ROWS:
            view = targets.view(number, attack.threat, store.cached, client)
        else:
            view = targets.alone(attack.threat, store.cached)
        view = replace(view, tell=terminal.steps(label))
        store.scores(label, subject, lambda view=view, streams=streams: attack.run(view, streams))
    terminal.bar(label, len(subjects), len(subjects))


def _controls(config: AuditRun, targets: Targets, plans: Plans, store: Store, terminal: Terminal) -> list[Control]:
    """Compute what is not stored, then judge."""
    wanted, first = config.controls, "row_0000"
    streams = Streams(config.seed, ("control",))
    if not targets.folders:  # the others are of membership
        return judged_controls(config, store)
    store.truth(first, lambda: targets.truth(0))
    if wanted.publish_subset and "publish_subset" in plans.names():
        source = replace(targets.source(0), run=plans.run("publish_subset"))
        store.scores("control.publish_subset", first, lambda: known.published(targets, source.sets()))
    if wanted.overfit:
        terminal.say("control: an overfitted network")
        store.scores("control.overfit", first, lambda: known.overfit(targets, 0, wanted.overfit, streams.at("overfit")))
    if wanted.single and config.run.method is not None and config.run.privacy is None:
        terminal.say("control: one record of each class")
        store.scores("control.single", first, lambda: known.single(targets, streams.at("single")))
    if (chosen := disjoint(config)) is not None:
        other = next(k for k, held in enumerate(targets.parts.split.client) if k != config.client and len(held))
        _attack(made(chosen), chosen.name, targets, store, terminal, other)
    return judged_controls(config, store)


def _utility(results: dict[str, Any]) -> dict[str, Any]:
    """Accuracy on test of the runs that were attacked, and of the one with planted records."""
    own = [one["accuracy"] for name, one in results.items() if name == "plain" or name.startswith("row_")]
    found: dict[str, Any] = {"accuracy": own}
    return found | ({"accuracy_with_planted": results["canaries"]["accuracy"]} if "canaries" in results else {})


def _release(config: AuditRun, targets: Targets, results: dict[str, Any]) -> dict[str, Any]:
    run, split, first = config.run, targets.parts.split, results[targets.first_name]
    found: dict[str, Any] = {
        "algorithm": run.algorithm.name,
        "method": getattr(run.method, "name", None),
        "data": run.data.name,
        "clients": len(split.client),
        "audited_client": config.client,
        "rounds": run.rounds,
        "runs": len(targets.folders),
        "records_of_client": len(split.client[config.client]),
        "synthetic_images": first["synthetic_images"],
        "uplink_bytes": first["uplink_bytes"],
    }
    if targets.folders:
        found["candidates"] = len(targets.pool.positions)
        found["members_per_run"] = int(targets.pool.members(0).sum())
    if run.audit.planted is not None and "canaries" in results:
        found["planted"] = dict(run.audit.planted.counts)
        found["records_with_planted"] = results["canaries"]["real_images"]
    return found
