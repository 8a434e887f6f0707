"""Which condensation serves which mechanism of `privacy`, and how many releases it makes: one page, for both sides."""

from __future__ import annotations

from typing import Any

from fedsim.config import Section
from fedsim.distill import private_steps
from fedsim.distill.base import Distiller
from fedsim.distill.distribution import private_dm
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.types import UserError

ALGORITHMS = {"features": ("feddm", "one_shot"), "gradients": ("feddm", "one_shot", "fedmk")}
"""Mechanism → algorithms whose clients release nothing but what it accounts for."""


def check(privacy: Any, algorithm: str, method: Section | None) -> None:
    """Refuse what would release more than is accounted for, with the reason in one line."""
    valid = ALGORITHMS[privacy.name]
    if algorithm not in valid:
        raise UserError(
            f"privacy: algorithm {algorithm} sends what is not accounted for; valid under {privacy.name}: "
            f"{', '.join(valid)}"
        )
    if privacy.name == "gradients":
        private_steps.check(method)
    else:
        private_dm.check(method)


def distiller(agreed: Any, method: Section) -> Distiller:
    """The condensation of a private owner under that agreement."""
    if agreed.config.name == "gradients":
        return private_steps.distiller(method, agreed.config.least)
    return PrivateMatching(method, agreed.config.least)


def releases(privacy: Any, method: Any) -> int:
    """Releases that one client makes in one round, at most."""
    return private_steps.releases(method) if privacy.name == "gradients" else method.networks.size
