"""The kept parts of benchmarks/central_backdoors.py by what they are of, and the settings that they were made under."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from central_settings import FOLDER, FORMS, METHODS
from kept_parts import alike

NAMES = {"cifar10": "CIFAR-10 (JPEG)", "mnist": "MNIST"}
ATTACKS = {"naive": "NaiveAttack", "doorping": "DOORPING"}


@dataclass(frozen=True)
class Case:
    """Parts that differ by seed and victim alone."""

    data: str
    method: str
    """A key of METHODS."""
    form: str
    """A key of FORMS."""
    steps: int
    """Of the condensation."""
    model: str
    """Architecture that was condensed with."""
    seeds: list[dict[str, Any]]
    """What each seed found, by number; those of several calls merged."""

    @property
    def words(self) -> str:
        """Data, condensation and form."""
        return f"{NAMES[self.data]}, `{self.method}`, {self.steps} steps, {FORMS[self.form]}"

    def victims(self, attack: str) -> list[str]:
        """Architectures that some seed trained on sets of an attack."""
        return list(dict.fromkeys(name for one in self.seeds for name in one.get(attack, {}).get("victims", {})))

    def holding(self, attack: str, victim: str) -> list[dict[str, Any]]:
        """What the seeds found of an attack, where they trained that victim."""
        return [one[attack] for one in self.seeds if victim in one.get(attack, {}).get("victims", {})]

    def lifts(self, attack: str, victim: str) -> list[float]:
        """Of each seed."""
        return [one["victims"][victim]["lift"] for one in self.holding(attack, victim)]

    @property
    def victim_steps(self) -> int:
        """Steps of a victim's training, where the set holds none of its own; of the CIFAR-10 and MNIST classes, ten."""
        asked = self.seeds[0]["asked"]
        return asked["epochs"] * math.ceil(10 * asked["method"]["ipc"] / asked["batch"])

    @property
    def updates(self) -> int:
        """Times that DOORPING's trigger is optimised again while the set is condensed."""
        asked = self.seeds[0]["asked"]
        turns = range(asked["every"], self.steps, asked["every"])
        outer = asked["method"].get("outer")
        return sum(1 for turn in turns if outer is None or turn % outer)


def kept_parts() -> list[tuple[int, dict[str, Any]]]:
    """Seed and content of every kept part, by name."""
    paths = sorted(FOLDER.glob("*.json"))
    return [(int(path.stem.rpartition("_s")[2]), json.loads(path.read_text())) for path in paths]


def cases(parts: Iterable[tuple[int, dict[str, Any]]]) -> list[Case]:
    """The parts by what they are of, in the order of the table.

    `UserError` where those of one case were made under other settings than seed, attacks and victims.
    """
    found: dict[tuple[str, str, str, int, str], dict[int, dict[str, Any]]] = {}
    given: dict[tuple[str, str, str, int, str], list[dict[str, Any]]] = {}
    for seed, one in parts:
        asked = one["asked"]
        method, _, form = asked["part"].rpartition("_")
        key = (asked["data"], method, form, asked["method"]["iterations"], asked["model"])
        place = found.setdefault(key, {}).setdefault(seed, {"sources": [], "asked": asked})
        place["sources"].append(one["source"])
        given.setdefault(key, []).append(asked)
        for attack in asked["attacks"]:
            victims = place.get(attack, {}).get("victims", {}) | one[attack]["victims"]
            place[attack] = one[attack] | {"victims": victims}
    for key, every in given.items():
        alike(f"central_backdoors, {' '.join(map(str, key))}", every, free=("attacks", "victim", "models"))
    orders = [list(one) for one in (NAMES, METHODS, FORMS)]
    keys = sorted(found, key=lambda key: (*(order.index(one) for order, one in zip(orders, key[:3], strict=True)), key))
    return [Case(*key, [found[key][seed] for seed in sorted(found[key])]) for key in keys if key[0] in NAMES]


def settings_text(parts: list[Case], *path: str) -> str:
    """A setting of the kept parts, all its values where they differ."""
    values: dict[str, None] = {}
    for case in parts:
        for seed in case.seeds:
            value = seed["asked"]
            for name in path:
                value = value[name]
            values[f"{value:,}" if isinstance(value, int) else f"{value:g}"] = None
    return " or ".join(values)
