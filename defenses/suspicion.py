"""From numbers about clients to verdicts: robust z-scores, and what is left out.

    z_k = (s_k − med s) / (1.4826 med |s − med s|)          1.4826: the scale of a Gaussian's deviation

Where more than half of the clients agree the median deviation is 0; then the scale is 1.2533 times the mean absolute
deviation (Iglewicz and Hoaglin), and where all agree every z is 0. With K clients one that differs from K − 1 equal
ones has z = K / 1.2533 then.

A threshold on z is no probability: a round has few clients, clients differ (label skew) and a score that is the
largest of many has a heavy tail. So a default is a place to start; fedsim/training/calibration.py takes one from clean
rounds.

Source  Iglewicz, Hoaglin, "How to Detect and Handle Outliers", ASQC 1993 (both scales).
Code    none read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedsim.federated.defences import Verdict

LEAST = 3
"""Clients that must hold a class before one of them can differ from the others in it."""
MOST = 1e6
"""What an infinite score is told as: verdicts are finite."""
ROUNDING = 1e-6
"""Deviations below this share of the largest value are rounding."""


def median(values: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """The middle value, or the mean of the middle two; differentiable."""
    ordered = values.sort().values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def robust_scale(deviations: Float[Tensor, "n"], size: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Standard deviation of most `deviations` from a median; 0 where they are rounding of values of `size`."""
    sizes = deviations.abs()
    for scale in (1.4826 * median(sizes), 1.2533 * sizes.mean()):
        if bool(scale > ROUNDING * size):
            return scale
    return torch.zeros_like(size)


def robust_z(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """z of each of `values` among all that are finite; NaN stays NaN and ∞ stays ∞. Differentiable."""
    known = values[values.isfinite()]
    if not len(known):
        return values
    centre = median(known)
    scale = robust_scale(known - centre, known.abs().max())
    if bool(scale > 0):
        return (values - centre) / scale
    return torch.where(values.isinf(), values, values - values.detach())


def class_deviations(cells: Float[Tensor, "m k"], held: Bool[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """How far each client's number of a class is from the median of the clients that hold it, in robust deviations.

    `cells` are m clients by k classes. One scale serves all classes, since a class has few clients. NaN where a client
    lacks the class or fewer than `LEAST` hold it. Differentiable.
    """
    compared = held & (held.sum(0) >= LEAST)
    if not bool(compared.any()):
        return torch.full_like(cells, torch.nan)
    centres = [
        median(column[own]) if bool(own.any()) else column.new_zeros(())
        for column, own in zip(cells.T, compared.T, strict=True)
    ]
    apart = cells - torch.stack(centres)
    scale = robust_scale(apart[compared], cells[compared].abs().max())
    found = apart / scale if bool(scale > 0) else apart - apart.detach()
    return found.masked_fill(~compared, torch.nan)


def largest(cells: Float[Tensor, "m k"]) -> Float[Tensor, "m"]:
    """The largest number of each row; NaN where it has none."""
    without = cells.isnan().all(1)
    return cells.nan_to_num(nan=-torch.inf).amax(1).masked_fill(without, torch.nan)


def verdicts(clients: Sequence[int], scores: Float[Tensor, "m"], threshold: float) -> list[Verdict]:
    """A client is flagged whose score exceeds the threshold, as ∞ does, told as `MOST`; NaN is no judgement."""
    found = []
    for client, score in zip(clients, scores.tolist(), strict=True):
        judged = not math.isnan(score)
        told = max(-MOST, min(MOST, score)) if judged else 0.0
        found.append(Verdict(client, told, judged and score > threshold, judged))
    return found
