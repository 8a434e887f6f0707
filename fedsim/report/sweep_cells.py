"""The runs of a sweep, and which of them stand beside one another: the same settings but for attackers or defences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedsim.config import Raw, read


@dataclass(frozen=True)
class Cell:
    """A finished run of a sweep."""

    row: str
    column: str
    seed: int
    path: Path
    result: dict[str, Any]

    @cached_property
    def config(self) -> Raw:
        """The run's resolved config."""
        return read(self.path / "config.yaml")

    @cached_property
    def settings(self) -> tuple[str, str, str]:
        """As JSON: attackers, defences, and everything else but the seed."""
        attackers, defenses = (json.dumps(self.config.get(name) or []) for name in ("attackers", "defenses"))
        rest = {name: value for name, value in self.config.items() if name not in {"attackers", "defenses", "seed"}}
        return attackers, defenses, json.dumps(rest, sort_keys=True)

    @property
    def clean(self) -> bool:
        """Nobody attacks."""
        return self.settings[0] == "[]"


def without_attackers(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The runs of every seed with this one's defences and settings and no attacker."""
    return [one for one in cells if one.clean and one.settings[1:] == cell.settings[1:]]


def without_defences(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The run of the same seed, attackers and settings that nothing defends."""
    wanted = (cell.settings[0], "[]", cell.settings[2])
    return next((one for one in cells if one.seed == cell.seed and one.settings == wanted), None)
