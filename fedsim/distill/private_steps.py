"""Which methods can be private step by step (`privacy: gradients`), and why the others cannot."""

from __future__ import annotations

from typing import Any

from fedsim.config import Section
from fedsim.distill.base import Distiller
from fedsim.distill.distribution import dm
from fedsim.distill.distribution.private_pixels import PrivatePixels
from fedsim.distill.gradient import dc, dsa, idc, meta_knowledge
from fedsim.distill.gradient.private_gradients import PrivateGradients
from fedsim.distill.networks import FreshConfig, PerturbConfig
from fedsim.types import UserError

SERVED = (dc.Config, dsa.Config, idc.Config, meta_knowledge.Config, dm.Config)
"""Settings of methods whose real side is a sum of one vector per record."""

VALID = "dc, dsa, idc, meta_knowledge, dm"
SELECTS = "it uploads real images"
REFUSED = dict.fromkeys(("random", "herding", "k_center", "forgetting", "k_means"), SELECTS) | {
    "model_augmentation": "its early networks are trained on real images",
    "cafe": "its discrimination term scores every real image against the class centres of others",
    "datadam": "its attention is normalised over a sum, so that no record has a part of the gradient of its own",
    "dd": "it learns rates beside images from the same gradients, and no clipped form of that is built",
    "class_means": "it takes one sum of pixels and no gradient; privacy: features releases that once",
    "ncfm": "its characteristic functions enter the loss by a modulus and a phase of their mean over real images",
}
"""Why other methods of the catalog cannot be private in this way."""
OTHER = "no bound is known on what one record adds to its gradients (experts trained on real images have none)"


def check(method: Section | None) -> Any:
    """Settings that a release per step can serve; anything else is refused with the reason in one line."""
    config: Any = method
    if type(config) not in SERVED:
        name = getattr(config, "name", "?")
        raise UserError(f"privacy: method {name}: {REFUSED.get(name, OTHER)}; valid: {VALID}")
    if config.init != "noise":
        raise UserError(f"method.init: got {config.init}; under privacy real images never leave; valid: noise")
    if config.batch_real:
        raise UserError(
            f"method.batch_real: got {config.batch_real}; a batch of so many per class tells which classes are small; "
            "valid under privacy: 0, and privacy.rate to sample records"
        )
    if config.networks is not None and type(config.networks) not in (FreshConfig, PerturbConfig):
        name = getattr(config.networks, "name", "?")
        reason = {
            "early": "its networks are trained on real images",
            "pool": "it keeps class sums, and here every step is a release; privacy: features releases a pool",
        }.get(name, "nothing is known of the real images it may use")
        raise UserError(f"method.networks: {name}: {reason}; valid: fresh, perturb")
    if getattr(config, "train_on", "synthetic") == "real":
        raise UserError(
            "method.train_on: got real; its network would learn from real images in every step, which no release of "
            "gradients pays for; valid under privacy: synthetic"
        )
    return config


def distiller(method: Section, least: float) -> Distiller:
    """The condensation of a private owner."""
    config = check(method)
    return PrivatePixels(config, least) if isinstance(config, dm.Config) else PrivateGradients(config, least)


def releases(method: Any) -> int:
    """One for every step of a round."""
    return int(method.iterations)
