"""The file of a sweep (`fedsim sweep`), as `fedsim describe sweep` prints it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from fedsim.config import Section

Variants = dict[str, dict[str, Any]]
"""Name → what it lays over the run."""


class Sweep(Section):
    """`fedsim sweep`: one run varied by rows, columns and seeds.

    name: backdoor_digits              OUT/backdoor_digits/ holds every run, sweep.json, sweep.html
    run: quickstart/feddm_digits.yaml  or the run itself, written out here
    seeds: [0, 1, 2]
    rows: {clean: {}, naive: {attackers: [{name: naive, clients: [1]}]}}
    columns: {none: {}, spectral: {defenses: [spectral_signatures]}}
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Folder name under --out, and of every run."""
    run: dict[str, Any] | str
    """The run that is varied: its settings, or a file of them, named from the sweep's file. A file's `name` and `seed`
    are those of the run by itself, and not used here."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, strict=False)
    """Seeds of every cell. On the command line `seeds=[0, 1]` and `name=` are the sweep's, the rest is the run's."""
    rows: Variants = Field(min_length=1)
    """Row name → settings laid over the run; {}: the run as it is."""
    columns: Variants = Field(default_factory=lambda: {"": {}}, min_length=1)
    """Column name → settings laid over the row's; left out: one column, the rows as they are."""

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value) or min(value) < 0:
            raise ValueError(f"got {list(value)}; valid: seeds from 0, each once")
        return value
