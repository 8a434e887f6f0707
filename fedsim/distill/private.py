"""Which condensation serves which mechanism of `privacy`, and how many releases it makes: one page, for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.config import Section
from fedsim.distill import private_steps
from fedsim.distill.base import Distiller
from fedsim.distill.distribution import class_means, private_dm
from fedsim.types import UserError

ALGORITHMS = {
    "features": ("feddm", "one_shot"),
    "gradients": ("feddm", "one_shot", "fedmk"),
    "dp_sgd": ("fedavg",),
}
"""Mechanism → algorithms whose clients release nothing but what it accounts for."""


def check(privacy: Any, algorithm: str, method: Section | None, norm: str | None, rounds: int) -> None:
    """Refuse what would release more than is accounted for, with the reason in one line."""
    valid = ALGORITHMS[privacy.name]
    if algorithm not in valid:
        raise UserError(
            f"privacy: algorithm {algorithm} sends what is not accounted for; valid under {privacy.name}: "
            f"{', '.join(valid)}"
        )
    if norm == "batch":
        raise UserError("model.norm: got batch; under privacy what is computed of a record must not depend on other "
                        "records; valid: instance, group, layer, none")  # fmt: skip
    if privacy.name == "gradients":
        private_steps.check(method)
    if privacy.name == "features" and type(method) is class_means.Config:
        _check_means(privacy)
    elif privacy.name == "features":
        private_dm.check(method, privacy)
        if "previous" in (privacy.subspace, privacy.centre) and rounds < 2:
            what = "subspace" if privacy.subspace == "previous" else "centre"
            raise UserError(
                f"privacy.{what}: previous looks at the uploads of the round before, and rounds is {rounds}; "
                f"valid: rounds of at least 2, or another {what}"
            )


def _check_means(privacy: Any) -> None:
    """Refuse settings that class means of pixels, one release, do not look at."""
    plain = type(privacy).model_fields
    for key in ("mode", "subspace", "centre"):
        if (value := getattr(privacy, key)) != plain[key].default:
            raise UserError(f"privacy.{key}: got {value}; method class_means releases pixels once and does nothing "
                            f"with it; valid: {plain[key].default}")  # fmt: skip


def vouched(agreed: Any, data: str, model: str) -> Any:
    """The agreement with what is known of these parts of the catalog, or of the user's own (`package.module:Class`)."""
    agreed.data = "assumed" if ":" in data or data == "image_folder" else "enforced"
    agreed.model = "assumed" if ":" in model else "enforced"
    return agreed


def check_data(found: Sequence[str]) -> None:
    """Refuse numbers that were computed from all private images and are seen by everyone."""
    if found:
        what = ", ".join(found)
        raise UserError(
            f"data: {what} would be computed from the private training images and published; valid under privacy: "
            "data.mean and data.std in the config, and an array classes in an npz"
        )


def distiller(agreed: Any, method: Section) -> Distiller:
    """The condensation of a private owner under that agreement."""
    if agreed.config.name == "gradients":
        return private_steps.distiller(method, agreed.config.least)
    if isinstance(method, class_means.Config):
        return class_means.PrivateClassMeans(method, agreed.config)
    return private_dm.PrivateMatching(method, agreed.config)


def releases(privacy: Any, algorithm: Any, method: Any, rounds: int) -> int:
    """Releases that one client makes in so many rounds, at most."""
    if privacy.name == "dp_sgd":
        return rounds * privacy.local_steps(algorithm.local)
    if privacy.name == "gradients":
        return rounds * private_steps.releases(method)
    return 1 if isinstance(method, class_means.Config) else rounds * private_dm.releases(privacy, method)
