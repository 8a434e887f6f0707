"""What an audit costs in time on this machine: its runs, and what its attacks pass through networks."""

from __future__ import annotations

from typing import Any

from fedsim.audit.schema import AuditRun, subject_of
from fedsim.audit.types import Subject
from fedsim.auditing import planned
from fedsim.build import Parts
from fedsim.config import digest
from fedsim.distill.cost import Passes
from fedsim.plan import run_seconds, seconds_of
from fedsim.workload import settled

DOUBLE = 3
"""Passes of training that a step of an attack on a gradient is worth: it differentiates a gradient."""


def runs_seconds(config: AuditRun) -> float:
    """All runs, with `workers` of them at a time; rows cost the same, so that one is measured."""
    runs = planned(config)
    alike = {name: run for name, run in runs.items() if not name.startswith("row_") or name == "row_0000"}
    each = {name: run_seconds(settled(Parts(run))) for name, run in alike.items()}
    return sum(each.get(name, each.get("row_0000", 0.0)) for name in runs) / min(config.workers, len(runs))


def attacks_seconds(config: AuditRun) -> float:
    """All attacks and the control that trains, one after another; what attacks share is counted once."""
    parts = settled(Parts(config.plain()))
    passes = {key: one for chosen in config.attacks for key, one in _of(chosen, config, parts).items()}
    if Subject.ROWS in config.subjects and config.controls.overfit:
        held = int(parts.pool(config.client).members(0).sum())
        passes[("overfit",)] = Passes(training=config.controls.overfit * held)
    return seconds_of(sum(passes.values(), Passes()), parts)


def _of(chosen: Any, config: AuditRun, parts: Parts) -> dict[tuple[Any, ...], Passes]:
    """Passes of one attack, by what they depend on."""
    subject, run = subject_of(chosen), config.run
    if subject is Subject.ROWS and getattr(chosen, "networks", 0) and chosen.release != "server_model":
        return {
            ("trained", chosen.networks, chosen.release, chosen.train and digest(chosen.train)): _trained(
                chosen, config, parts
            )
        }
    if subject in (Subject.GRADIENTS, Subject.UPDATES):
        steps = chosen.iterations * chosen.restarts * config.gradients.cases * config.gradients.records
        if subject is Subject.UPDATES:
            steps *= run.algorithm.local.epochs
        return {("inverted", chosen.name): Passes(training=DOUBLE * steps)}
    return {}


def _trained(chosen: Any, config: AuditRun, parts: Parts) -> Passes:
    """Networks trained on what every run released."""
    method, settings = config.run.method, chosen.train or config.run.server
    if method is None or settings is None:
        return Passes()
    ipc: Any = method
    sets = config.run.rounds if chosen.release == "client_sets" else len(parts.split.client)
    images = ipc.ipc * parts.dataset.num_classes * sets
    return Passes(training=config.rows * chosen.networks * settings.epochs * images)
