"""LPIPS on AlexNet as a squared Euclidean distance of one vector per image, where its weights are on disk.

    LPIPS(a, b) = Σ_l 1/(h_l w_l) Σ_{i,j} Σ_c v_lc (â_l − b̂_l)²_cij  =  ‖φ(a) − φ(b)‖²

    â_l  activations after the l-th of AlexNet's five convolutions, of length 1 at every place      v  weights ≥ 0
    φ    all √(v_lc/(h_l w_l)) â_lcij of an image

Images are in 0..1, grey ones in three equal channels, and enlarged to 64 pixels a side where they are smaller.

Source  Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        CVPR 2018 (arXiv 1801.03924).
Code    richzhang/PerceptualSimilarity (BSD, facts only): version 0.1; shift and scale of the input, 1e-10 beside norms.
Differs all pairs by one vector for each image; images are enlarged by bilinear interpolation, the paper compares at 64.
Cost    a pass of AlexNet and 31,872 numbers for each image of 64 × 64.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from fedsim.data.torchvision_binary import ensure_operators
from fedsim.types import UserError

FILES = ("alexnet-owt-7be5be79.safetensors", "alex.safetensors")
"""Torchvision's AlexNet, and the weights v of LPIPS 0.1: the published .pth files, converted, as no pickle is read."""
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('NAME.pth', weights_only=True), 'NAME.safetensors')\""
)
"""What turns a published file into one that is read."""
SIDE, CHUNK = 64, 128
"""Least side of an image; images of one pass."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pixels in −1..1."""
AFTER = (1, 4, 7, 9, 11)
"""Places of the five activations in torchvision's `features`."""


def folder() -> Path:
    """Where the weights are looked for: FEDSIM_LPIPS, else `lpips` in FEDSIM_DATA, else in ./data."""
    return Path(os.environ.get("FEDSIM_LPIPS") or Path(os.environ.get("FEDSIM_DATA") or "data") / "lpips").expanduser()


def lacking() -> str:
    """Why LPIPS cannot be computed here; empty where it can."""
    absent = [name for name in FILES if not (folder() / name).is_file()]
    if not absent:
        return ""
    return (
        f"the weights of LPIPS are not on disk: {', '.join(absent)}, in FEDSIM_LPIPS or FEDSIM_DATA/lpips; convert the "
        f"published files where you trust them: {CONVERT}"
    )


def load() -> tuple[nn.Sequential, list[Tensor]]:
    """AlexNet's convolutions, and v of each of the five layers; `UserError` without the files."""
    if reason := lacking():
        raise UserError(f"lpips: {reason}")
    return _loaded(folder())


@cache
def _loaded(place: Path) -> tuple[nn.Sequential, list[Tensor]]:
    ensure_operators()
    from torchvision.models import alexnet

    backbone, heads = (load_file(place / name) for name in FILES)
    with torch.device("meta"):
        layers = alexnet(weights=None).features
    layers = layers.to_empty(device="cpu")
    prefix = "features."
    layers.load_state_dict({name[len(prefix) :]: one for name, one in backbone.items() if name.startswith(prefix)})
    weights = [heads[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(AFTER))]
    if any((one < 0).any() for one in weights):
        raise UserError(f"lpips: got weights below 0 in {place / FILES[1]}; valid: the published file")
    return layers.eval(), weights


@torch.no_grad()
def vectors(images: Float[Tensor, "n c h w"], layers: nn.Sequential, weights: list[Tensor]) -> Float[Tensor, "n d"]:
    """φ of pixels in 0..1."""
    return torch.cat([_vectors(part, layers, weights) for part in images.float().split(CHUNK)])


def _vectors(images: Tensor, layers: nn.Sequential, weights: list[Tensor]) -> Tensor:
    seen = images.expand(-1, 3, -1, -1) * 2 - 1
    if min(seen.shape[-2:]) < SIDE:
        sides = [max(SIDE, side) for side in seen.shape[-2:]]
        seen = F.interpolate(seen, size=sides, mode="bilinear", align_corners=False)
    shift, scale = (torch.tensor(one).view(1, 3, 1, 1) for one in (SHIFT, SCALE))
    seen, found = (seen - shift) / scale, []
    for place, layer in enumerate(layers):
        seen = layer(seen)
        if place in AFTER:
            unit = seen / (seen.square().sum(1, keepdim=True).sqrt() + 1e-10)
            share = weights[len(found)] / (seen.shape[-2] * seen.shape[-1])
            found.append((share.sqrt().view(1, -1, 1, 1) * unit).flatten(1))
    return torch.cat(found, 1)
