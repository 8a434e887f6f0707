"""Gradient leakage written slowly: one problem, one weight, one pixel at a time; L-BFGS by its two loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def matching_loss(
    network: nn.Module, images: Tensor, shares: Tensor, target: dict[str, Tensor], angle: bool, variation: float
) -> Tensor:
    """D + λ TV of one problem, with the weights that `network` has."""
    names, weights = zip(*network.named_parameters(), strict=True)
    logits = network(images)
    loss = torch.zeros((), dtype=images.dtype)
    for row in range(len(images)):
        loss = loss - (shares[row] * (logits[row] - torch.logsumexp(logits[row], 0))).sum() / len(images)
    found = dict(zip(names, torch.autograd.grad(loss, weights, create_graph=True), strict=True))
    ours = torch.cat([found[name].reshape(-1) for name in sorted(names)])
    theirs = torch.cat([target[name].reshape(-1) for name in sorted(names)])
    distance = 1 - ours @ theirs / (ours.norm() * theirs.norm()) if angle else ((ours - theirs) ** 2).sum()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    return distance + variation * (down + across)


def local_sgd(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int, rate: float
) -> dict[str, Tensor]:
    """θ − θ_T of plain SGD over consecutive batches; changes `network`."""
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
    for _ in range(epochs):
        for first in range(0, len(images), batch):
            optimiser.zero_grad()
            F.cross_entropy(network(images[first : first + batch]), labels[first : first + batch]).backward()
            optimiser.step()
    return {name: before[name] - weight.detach() for name, weight in network.named_parameters()}


def two_loops(pairs: Sequence[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray) -> np.ndarray:
    """−H g from pairs (s, y), oldest first, by Nocedal's recursion."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alpha = s @ q / (s @ y)
        q = q - alpha * y
        alphas.append(alpha)
    if pairs:
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - y @ q / (s @ y))
    return -q


def minimise(function: Function, start: np.ndarray, evaluations: int, history: int) -> list[float]:
    """The values that L-BFGS with Armijo backtracking accepts, in order, for at most so many evaluations."""
    x, pairs = start, []
    value, gradient = function(x)
    used, accepted = 1, [value]
    direction, step = -gradient, min(1, 1 / np.abs(gradient).sum())
    while used < evaluations:
        slope = float(gradient @ direction)
        trial = x + step * direction
        new, after = function(trial)
        used += 1
        if not (math.isfinite(new) and new <= value + 1e-4 * step * slope):
            parabola = -slope * step**2 / (2 * (new - value - slope * step)) if math.isfinite(new) else 0.0
            step = min(max(parabola, 0.1 * step), 0.5 * step)
            continue
        s, y = trial - x, after - gradient
        if s @ y > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
            pairs = [*pairs, (s, y)][-history:]
        x, value, gradient = trial, new, after
        accepted.append(value)
        direction, step = two_loops(pairs, gradient), 1.0
    return accepted


def structural_similarity(a: np.ndarray, b: np.ndarray, window: int) -> float:
    """SSIM of two images (c, h, w) of pixels in 0..1: window after window."""
    half = (window - 1) / 2
    weights = np.array(
        [[math.exp(-((i - half) ** 2 + (j - half) ** 2) / (2 * 1.5**2)) for j in range(window)] for i in range(window)]
    )
    weights /= weights.sum()
    found = []
    for left, right in zip(a, b, strict=True):
        for i in range(left.shape[0] - window + 1):
            for j in range(left.shape[1] - window + 1):
                p, q = left[i : i + window, j : j + window], right[i : i + window, j : j + window]
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
                cov = (weights * (p - mean_p) * (q - mean_q)).sum()
                above = (2 * mean_p * mean_q + 1e-4) * (2 * cov + 9e-4)
                found.append(above / ((mean_p**2 + mean_q**2 + 1e-4) * (var_p + var_q + 9e-4)))
    return float(np.mean(found))
