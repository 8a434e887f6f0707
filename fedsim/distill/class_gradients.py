"""Gradients of the mean cross-entropy over the weights, class by class: what gradient matching compares.

    g_c = 1/|B_c| Σ_{x ∈ B_c} ∇_θ ℓ(φ_θ(x), c)

    B_c   a batch of class c        φ_θ   the network with weights θ        ℓ   cross-entropy

The real side is a constant of the loss: first order, in pieces, compiled if the runner is. The synthetic side must be
differentiated once more, by its images. torch.compile has no double backward; where the runner is compiled, g_c, the
distance and its gradient are traced together through torch.func, and that one graph is compiled. A batch norm would
make the rows of a batch, and with it the pieces, see one another: `require_independent_rows` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from torch import Tensor

from fedsim.distill.base import Task
from fedsim.models.execution import Runner, wide
from fedsim.models.functional import call, has_batch_norm
from fedsim.types import Params, UserError

Gradients = dict[str, Tensor]
"""Name of a weight → its gradient, in the network's order."""
Distance = Callable[[Gradients, Gradients], Tensor]
"""D(ours, theirs) ≥ 0."""
RealSide = Callable[[Task, Any, Any, torch.Generator], Iterable[Gradients]]
"""(task, state, views of a step, rng) → g_c of each class present; a private owner: gradient/private_gradients.py."""
FEW = 1536
"""Pixels of a batch up to which the vectorised pass is the faster one on a CPU."""
Batch = tuple[Tensor, Tensor]
"""Images of a class, and their labels: classes, or shares of classes."""
Matched = tuple[list[Tensor], Tensor]
"""Gradients of D by the parts of a batch that have one, and D itself."""


def first_order(
    runner: Runner, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"] | Float[Tensor, "n k"]
) -> Gradients:
    """Gradient of the batch's mean cross-entropy, a constant; labels may be shares of classes. Pieces add up."""
    weights = dict(runner.network.named_parameters())
    total: Gradients = {}
    size = runner.rows(len(images))
    for inputs, targets in zip(images.split(size), labels.split(size), strict=True):
        loss = F.cross_entropy(runner.logits(inputs), targets, reduction="sum") / len(images)
        parts = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        if not total:  # the first part in its own memory format: adding to another one costs a third of the time
            total = parts
        else:
            for name, part in parts.items():
                total[name] += part
    return total


def by_class(rows: Shaped[Tensor, "m ..."], sizes: Sequence[int]) -> list[Tensor]:
    """The rows of each class that has any, when so many of each follow one another."""
    return [part for part in rows.split(list(sizes)) if len(part)]


def second_order(
    runner: Runner, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"] | Float[Tensor, "n k"]
) -> Gradients:
    """Gradient of the batch's mean cross-entropy, differentiable in `images` and in labels that are shares of classes.

    The network is run as written, never compiled.
    """
    runner = Runner(runner.network, replace(runner.execution, compile=False))
    loss = F.cross_entropy(runner.logits(images), labels)
    weights = dict(runner.network.named_parameters())
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return dict(zip(weights, found, strict=True))


def second_order_together(
    runner: Runner, batches: Sequence[Float[Tensor, "_ c h w"]], labels: Sequence[Tensor]
) -> list[Gradients]:
    """`second_order` of several batches, with their labels, in one vectorised pass.

    Smaller batches are padded with rows of weight 0. It passes whole batches, whatever the runner's pieces.
    """
    sizes = torch.tensor([len(batch) for batch in batches])
    most = int(sizes.max())
    padded, targets = _padded(batches, most), _padded(labels, most)
    share = ((torch.arange(most) < sizes[:, None]) / sizes[:, None].double()).to(padded.device)
    state = {name: value.detach() for name, value in runner.network.state_dict().items()}
    names = [name for name, _ in runner.network.named_parameters()]

    def loss(weights: Gradients, images: Tensor, target: Tensor, part: Tensor) -> Tensor:
        with runner.autocast(images.device.type):
            logits = wide(call(runner.network, state | weights, "forward", images))
        return (F.cross_entropy(logits, target, reduction="none") * part.to(logits.dtype)).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))
    found = each({name: state[name] for name in names}, padded, targets, share)
    return [{name: found[name][index] for name in names} for index in range(len(batches))]


def distance_gradients(
    runner: Runner,
    ours: Sequence[Batch],
    theirs: Iterable[Gradients],
    distance: Distance,
    batching: Literal["auto", "loop", "vmap"] = "auto",
) -> Iterator[Matched]:
    """D(g(batch), theirs) of each batch after its gradient by the images, and by labels that are shares: constants."""
    way = faster(runner, ours) if batching == "auto" else batching
    return (one_by_one if way == "loop" else together)(runner, ours, theirs, distance)


def faster(runner: Runner, ours: Sequence[Batch]) -> Literal["loop", "vmap"]:
    """How to take the gradients of all classes: one after another, or in one vectorised pass.

    As measured on one CPU thread, ten classes, ms a step as loop, vmap, compiled loop: ten images each at 8×8
    (ConvNet-2-32) 42, 22, 9; at 16×16 (ConvNet-3-64) 107, 118, 49; at 32×32 (ConvNet-3-128) 742, 1696, 460, one image
    each 118, 100, 78. A rule and no measurement in the run: one seed gives one set. On a GPU, where nothing was
    measured, the vectorised pass, which fills it with one launch for all classes.
    """
    images = ours[0][0]
    if runner.execution.compile:
        return "loop"
    few = max(len(batch) for batch, _ in ours) * images.shape[-1] * images.shape[-2] <= FEW
    return "vmap" if few or images.device.type == "cuda" else "loop"


