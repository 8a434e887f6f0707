"""From numbers about clients to verdicts: robust z-scores, a threshold from clean rounds, what is left out.

    z_k = (s_k − med s) / (1.4826 med |s − med s|)          1.4826: the scale of a Gaussian's deviation

Where more than half of the clients agree the median deviation is 0; then the scale is 1.2533 times the mean absolute
deviation (Iglewicz and Hoaglin), and where all agree every z is 0. With K clients one that differs from K − 1 equal
ones has z = K / 1.2533 then.

A threshold on z is no probability: a round has few clients, clients differ (label skew) and a score that is the
largest of many has a heavy tail. So a default is a place to start, and `threshold_at` takes one from clean rounds.

Source  Iglewicz, Hoaglin, "How to Detect and Handle Outliers", ASQC 1993 (both scales); Vovk, Gammerman, Shafer,
        "Algorithmic Learning in a Random World", Springer 2005 (the threshold is conformal).        Code    none read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedsim.federated.defences import Verdict
from fedsim.types import UserError

LEAST = 3
"""Clients that must hold a class before one of them can differ from the others in it."""
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
    """z of each of `values` among all that are numbers; NaN stays NaN. Differentiable."""
    known = values[~values.isnan()]
    if not len(known):
        return values
    centre = median(known)
    scale = robust_scale(known - centre, known.abs().max())
    return (values - centre) / scale if bool(scale > 0) else (values - values.detach())


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


def threshold_at(clean: Sequence[float], false_positives: float) -> float:
    """A threshold that a further clean score exceeds with probability at most `false_positives`.

    `clean` are scores of clients of rounds without an attacker, of the same federation and settings. The threshold is
    the ⌈(n + 1)(1 − α)⌉-th smallest of them; the bound holds where the next score is exchangeable with them, which
    scores of one round are among each other only roughly. Raises `UserError` for α outside (0, 1), scores that are no
    numbers, and fewer than 1/α − 1 of them.
    """
    if not 0 < false_positives < 1:
        raise UserError(f"false_positives: got {false_positives}; valid: more than 0 and less than 1")
    if odd := [score for score in clean if not math.isfinite(score)]:
        raise UserError(f"clean: got a score of {odd[0]}; valid: finite scores of clients that were judged")
    # a rounding above an integer must not cost a rank
    rank = math.ceil((len(clean) + 1) * (1 - false_positives) - 1e-9)
    if rank > len(clean) or not clean:
        needed = math.ceil(1 / false_positives - 1 - 1e-9)
        raise UserError(
            f"clean: got {len(clean)} scores; a rate of {false_positives:g} takes at least {needed}: more clean "
            "rounds, or a larger rate"
        )
    return sorted(clean)[rank - 1]


def verdicts(clients: Sequence[int], scores: Float[Tensor, "m"], threshold: float) -> list[Verdict]:
    """A client is flagged whose score exceeds the threshold; NaN is no judgement."""
    found = []
    for client, score in zip(clients, scores.tolist(), strict=True):
        judged = not math.isnan(score)
        found.append(Verdict(client, score if judged else 0.0, judged and score > threshold, judged))
    return found
