"""Rules that make one vector of the vectors of K clients, some of which lie.

    mean           Σ_k p_k g_k                                          p_k  share of client k, Σ p = 1
    norm_clip      Σ_k p_k g_k min(1, C / ‖g_k‖)                        C    c times the median of the norms
    median         coordinate by coordinate
    trimmed_mean   the same, the mean of what is left without the f largest and the f smallest
    krum           g of the smallest s_k;  s_k = Σ ‖g_k − g_j‖² over its K − f − 2 nearest others
    multi_krum     mean of the m of smallest s_k

    g_k  vector of client k      f  clients that may lie      m  by default K − f

Source  Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
        Descent", NeurIPS 2017, arXiv 1703.02757, section 4 (Krum, Multi-Krum; 2f + 2 < K). Yin, Chen, Ramchandran,
        Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv
        1803.01498, Definitions 1 and 2 (median, trimmed mean). Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor
        Federated Learning?", arXiv 1911.07963, 2019, section 4.1 (norm clipping).
Code    Flower 1.41 (Apache-2.0) chooses and trims the same vectors (tests). Its distances are ‖g‖² + ‖h‖² − 2 g·h in
        the type of the weights, which loses those that are small beside g; here they are taken from differences.
Differs the bound of norm_clip is not a constant: norms of gradients fall while a network learns.
Reduces all g equal: any rule gives that g. f = 0: trimmed_mean and multi_krum are the mean with equal shares.
Cost    K² distances for the two Krums, a sort of every coordinate over K for median and trimmed_mean.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from defenses.suspicion import median as middle
from fedsim.types import UserError

Rule = Literal["mean", "norm_clip", "median", "trimmed_mean", "krum", "multi_krum"]


def clip_factors(vectors: Float[Tensor, "m p"], multiple: float) -> Float[Tensor, "m"]:
    """min(1, C / ‖g_k‖) with C = `multiple` times the median norm; 1 for a vector of zeros."""
    norms = vectors.norm(dim=1)
    bound = multiple * middle(norms)
    return torch.where(norms > bound, bound / norms.clamp(min=torch.finfo(norms.dtype).tiny), 1.0)


def median(vectors: Float[Tensor, "m p"]) -> Float[Tensor, "p"]:
    """The middle of each coordinate; of an even number of clients the mean of the middle two."""
    ordered, count = vectors.sort(0).values, len(vectors)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def trimmed_mean(vectors: Float[Tensor, "m p"], malicious: int) -> Float[Tensor, "p"]:
    """Mean of each coordinate without its f largest and f smallest. Raises `UserError` where 2f < K does not hold."""
    require("trimmed_mean", len(vectors), malicious)
    return vectors.sort(0).values[malicious : len(vectors) - malicious].mean(0)


def krum_scores(vectors: Float[Tensor, "m p"], malicious: int) -> Float[Tensor, "m"]:
    """Sum of each vector's squared distances to its K − f − 2 nearest others; `UserError` unless 2f + 2 < K."""
    require("krum", len(vectors), malicious)
    # float64: a float32 square overflows at 1e19, and a liar may send that
    wide = vectors.double()
    squares = torch.stack([(wide - one).square().sum(1) for one in wide])
    others = squares.fill_diagonal_(torch.inf).sort(1).values
    return others[:, : len(vectors) - malicious - 2].sum(1)


def chosen_by_krum(vectors: Float[Tensor, "m p"], malicious: int, count: int) -> Float[Tensor, "m"]:
    """The share that each client has in the mean of the `count` of smallest score; of equal ones the first."""
    if not 1 <= count <= len(vectors):
        raise UserError(f"keep: got {count} of {len(vectors)} uploads; valid: 1 to {len(vectors)}")
    best = krum_scores(vectors, malicious).sort(stable=True).indices[:count]
    return vectors.new_zeros(len(vectors)).index_fill(0, best, 1 / count)


def needed(rule: Rule, malicious: int) -> int:
    """The smallest number of clients for which a rule stands f that lie."""
    return {"trimmed_mean": 2 * malicious + 1, "krum": 2 * malicious + 3, "multi_krum": 2 * malicious + 3}.get(rule, 1)


def require(rule: Rule, clients: int, malicious: int) -> None:
    """Raise `UserError` where there are too few clients for the rule."""
    if clients < (least := needed(rule, malicious)):
        raise UserError(
            f"robust_aggregation: {rule} with malicious={malicious} got {clients} uploads; valid: at least {least}: "
            "lower malicious, or raise participation.min_replies or the number of clients"
        )


def combine(
    vectors: Float[Tensor, "m p"], shares: Float[Tensor, "m"], rule: Rule, malicious: int, keep: int | None, clip: float
) -> tuple[Float[Tensor, "p"], Float[Tensor, "m"] | None]:
    """The vector that `rule` makes, and what each client's counts for in it; None where that differs by coordinate.

    `shares` are p; `keep` is m, None for K − f; `clip` is c.
    """
    require(rule, len(vectors), malicious)
    if rule == "median":
        return median(vectors), None
    if rule == "trimmed_mean":
        return trimmed_mean(vectors, malicious), None
    if rule == "norm_clip":
        shares = shares * clip_factors(vectors, clip)
    elif rule != "mean":
        count = 1 if rule == "krum" else keep or len(vectors) - malicious
        shares = chosen_by_krum(vectors, malicious, count)
    # a vector that counts for nothing may be infinite: 0 × inf is no number
    counted = torch.where(shares[:, None] > 0, vectors, 0)
    return shares @ counted, shares
