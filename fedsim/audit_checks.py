"""What stands around an audit: what it would take, whether its card holds, how two cards differ."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsim.audit.card import judged, to_json
from fedsim.audit.schema import AuditRun
from fedsim.audit.statistics.power import detectable_auc
from fedsim.audit.store import Store
from fedsim.auditing import evaluated, folder_of, judged_controls, planned, with_findings
from fedsim.build import Parts
from fedsim.plan import run_seconds
from fedsim.runs import RunDirectory
from fedsim.types import RunFailed, UserError
from fedsim.workload import settled


def plan(config: AuditRun) -> str:
    """Runs, records, the least that could be found, and how long it will take; touches no image."""
    parts = Parts(config.run)
    pool, runs = parts.pool(config.client), planned(config)
    held = int(pool.members(0).sum())
    least = detectable_auc(held, len(pool.positions) - held)
    seconds = run_seconds(settled(Parts(next(iter(runs.values()))))) * len(runs) / min(config.workers, len(runs))
    return "\n".join([
        f"{len(runs)} runs, {config.rows} of them in complementary pairs, {config.workers} at a time",
        f"client {config.client}: {held} members and {len(pool.positions) - held} non-members in every run",
        f"smallest AUC that one target could show: {least:.3f} (five per cent, found in four of five)" if least else
        "one target alone could show nothing: the pool is too small",
        f"TPR at 1% FPR needs 1,000 non-members, 0.1% needs 10,000: over all targets {config.rows * held:,} are there",
        f"attacks: {', '.join(attack.name for attack in config.attacks)}",
        f"runs about {seconds:,.0f} s on this machine, attacks and controls beside",
    ])  # fmt: skip


def verify(folder: Path) -> str:
    """Recompute findings, controls and fingerprints; raises `RunFailed` that names the first thing that differs."""
    run, config = folder_of(folder)
    card, store = run.read_json("card"), Store(folder)
    for name, told in card.get("details", {}).get("arrays", {}).items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != told:
            raise RunFailed(f"{name}: its fingerprint is {found[:12]}, the card says {told[:12]}")
    outcomes = judged_controls(config, store)
    again = to_json(with_findings(judged(evaluated(config, store), outcomes), outcomes))
    parts = ("findings", "controls", "verdict", "exit_code")
    differences = list(_differences("", {key: card.get(key) for key in parts}, {key: again[key] for key in parts}))
    if differences:
        raise RunFailed(f"{differences[0]}" + (f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""))
    return f"{len(again['findings'])} findings and {len(outcomes)} controls recomputed: all as on the card"


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
