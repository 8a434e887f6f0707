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

from fedsim import catalog
from fedsim.admission import check
from fedsim.audit import controls as known
from fedsim.audit.card import Card, Control, judged, to_json
from fedsim.audit.page import write_card
from fedsim.audit.panels import keep_panels
from fedsim.audit.plans import Plans
from fedsim.audit.schema import AuditRun, load_audit
from fedsim.audit.statement import CITATIONS, limits
from fedsim.audit.store import Store
from fedsim.audit.targets import Targets, alone
from fedsim.audit.types import Attack, Finding, Release, Scores, Truth
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
    check(Parts(config.row(0)))
    folder = RunDirectory.open(out, config, config.name, config.seed, must_exist=resume)
    with folder.lock(), Terminal() as terminal:
        if (folder.path / "card.json").is_file():
            terminal.say(f"{folder.path} is finished already")
            return folder.path, int(folder.read_json("card")["exit_code"])
        started = time.monotonic()
        facts = manifest(config, config.run.compute.device, list(argv))
        if not (folder.path / "manifest.json").is_file():
            folder.write_json("manifest", facts)
        Plans(folder.path).write(planned(config))
        make(folder.path, config.workers, terminal)
        card = _card(config, folder.path, facts, terminal)
        card = replace(card, provenance=card.provenance | {"wall_seconds": round(time.monotonic() - started, 1)})
        folder.write_json("card", to_json(card))
        write_card(folder.path, card)
        for line in summary(card):
            terminal.say(line)
        terminal.say(f"card: {folder.path / 'card.html'}")
    return folder.path, card.exit_code


def planned(config: AuditRun) -> dict[str, FederatedRun]:
    """Every run that the audit needs, by name."""
    runs = {f"row_{row:04d}": alone(config.row(row)) for row in range(config.rows)}
    method: Any = config.run.method
    if config.controls.publish_subset and method is not None:
        subset = alone(config.row(0)).model_copy(update={"method": RandomConfig(ipc=method.ipc), "privacy": None})
        runs["publish_subset"] = subset.model_copy(update={"rounds": 1, "name": f"{config.run.name}_subset"})
    return runs


def _card(config: AuditRun, folder: Path, facts: dict[str, Any], terminal: Terminal) -> Card:
    """Attack, judge, describe."""
    plans, store = Plans(folder), Store(folder)
    targets = Targets(config, {row: plans.run(f"row_{row:04d}") for row in range(config.rows)})
    attacks: list[Attack] = [catalog.resolve("attack", chosen.name)(chosen) for chosen in config.attacks]
    for row in range(config.rows):
        store.truth(f"row_{row:04d}", lambda row=row: targets.truth(row))
    if any(Release.GRADIENT in attack.threat.sees for attack in attacks):
        store.truth("gradients", targets.cases(0).truth)
    for attack, chosen in zip(attacks, config.attacks, strict=True):
        _attack(attack, chosen.name, targets, store, terminal)
    keep_panels(config, targets, store)
    outcomes = _controls(config, targets, plans, store, terminal)
    findings = judged(evaluated(config, store), outcomes)
    results = [RunDirectory(targets.folders[row]).read_json("result") for row in range(config.rows)]
    return Card(
        provenance={key: facts[key] for key in ("config_hash", "versions", "git", "device", "processor", "cores")}
        | {"data": targets.parts.dataset.fingerprint(), "seed": config.seed},
        release=_release(config, targets, results),
        threats=[attack.threat for attack in attacks],
        findings=findings,
        controls=outcomes,
        accounting=results[0].get("privacy"),
        utility={"accuracy": [one["accuracy"] for one in results]},
        limits=limits(config, len(targets.pool.positions)),
        citations=CITATIONS,
        details={"arrays": store.fingerprints(), "attacks": [chosen.name for chosen in config.attacks]},
    )


def _attack(
    attack: Attack, name: str, targets: Targets, store: Store, terminal: Terminal, client: int | None = None
) -> None:
    """One attack on every target; what is stored is not computed again."""
    label = name if client is None else f"control.disjoint.{name}"
    rows = [*targets.folders][:1] if Release.GRADIENT in attack.threat.sees else [*targets.folders]
    for number, row in enumerate(rows):
        terminal.bar(label, number, len(rows))
        streams = Streams(
            targets.config.seed, ("attack", name)
        )  # the same for all rows: what one needs serves the others
        view = targets.view(row, attack.threat, store.cached, client)
        name_of = "gradients" if Release.GRADIENT in attack.threat.sees else f"row_{row:04d}"
        store.scores(label, name_of, lambda view=view, streams=streams: attack.run(view, streams))
    terminal.bar(label, len(rows), len(rows))


def evaluated(config: AuditRun, store: Store) -> list[Finding]:
    """The findings of all attacks from what is stored; `verify` asks for the same."""
    found: list[Finding] = []
    for chosen in config.attacks:
        attack: Attack = catalog.resolve("attack", chosen.name)(chosen)
        found += attack.evaluate(*stored_arrays(store, chosen.name))
    return found