def one_by_one(
    runner: Runner, ours: Sequence[Batch], theirs: Iterable[Gradients], distance: Distance
) -> Iterator[Matched]:
    """Class after class, so that only one class's graph is alive.

    Where the runner is compiled, batches of the largest size share one graph; `distance` must then be one function
    that keeps its identity.
    """
    most = max(len(images) for images, _ in ours)
    for (images, labels), target in zip(ours, theirs, strict=True):
        if runner.execution.compile and len(images) == most:
            yield _traced(runner, images, labels, target, distance)
        else:
            leaves = _leaves((images, labels))
            loss = distance(second_order(runner, leaves[0], leaves[1] if len(leaves) > 1 else labels), target)
            yield list(torch.autograd.grad(loss, leaves)), loss.detach()


def together(
    runner: Runner, ours: Sequence[Batch], theirs: Iterable[Gradients], distance: Distance
) -> Iterator[Matched]:
    """`one_by_one` in one vectorised pass, as written."""
    leaves = [_leaves(batch) for batch in ours]
    labels = [leaf[1] if len(leaf) > 1 else batch[1] for leaf, batch in zip(leaves, ours, strict=True)]
    found = second_order_together(runner, [leaf[0] for leaf in leaves], labels)
    losses = [distance(own, target) for own, target in zip(found, theirs, strict=True)]
    flat = iter(torch.autograd.grad(torch.stack(losses).sum(), [one for leaf in leaves for one in leaf]))
    for leaf, loss in zip(leaves, losses, strict=True):
        yield [next(flat) for _ in leaf], loss.detach()


def _leaves(batch: Batch) -> list[Tensor]:
    """What a distance is differentiated by: the images, and labels that are shares of classes."""
    return [one.detach().requires_grad_() for one in batch if one.is_floating_point()]


def _traced(runner: Runner, images: Tensor, labels: Tensor, theirs: Gradients, distance: Distance) -> Matched:
    """One batch of `one_by_one` as one compiled graph, traced at the first batch of its size."""
    trained = {name for name, _ in runner.network.named_parameters()}
    shares = labels.is_floating_point()

    def found(state: Params, images: Tensor, labels: Tensor, theirs: Gradients) -> Any:
        weights = {name: value for name, value in state.items() if name in trained}

        def loss(weights: Gradients, images: Tensor, labels: Tensor) -> Tensor:
            with runner.autocast(images.device.type):
                logits = wide(call(runner.network, state | weights, "forward", images))
            return F.cross_entropy(logits, labels)

        def apart(images: Tensor, labels: Tensor) -> Tensor:
            return distance(torch.func.grad(loss)(weights, images, labels), theirs)

        return torch.func.grad_and_value(apart, argnums=(0, 1) if shares else (0,))(images, labels)

    state = {name: value.detach() for name, value in runner.network.state_dict().items()}
    layout = torch.channels_last if runner.execution.channels_last else torch.contiguous_format
    images = images.detach().contiguous(memory_format=layout)
    theirs = {name: gradient.contiguous() for name, gradient in theirs.items()}  # a trace is of one memory format
    name = (distance, tuple(images.shape), shares)
    gradients, value = runner.traced(name, found, state, images, labels.detach(), theirs)
    return list(gradients), value


def _padded(batches: Sequence[Tensor], most: int) -> Tensor:
    """One tensor of batches of `most` rows each; those that are added are 0."""
    return torch.stack([F.pad(batch, (0, 0) * (batch.ndim - 1) + (0, most - len(batch))) for batch in batches])


def real_batches(
    task: Task, per_class: int, rng: torch.Generator
) -> list[UInt8[Tensor, "_ c h w"] | Float32[Tensor, "_ c h w"]]:
    """Up to `per_class` random real images (0: all) of each class that has a budget."""
    budget = task.budget.cpu()
    most = torch.full_like(budget, per_class) if per_class else task.real.counts
    pixels, labels = task.real.subset(torch.where(budget > 0, most, 0), rng)
    return by_class(pixels, torch.bincount(labels, minlength=len(budget)).tolist())


def real_batch(task: Task, per_class: int, rng: torch.Generator) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, "n"]]:
    """Up to `per_class` random real images (0: all) of each class that has a budget, with their labels."""
    parts = real_batches(task, per_class, rng)
    sizes = torch.tensor([len(part) for part in parts])
    labels = torch.repeat_interleave(task.present.cpu(), sizes).to(task.device)
    return task.normalise(torch.cat(parts)), labels


def real_gradients(
    task: Task, per_class: int, see: Callable[[Tensor, int], Tensor], rng: torch.Generator
) -> Iterator[Gradients]:
    """g_c of each class that has a budget: up to `per_class` random real images (0: all), as `see` shows them."""
    batches = real_batches(task, per_class, rng)
    for label, images in zip(task.present.tolist(), batches, strict=True):
        seen = see(task.normalise(images), label)
        yield first_order(task.runner, seen, torch.full((len(seen),), label, device=task.device))


def no_class_sums(params: Params, draws: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For sources of networks that would keep real class sums, which gradient matching has no use for."""
    raise AssertionError("the settings refuse such a source")


def require_independent_rows(method: str, task: Task) -> None:
    """Raise `UserError` for a network with batch norm, and for owners that would be condensed together."""
    if has_batch_norm(task.network):
        raise UserError(
            f"method {method} matches gradients class by class, and a batch norm would normalise each class by itself; "
            f"choose another model.norm"
        )
    if task.owners > 1:
        raise UserError(
            f"method {method} trains its network on the owner's own images, so owners cannot share it; "
            f"give method.networks without shared"
        )
