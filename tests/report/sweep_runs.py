"""Finished runs of a sweep as its page reads them: a resolved config, a result, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedsim.report.sweep_cells import Cell

ATTACK = [{"name": "naive", "clients": [1]}]


def cell(
    folder: Path, row: str = "clean", column: str = "none", seed: int = 0, *, accuracy: float = 0.9, rounds: int = 1,
    **result: Any,
) -> Cell:  # fmt: skip
    """Rows but `clean` attack, columns but `none` have a filter of their name; `rounds` is any other setting."""
    path = folder / f"{row}-{column}-{seed}-{rounds}"
    path.mkdir()
    config = {
        "seed": seed, "rounds": rounds, "attackers": [] if row == "clean" else ATTACK,
        "defenses": [] if column == "none" else [{"name": column}],
    }  # fmt: skip
    (path / "config.yaml").write_text(json.dumps(config))
    return Cell(row, column, seed, path, {"accuracy": accuracy, "accuracy_ci": [0.8, 1.0]} | result)


def said(*scores: float, above: float = 9.0) -> dict[str, list[Any]]:
    """Verdicts on clients 0, 1, …: flagged above a threshold."""
    return {str(client): [score, score > above, True] for client, score in enumerate(scores)}


def trigger(asr: float, lift: float, images: int = 100) -> dict[str, Any]:
    """What result.json says of one trigger."""
    found = {"asr": asr, "asr_clean": asr - lift, "asr_random_patch": 0.0}
    return {"triggers": [{"images": images, "lift": lift, "lift_ci": [lift - 0.1, lift + images / 1000], **found}]} | (
        found | {"lift": lift, "acted": [[1]], "accuracy_clean": 0.9}
    )