def _controls(config: AuditRun, targets: Targets, plans: Plans, store: Store, terminal: Terminal) -> list[Control]:
    """Compute what is not stored, then judge."""
    wanted, first = config.controls, "row_0000"
    streams = Streams(config.seed, ("control",))
    if wanted.publish_subset and "publish_subset" in plans.names():
        source = replace(targets.source(0), run=plans.run("publish_subset"))
        store.scores("control.publish_subset", first, lambda: known.published(targets, source.sets()))
    if wanted.overfit:
        terminal.say("control: an overfitted network")
        store.scores("control.overfit", first, lambda: known.overfit(targets, 0, wanted.overfit, streams.at("overfit")))
    if wanted.single and config.run.method is not None:
        terminal.say("control: one record of each class")
        store.scores("control.single", first, lambda: known.single(targets, streams.at("single")))
    if (chosen := disjoint(config)) is not None:
        other = next(k for k, held in enumerate(targets.parts.split.client) if k != config.client and len(held))
        _attack(catalog.resolve("attack", chosen.name)(chosen), chosen.name, targets, store, terminal, other)
    return judged_controls(config, store)


def membership(config: AuditRun) -> Any:
    """The first attack that asks who is a member, by which negative controls are judged."""
    return next((one for one in config.attacks if hasattr(catalog.resolve("attack", one.name), "statistic")), None)


def disjoint(config: AuditRun) -> Any:
    """The attack that the negative control is made with: one that reads a client's own sets, and no others."""
    chosen = membership(config)
    if chosen is None or not config.controls.disjoint:
        return None
    sees = catalog.resolve("attack", chosen.name)(chosen).threat.sees
    return chosen if sees == {Release.CLIENT_SETS} else None


def judged_controls(config: AuditRun, store: Store) -> list[Control]:
    """What the stored arrays say of each control; `verify` asks for the same."""
    found = []
    judges = {"publish_subset": known.judge_published, "overfit": known.judge_overfit, "single": known.judge_single}
    for name, judge in judges.items():
        for _, scores, truth in store.stored(f"control.{name}"):
            found.append(judge(scores, truth))
    chosen = membership(config)
    if chosen is None:
        return found
    attack = catalog.resolve("attack", chosen.name)(chosen)
    if disjoint(config) is not None:
        found.append(known.judge_disjoint(attack.evaluate(*stored_arrays(store, f"control.disjoint.{chosen.name}"))))
    if config.controls.permuted:
        scores, truths = stored_arrays(store, chosen.name)
        found.append(known.judge_permuted(scores, known.permuted(truths, config.seed), attack.statistic))
    return found


def only(config: AuditRun, names: Sequence[str]) -> AuditRun:
    """The audit with these of its attacks; `UserError` for one that is not in its file."""
    known_names = [attack.name for attack in config.attacks]
    if unknown := [name for name in names if name not in known_names]:
        raise UserError(f"--attack {unknown[0]}: the file has no such attack; valid: {', '.join(known_names)}")
    chosen = tuple(attack for attack in config.attacks if not names or attack.name in names)
    return config.model_copy(update={"attacks": chosen})


def with_findings(findings: Sequence[Finding], outcomes: Sequence[Control]) -> Card:
    """A card of findings and controls alone, for their verdict."""
    return Card({}, {}, (), findings, outcomes, None, {}, (), ())


def _release(config: AuditRun, targets: Targets, results: list[dict[str, Any]]) -> dict[str, Any]:
    run, split = config.run, targets.parts.split
    return {
        "algorithm": run.algorithm.name,
        "method": getattr(run.method, "name", None),
        "data": run.data.name,
        "clients": len(split.client),
        "audited_client": config.client,
        "rounds": run.rounds,
        "runs": config.rows,
        "candidates": len(targets.pool.positions),
        "members_per_run": int(targets.pool.members(0).sum()),
        "records_of_client": len(split.client[config.client]),
        "synthetic_images": results[0]["synthetic_images"],
        "uplink_bytes": results[0]["uplink_bytes"],
    }


def summary(card: Card) -> list[str]:
    """What a reader wants to know at the end, in a few lines."""
    lines = [card.verdict]
    for control in card.controls:
        lines.append(f"  control {control.name}: {'passed' if control.passed else 'FAILED'} ({control.note})")
    for one in card.findings:
        if one.estimate is not None and (one.confirmatory or one.metric == "auc"):
            e, least = one.estimate, one.minimum_detectable
            more = f", smallest detectable {least:.3f}" if least is not None else ""
            lines.append(f"  {one.status} {one.id}: {e.value:.3f} [{e.low:.3f}, {e.high:.3f}]{more}")
    return lines


def folder_of(path: Path) -> tuple[RunDirectory, AuditRun]:
    """An audit's folder and its config."""
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is no folder of an audit; give the folder that fedsim audit run printed")
    return RunDirectory(path), load_audit(path / "config.yaml")


def stored_arrays(store: Store, attack: str) -> tuple[list[Scores], list[Truth]]:
    """Scores and truths of an attack, in order of targets."""
    stored = store.stored(attack)
    return [one for _, one, _ in stored], [one for _, _, one in stored]
