"""STRIP: an image that keeps its class under whatever is laid over it carries a trigger.

    H(x) = 1/N Σ_j  − Σ_c p_c log₂ p_c        p = softmax f( clip(a x + b o_j) )        suspicious where H is small

    o_j  N overlays, drawn for every image     a, b  weights of image and overlay     clip  to 0..1

A clean image under another one is read as either, or as neither: H is large. A stamp that decides the class alone keeps
H small. Overlays are images of the kind that the network knows; a server of a federation has none but synthetic ones.

Source  Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC
        2019 (arXiv 1902.06531), equations 3 and 4.
Code    TrojanZoo (facts only): weight 0.5, 64 overlays, false positives 5 %. A copy of the authors' code adds with
        weights 1 and 1, clipped: a white stamp stays white then, and is found better (tests/defenses/test_strip.py).
Differs H is the mean over overlays, not their sum. The threshold is conformal (fedsim/training/calibration.py, on −H of
        clean images) in the place of a fitted normal law's quantile: clean entropies are not normal.
Cost    N forward passes of f for every image.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.network import Network
from fedsim.types import UserError


class Config(Section):
    """Settings of STRIP."""

    name: Literal["strip"] = "strip"
    overlays: int = Field(default=64, ge=1)
    """N."""
    image: float = Field(default=0.5, gt=0, le=1)
    """a."""
    overlay: float = Field(default=0.5, gt=0, le=1)
    """b."""


def draw(images: int, overlays: int, config: Config, rng: torch.Generator) -> Int64[Tensor, "m n"]:
    """For each of N rows and every image the position of its overlay, uniformly and with replacement."""
    return torch.randint(0, overlays, (config.overlays, images), generator=rng)


def entropy(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """−Σ_c p_c log₂ p_c in bits, 0..log₂ k."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1) / torch.log(torch.tensor(2.0, device=logits.device))


@torch.no_grad()
def entropies(
    network: Network, images: Images, overlays: Images, normalise: Normalise, config: Config, rng: torch.Generator
) -> Float[Tensor, "n"]:
    """H of every image, in bits; images and overlays are on the device of `network`.

    −H is the score that fedsim/training/calibration.py turns into a threshold, from the entropies of clean images.
    Raises `UserError` where there are no images or overlays.
    """
    if not len(images) or not len(overlays):
        raise UserError(f"strip: got {len(images)} images and {len(overlays)} overlays; valid: at least one of each")
    network.eval()
    total = torch.zeros(len(images), device=images.pixels.device)
    for row in draw(len(images), len(overlays), config, rng).to(images.pixels.device):
        laid = config.image * images.pixels / 255 + config.overlay * overlays.pixels[row] / 255
        total += entropy(network(normalise.inputs(laid.clamp(0, 1))))
    return total / config.overlays
