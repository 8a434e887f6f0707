"""Projected descent with plain Python numbers, one coordinate at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def sgd(start: float, gradients: Sequence[float], lr: float, momentum: float, low: float, high: float) -> list[float]:
    """x₁, x₂, … of one coordinate: v ← μ v + g, x ← Π(x − η v)."""
    x, v, path = start, 0.0, []
    for gradient in gradients:
        v = momentum * v + gradient
        x = min(max(x - lr * v, low), high)
        path.append(x)
    return path


def adam(start: float, gradients: Sequence[float], lr: float, low: float, high: float) -> list[float]:
    """x₁, x₂, … of one coordinate by Algorithm 1 of Kingma and Ba, projected."""
    x, m, q, path = start, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        q = 0.999 * q + 0.001 * gradient**2
        step = m / (1 - 0.9**t) / (math.sqrt(q / (1 - 0.999**t)) + 1e-8)
        x = min(max(x - lr * step, low), high)
        path.append(x)
    return path
