"""A twice differentiable stand-in for a ReLU network, sharpened in stages.

    relu(z) ≈ softplus_β(z) = ln(1 + e^{βz}) / β        β₁ < β₂ < …, each stage starts where the one before ended

The second derivative of a ReLU is 0 almost everywhere, so that matching its gradients gives a minimiser no curvature.
The targets are still those of the ReLU network; therefore attempts are compared by the gradient loss of that network
itself.

Source  the annealed softplus: Loo, Hasani, Lechner, Amini, Rus, "Understanding Reconstruction Attacks with the Neural
        Tangent Kernel and Dataset Distillation", ICLR 2024 (arXiv 2302.01428).
Code    yolky/understanding_reconstruction (facts only): β from 11 to 200 over an Adam run.
Differs stages of constant β instead of one that grows at every step: L-BFGS needs a function that stays what it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.attempts import Minimum
from attacks.gradient_matching import Matching
from attacks.lbfgs import Search, minimise
from fedsim.models.network import Network
from fedsim.types import UserError


def softplus(network: Network, beta: float) -> Network:
    """A copy in which every ReLU is a softplus of sharpness `beta`. The names of its weights are the same."""
    if not beta > 0:
        raise UserError(f"softplus: got {beta}; valid: a sharpness above 0")
    smooth = copy.deepcopy(network)
    found = 0
    for module in list(smooth.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta))
                found += 1
    if not found:
        raise UserError(f"softplus: {type(network).__name__} has no ReLU module; leave softplus empty")
    return smooth


def annealed(matching: Matching, search: Search, sharpness: Sequence[float], rng: torch.Generator) -> Minimum:
    """L-BFGS on `matching` itself, or, with any `sharpness`, on its smooth copies in turn; the best by its own loss."""
    seen = matching.observed
    start = matching.start(search.restarts, rng)
    if not sharpness:
        return minimise(matching, seen.problems, start, search)
    stages = [replace(matching, observed=replace(seen, network=softplus(seen.network, beta))) for beta in sharpness]
    once = replace(search, restarts=1)
    best: Minimum | None = None
    for attempt in range(search.restarts):
        points = torch.stack([start(problem, attempt) for problem in range(seen.problems)])
        taken = torch.zeros(seen.problems, dtype=torch.int64)
        for stage in stages:
            found = minimise(stage, seen.problems, _from(points), once)
            points, taken = found.variables, taken + found.iterations
        loss = scores(matching, points, search.width)
        best = _better(best, Minimum(points, loss, taken, torch.full_like(taken, attempt + 1)))
    assert best is not None
    return best


def scores(matching: Matching, points: Tensor, width: int) -> Tensor:
    """The gradient loss of all problems, `width` at a time; infinite where it is not a number."""
    rows = torch.arange(len(points), device=points.device)
    found = [matching.score(part, points[part]) for part in rows.split(width)]
    return torch.nan_to_num(torch.cat(found), nan=float("inf"))


def _from(points: Tensor):
    return lambda problem, _attempt: points[problem]


def _better(best: Minimum | None, other: Minimum) -> Minimum:
    """Problem by problem, what has the smaller loss; steps add up."""
    if best is None:
        return other
    wins = other.loss < best.loss
    variables = torch.where(wins[:, None], other.variables, best.variables)
    loss = torch.where(wins, other.loss, best.loss)
    return Minimum(variables, loss, best.iterations + other.iterations, other.attempts)
