"""Labels from the gradient of the last layer: of one record by its signs, of a batch by its sums.

    ∂ℓ/∂b_c = p̄_c − n_c / s        so  n_c = s (p̄_c − ∂ℓ/∂b_c)

    n_c  records of class c in a batch of s      p̄_c  mean softmax output for class c over the batch, estimated from
    noise

Source  one record: Zhao et al., 2020 (arXiv 2001.02610); a batch: Wainakh et al., "User-Level Label Leakage from
        Gradients in Federated Learning", PoPETs 2022 (arXiv 2105.09369), who use the weights' rows where this uses
        the bias.
Code    none read for the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.gradient_matching import Observed
from fedsim.models.functional import call
from fedsim.types import UserError


def sign_rule(rows: Float[Tensor, "b k d"]) -> Int64[Tensor, "b"]:
    """The class whose row has no positive inner product with any other: exact for one record and any features.

    With rows that vanish in floating point the class with the fewest positive and the smallest products is taken.
    """
    if rows.shape[1] < 3:
        raise UserError(f"sign rule: got {rows.shape[1]} classes; valid: at least 3, two rows look alike; use row_sum")
    unit = rows / rows.norm(dim=2, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    products = unit @ unit.mT
    others = products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))
    return ((others > 0).sum(2) + 0.1 * others.sum(2) / rows.shape[1]).argmin(1)


def row_sum_rule(rows: Float[Tensor, "b k d"]) -> Int64[Tensor, "b"]:
    """The class whose row has the smallest sum: exact for one record whose features are not negative."""
    return rows.sum(2).argmin(1)


def label_counts(bias: Float[Tensor, "b k"], probability: Float[Tensor, "b k"], records: int) -> Int64[Tensor, "b k"]:
    """n_c of each class, whole numbers that add up to s: estimates cut at 0, then the largest remainders rounded up."""
    estimate = (records * (probability - bias)).double().clamp(min=0)
    estimate = estimate * (records / estimate.sum(1, keepdim=True).clamp(min=1e-12))
    counts = estimate.floor()
    missing = (records - counts.sum(1)).round().long()
    order = (estimate - counts).argsort(dim=1, descending=True, stable=True)
    up = torch.arange(bias.shape[1], device=bias.device) < missing[:, None]
    return counts.long().scatter_add(1, order, up.long())


@torch.no_grad()
def batch_labels(observed: Observed, rng: torch.Generator, samples: int = 256) -> Int64[Tensor, "b s"]:
    """The labels of each target in ascending order; p̄ is that of `samples` images of uniform pixels."""
    noise = torch.rand(samples, *observed.image_shape, generator=rng)
    bias = observed.targets["head.bias"]
    images = observed.normalise.inputs(noise.to(bias))

    def probability(params: dict[str, Tensor]) -> Tensor:
        return call(observed.network, params, "forward", images).softmax(-1).mean(0)

    if observed.stacked:
        means = torch.stack([probability(_one(observed.params, index)) for index in range(observed.problems)])
    else:
        means = probability(observed.params).expand_as(bias)
    counts = label_counts(bias, means, observed.records)
    classes = torch.arange(bias.shape[1], device=bias.device)
    return torch.stack([classes.repeat_interleave(row) for row in counts])


def multiset_accuracy(found: Int64[Tensor, "b s"], true: Int64[Tensor, "b s"], classes: int) -> Float[Tensor, "b"]:
    """Share of the records whose label was found, whatever the order: Σ_c min(n̂_c, n_c) / s."""
    mine, theirs = (torch.nn.functional.one_hot(labels, classes).sum(1) for labels in (found, true))
    return torch.minimum(mine, theirs).sum(1) / found.shape[1]


def _one(params: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: value[index] for name, value in params.items()}
