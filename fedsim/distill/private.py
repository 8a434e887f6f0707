"""Which condensation serves which mechanism of `privacy`, and how many releases it makes: one page, for both sides."""

from __future__ import annotations

from typing import Any

from fedsim.config import Section
from fedsim.distill.base import Distiller
from fedsim.distill.distribution import private_dm
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.types import UserError

ALGORITHMS = {"features": ("feddm", "one_shot")}
"""Mechanism → algorithms whose clients release nothing but what it accounts for."""


def check(privacy: Any, algorithm: str, method: Section | None, rounds: int) -> None:
    """Refuse what would release more than is accounted for, with the reason in one line."""
    valid = ALGORITHMS[privacy.name]
    if algorithm not in valid:
        raise UserError(
            f"privacy: algorithm {algorithm} sends what is not accounted for; valid under {privacy.name}: "
            f"{', '.join(valid)}"
        )
    private_dm.check(method, privacy)
    if "previous" in (privacy.subspace, privacy.centre) and rounds < 2:
        what = "subspace" if privacy.subspace == "previous" else "centre"
        raise UserError(
            f"privacy.{what}: previous looks at the uploads of the round before, and rounds is {rounds}; "
            f"valid: rounds of at least 2, or another {what}"
        )


def distiller(agreed: Any, method: Section) -> Distiller:
    """The condensation of a private owner under that agreement."""
    return PrivateMatching(method, agreed.config)


def releases(privacy: Any, method: Any) -> int:
    """Releases that one client makes in one round, at most."""
    return private_dm.releases(privacy, method)
