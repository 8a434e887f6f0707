"""What stands around an audit: what it would take, whether its card holds, how two cards differ."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedsim.audit.card import to_json
from fedsim.audit.gradients import OTHERS
from fedsim.audit.schema import AuditRun
from fedsim.audit.statistics.power import detectable_auc, detectable_proportion
from fedsim.audit.store import Store
from fedsim.audit.targets import Targets
from fedsim.audit.types import Subject
from fedsim.audit_judgement import again, folder_of, made
from fedsim.audit_prices import attacks_seconds, runs_seconds
from fedsim.auditing import described, planned, runs_of
from fedsim.build import Parts
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun
from fedsim.types import RunFailed, UserError


def plan(config: AuditRun) -> str:
    """Runs, records, the least that could be found, and how long it will take; touches no image."""
    runs, subjects = planned(config), config.subjects
    parts = Parts(config.plain())
    lines = [f"{len(runs)} runs, {config.workers} at a time: {', '.join(_counted(runs))}"]
    if Subject.ROWS in subjects:
        lines += _rows(config, parts)
    if cases := sorted(subjects & {Subject.GRADIENTS, Subject.UPDATES}):
        lines.append(_cases(config, " and ".join(cases)))
    for chosen in config.attacks:
        lines += getattr(made(chosen), "plan", lambda run: [])(config.run)
    lines.append(f"attacks: {', '.join(attack.name for attack in config.attacks)}")
    lines.append(
        f"runs about {runs_seconds(config):,.0f} s on this machine, attacks about {attacks_seconds(config):,.0f} s"
    )
    return "\n".join(lines)


def _counted(runs: Mapping[str, FederatedRun]) -> list[str]:
    """What the runs are."""
    rows = sum(name.startswith("row_") for name in runs)
    first = [f"{rows} in complementary pairs"] if rows else []
    return first + [name for name in runs if not name.startswith("row_")]


def _rows(config: AuditRun, parts: Parts) -> list[str]:
    """Of the membership attacks."""
    pool = parts.pool(config.client)
    held = int(pool.members(0).sum())
    least = detectable_auc(held, len(pool.positions) - held)
    return [
        f"client {config.client}: {held} members and {len(pool.positions) - held} non-members in every run",
        f"smallest AUC that one target could show: {least:.3f} (five per cent, found in four of five)" if least else
        "one target alone could show nothing: the pool is too small",
        f"TPR at 1% FPR needs 1,000 non-members, 0.1% needs 10,000: over all targets {config.rows * held:,} are there",
    ]  # fmt: skip


def _cases(config: AuditRun, what: str) -> str:
    """Of the attacks on gradients and updates."""
    asked = config.gradients
    number = asked.cases * asked.records
    least = detectable_proportion(number, 1 / (OTHERS + 1))
    told = f"smallest rate of identification among {OTHERS + 1} that could be shown: {least:.3f}" if least else \
        "too few to show anything"  # fmt: skip
    return f"{asked.cases} {what} of {asked.records} records each; {told}"


def verify(folder: Path) -> str:
    """Recompute findings, controls and fingerprints, and what the card says of its runs where these are still here;
    raises `RunFailed` that names the first thing that differs."""
    run, config = folder_of(folder)
    card, store = run.read_json("card"), Store(folder)
    for name, told in card.get("details", {}).get("arrays", {}).items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != told:
            raise RunFailed(f"{name}: its fingerprint is {found[:12]}, the card says {told[:12]}")
    found = to_json(again(config, store))
    parts = ["findings", "controls", "contradicted", "verdict", "exit_code"]
    if here := (runs := _still_here(config, folder)):
        own = described(config, Targets(config, runs), runs)
        found |= json.loads(json.dumps(own))
        parts += own
    differences = list(_differences("", {key: card.get(key) for key in parts}, {key: found[key] for key in parts}))
    if differences:
        raise RunFailed(f"{differences[0]}" + (f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""))
    more = "" if here else "; its runs are not here: release, accounting and utility were not read again"
    return (
        f"{len(found['findings'])} findings and {len(found['controls'])} controls recomputed: all as on the card{more}"
    )


def _still_here(config: AuditRun, folder: Path) -> dict[str, Path]:
    """The audit's runs; none where some are gone, as beside a card that was copied away."""
    try:
        runs = runs_of(config, folder)
    except FileNotFoundError:  # the plan says where they lie
        return {}
    return runs if all((path / "result.json").is_file() for path in runs.values()) else {}


def _differences(where: str, told: Any, found: Any) -> Iterator[str]:
    """Every leaf that differs, by its path; numbers may differ in the last digits."""
    if isinstance(told, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*told, *found]):
            yield from _differences(f"{where}.{key}".lstrip("."), told.get(key), found.get(key))
    elif isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        for number, (one, other) in enumerate(zip(told, found, strict=True)):
            name = one.get("id", one.get("name", number)) if isinstance(one, dict) else number
            yield from _differences(f"{where}[{name}]", one, other)
    elif not _same(told, found):
        yield f"{where}: the card says {told!r}, recomputed {found!r}"


def _same(told: Any, found: Any) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (told, found))
    return math.isclose(told, found, rel_tol=1e-9, abs_tol=1e-12) if numbers else told == found


def compare(first: Path, second: Path) -> str:
    """A table of the findings that either card has."""
    for path in (first, second):
        if not (path / "card.json").is_file():
            raise UserError(
                f"{path} is no folder of an audit (it has no card.json); give one that fedsim audit run printed"
            )
    cards = [RunDirectory(path).read_json("card") for path in (first, second)]
    if any("findings" not in card for card in cards):
        raise UserError(f"{first} or {second} holds no card; give two folders that fedsim audit run printed")
    rows = [("finding", str(first), str(second))]
    by_id = [{one["id"]: one for one in card["findings"]} for card in cards]
    for name in dict.fromkeys([*by_id[0], *by_id[1]]):
        rows.append((name, _shown(by_id[0].get(name)), _shown(by_id[1].get(name))))
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [*table, *(f"{path}: {card['verdict']}" for path, card in zip((first, second), cards, strict=True))]
    )


def _shown(finding: dict[str, Any] | None) -> str:
    if finding is None:
        return "–"
    found = finding["estimate"]
    return finding["status"] + (f" {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else "")
