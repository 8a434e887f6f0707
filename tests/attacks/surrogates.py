"""Surrogates that the tests of the transfer attacks share."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.mi_fgsm import Logits
from fedsim.seeding import stream

CLASSES, SHAPE = 3, (2, 5, 4)


def smooth(seed: int = 0) -> Logits:
    """A random two-layer network with tanh, float64."""
    rng, inputs = stream(seed, "surrogate"), 40
    first = torch.randn(inputs, 16, generator=rng, dtype=torch.float64)
    second = torch.randn(16, CLASSES, generator=rng, dtype=torch.float64)
    return lambda images: torch.tanh((images - 0.5).flatten(1) @ first) @ second


def linear(seed: int = 0) -> tuple[Logits, Tensor]:
    """A linear classifier of two classes and w = w_1 − w_0, shaped as an image: class 1 where ⟨w, x⟩ > 0."""
    weight = torch.randn(SHAPE, generator=stream(seed, "linear"), dtype=torch.float64)
    flat = weight.flatten()
    weights = torch.stack([-flat / 2, flat / 2], 1)
    return lambda images: (images - 0.5).flatten(1) @ weights, weight


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random pixels with some at the ends of 0..1, and classes of which two occur at least."""
    rng = stream(seed, "pictures")
    images = (1.4 * torch.rand((count, *SHAPE), generator=rng, dtype=torch.float64) - 0.2).clamp(0, 1)
    return images, torch.arange(count) % CLASSES
