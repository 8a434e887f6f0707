"""One run of one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A config with overrides, by a name."""

    name: str
    command: str
    config: str
    overrides: tuple[str, ...] = ()


def seeds(name: str, command: str, config: str, overrides: tuple[str, ...], over: range) -> list[Cell]:
    """The same for several seeds."""
    return [Cell(f"{name}-s{seed}", command, config, (*overrides, f"seed={seed}")) for seed in over]
