"""From stored arrays to findings and controls: all that `verify` repeats, and what an audit says in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim import catalog
from fedsim.audit import controls as known
from fedsim.audit.card import Card, Control, contradicted, judged
from fedsim.audit.schema import AuditRun, load_audit
from fedsim.audit.store import Store
from fedsim.audit.types import Attack, Finding, Release, Scores, Subject, Truth
from fedsim.runs import RunDirectory
from fedsim.types import UserError

SHOWN = ("auc", "identification", "mse_below_0.001")
"""Metrics that are said at the end beside the registered ones."""


def made(chosen: Any) -> Any:
    """The attack of these settings."""
    return catalog.resolve("attack", chosen.name)(chosen)


def evaluated(config: AuditRun, store: Store) -> list[Finding]:
    """The findings of all attacks from what is stored."""
    found: list[Finding] = []
    for chosen in config.attacks:
        attack: Attack = made(chosen)
        found += attack.evaluate(*stored_arrays(store, chosen.name))
    if config.finished is not None:  # nothing was registered before the run
        return [replace(one, confirmatory=False, p=None) for one in found]
    return found


def membership(config: AuditRun) -> Any:
    """The first attack that asks who is a member, by which negative controls are judged."""
    return next((one for one in config.attacks if hasattr(catalog.resolve("attack", one.name), "statistic")), None)


def disjoint(config: AuditRun) -> Any:
    """The attack that the negative control is made with: one that reads a client's own sets, and no others."""
    chosen = membership(config)
    if chosen is None or not config.controls.disjoint:
        return None
    return chosen if made(chosen).threat.sees == {Release.CLIENT_SETS} else None


def judged_controls(config: AuditRun, store: Store) -> list[Control]:
    """What the stored arrays say of each control."""
    found = []
    judges = {"publish_subset": known.judge_published, "overfit": known.judge_overfit, "single": known.judge_single}
    for name, judge in judges.items():
        for _, scores, truth in store.stored(f"control.{name}"):
            found.append(judge(scores, truth))
    for one in config.attacks:
        if config.controls.permuted and made(one).threat.subject is Subject.CANARIES:
            found += known.judge_coins(*stored_arrays(store, one.name), config.seed)
    chosen = membership(config)
    if chosen is None:
        return found
    attack = made(chosen)
    if disjoint(config) is not None:
        found.append(known.judge_disjoint(attack.evaluate(*stored_arrays(store, f"control.disjoint.{chosen.name}"))))
    if config.controls.permuted:
        scores, truths = stored_arrays(store, chosen.name)
        found.append(known.judge_permuted(scores, known.permuted(truths, config.seed), attack.statistic))
    return found


def again(config: AuditRun, store: Store) -> Card:
    """Findings, controls and verdict from what is stored: a card without the rest."""
    outcomes = judged_controls(config, store)
    findings = judged(evaluated(config, store), outcomes)
    return Card({}, {}, (), findings, outcomes, None, {}, (), (), contradicted(findings))


def only(config: AuditRun, names: Sequence[str]) -> AuditRun:
    """The audit with these of its attacks; `UserError` for one that is not in its file."""
    known_names = [attack.name for attack in config.attacks]
    if unknown := [name for name in names if name not in known_names]:
        raise UserError(f"--attack {unknown[0]}: the file has no such attack; valid: {', '.join(known_names)}")
    chosen = tuple(attack for attack in config.attacks if not names or attack.name in names)
    return config.model_copy(update={"attacks": chosen})


def summary(card: Card) -> list[str]:
    """What a reader wants to know at the end, in a few lines."""
    lines = [card.verdict]
    for control in card.controls:
        lines.append(f"  control {control.name}: {'passed' if control.passed else 'FAILED'} ({control.note})")
    for one in card.findings:
        if one.estimate is not None and (one.confirmatory or one.metric in SHOWN):
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
