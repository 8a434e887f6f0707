"""The gradient methods as a private owner runs them, each step as loops, and what neighbours' releases differ by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.data.images import Images
from fedsim.distill.base import Task
from fedsim.distill.gradient import dc, dsa, idc, meta_knowledge
from fedsim.distill.gradient.private_gradients import PrivateGradients
from fedsim.distill.networks import PerturbConfig, Radius
from fedsim.privacy import mechanism as sums
from fedsim.privacy import pooled
from fedsim.privacy.mechanism import Mechanism
from fedsim.runs import load_tensors
from fedsim.seeding import Streams, stream
from tests.reference import dc as loops
from tests.reference import dm as problem
from tests.reference import meta_knowledge as meta
from tests.reference import private_gradients as reference
from tests.reference.private_gradients import COUNTS, MECHANISM, doubled, task

LEAST = 2.0
AROUND = PerturbConfig(radius=Radius(absolute=1.0))
SHARED: dict[str, Any] = {"ipc": 2, "batch_real": 0, "lr": 0.2, "momentum": 0.0, "optimiser": "sgd", "networks": AROUND}
LOOP: dict[str, Any] = SHARED | {"outer": 2, "inner": 1, "lr_net": 0.1, "iterations": 4}
ONE = DSAConfig(strategy=("crop", "flip"))
METHODS: dict[str, Any] = {
    "dc": dc.Config(**LOOP),
    "dc mse": dc.Config(**LOOP, metric="mse"),
    "dsa": dsa.Config(**LOOP, augment=ONE),
    "idc": idc.Config(**LOOP, train_on="synthetic", formation=1, augment=None, cutmix=0.0),
    "meta_knowledge": meta_knowledge.Config(**SHARED, iterations=4, inner_steps=2, inner_lr=0.3, restart=2),
}
DISTANCES = {"dc": loops.cosine, "dc mse": loops.squared, "dsa": loops.cosine, "idc": loops.squared}


def method(name: str, **changes: Any) -> PrivateGradients:
    return PrivateGradients(METHODS[name].model_copy(update=changes), LEAST)


def begun(here: Task, one: PrivateGradients) -> Any:
    one.prepare(here, stream(0))
    return doubled(one.init(here, None, stream(1)))


# --- the equations ---


def matched(
    here: Task, name: str, params: Any, pixels: Tensor, draws: Tensor | None, images: Images, mechanism: Mechanism
) -> Tensor:
    """Σ_c D of loops, the real side clipped record by record."""
    labels, distance = here.labels(), DISTANCES[name]

    def look(images: Tensor, label: int) -> Tensor:
        if draws is None:
            return images
        return augment(images, torch.zeros(len(images), dtype=torch.int64), draws[label : label + 1], ONE)

    def gradient(images: Tensor, label: int) -> dict[str, Tensor]:
        found = loops.gradient(here.network, params, look(images, label), torch.full((len(images),), label))
        dimensions = {"dc mse": (1, 2, 3, 4), "idc": (4,)}.get(name, (2, 4))
        return {key: value for key, value in found.items() if value.ndim in dimensions}

    def row(image: Tensor, label: int) -> Tensor:
        return torch.cat([one.detach().flatten() for one in gradient(image[None], label).values()])

    found, counts = reference.class_sums(images, here.num_classes, row, mechanism)
    total = torch.zeros((), dtype=torch.float64)
    for label, (one, count) in enumerate(zip(found, counts, strict=True)):
        ours = gradient(pixels[labels == label], label)
        mean = one / max(count, LEAST)
        flat = mean if isinstance(mean, Tensor) else torch.zeros(sum(own.numel() for own in ours.values())).double()
        parts = flat.split([own.numel() for own in ours.values()])
        theirs = {key: part.view(ours[key].shape) for key, part in zip(ours, parts, strict=True)}
        total = total + distance(ours, theirs)
    return total


def apart(folder: Path, name: str) -> float:
    """How far the images are after a step from where the loops put them, over the length of the step."""
    data = problem.images(COUNTS)
    mechanism = between(folder / "norms", name, data)
    here, one = task(folder, mechanism, real=data), method(name)
    state = begun(here, one)
    before, rng = state.pixels.clone().requires_grad_(), stream(2)
    if name == "meta_knowledge":
        params = one.method._network(here, None, rng, 0)
        moved = weighted(here, params, before, data, one.config, mechanism)
    else:
        draws = Streams(int(torch.randint(2**62, (), generator=rng)))
        views = one.method.views(here, draws.generator("views"))
        params = one.method.source.draw(here, None, rng, 0).params
        moved = torch.autograd.grad(matched(here, name, params, before, views, data, mechanism), before)[0]
    one.step(here, None, state, stream(2))
    expected = here.normalise.project(before.detach() - one.config.lr * moved)
    return float((state.pixels - expected).norm() / (one.config.lr * moved).norm())


def weighted(
    here: Task, params: Any, pixels: Tensor, images: Images, config: meta_knowledge.Config, mechanism: Mechanism
) -> Tensor:
    """∂⟨w′, g⟩/∂S of loops, φ_i ∇ℓ(w′; x_i) clipped record by record."""
    after = meta.trained(here.network, params, pixels, here.labels(), config.inner_lr, config.inner_steps)
    names = [name for name, _ in here.network.named_parameters()]
    fixed = {name: value.detach() for name, value in after.items()}

    def row(image: Tensor, label: int) -> Tensor:
        own = fixed | {name: fixed[name].clone().requires_grad_() for name in names}
        phi = meta.phi(float(meta.record_loss(here.network, params, image, label).detach()), config.tau)
        each = torch.autograd.grad(meta.record_loss(here.network, own, image, label), [own[name] for name in names])
        return phi * torch.cat([one.flatten() for one in each])

    found, counts = reference.class_sums(images, here.num_classes, row, mechanism)
    total = torch.stack([one for one in found if isinstance(one, Tensor)]).sum(0) / max(sum(counts), LEAST)
    parts = total.split([after[name].numel() for name in names])
    pairs = ((after[name], part.view(after[name].shape)) for name, part in zip(names, parts, strict=True))
    inner = torch.stack([(ours * theirs).sum() for ours, theirs in pairs]).sum()
    return torch.autograd.grad(inner, pixels)[0]


def between(folder: Path, name: str, images: Images) -> Mechanism:
    """Clips to the middle norm of the records, so that some are beyond the ball and some within it."""
    norms = added(folder, name, MECHANISM, images).norm(dim=1)
    return Mechanism(float(norms.median()), kappa=0.25, sigma=0.5)


# --- neighbours ---


def neighbours(folder: Path, name: str, trials: int = 6) -> Iterator[float]:
    """Distances of the first releases of neighbouring clients under no noise, over the stated bound."""
    for trial in range(trials):
        rng = stream(trial)
        images = problem.images((3, 1, 0, 2), seed=trial)
        index = int(torch.randint(len(images.labels), (), generator=rng))
        keep = torch.arange(len(images.labels)) != index
        other, labels = images.pixels.clone(), images.labels.clone()
        other[index], labels[index] = 255 - other[index], (labels[index] + 1) % 4
        versions = [images, Images(images.pixels[keep], images.labels[keep]), Images(other, labels)]
        found = []
        for version, data in enumerate(versions):
            here, one = task(folder / f"{trial}-{version}", real=data), method(name)
            found.append(first_release(here, one))
        allowed = MECHANISM.sensitivity
        yield float((found[0] - found[1]).norm()) / allowed
        yield float((found[0] - found[2]).norm()) / (2 * allowed)


def first_release(here: Task, one: PrivateGradients) -> Tensor:
    one.step(here, None, begun(here, one), stream(2))
    (path,) = here.real.ledger._folder.glob("released/*")  # pyright: ignore[reportAttributeAccessIssue]
    return load_tensors(path)[0]["values"]


ROUNDING = 1 + 1e-6
"""Neighbours' passes differ in size, so that rows may differ in their last bits, and by a step of the grid."""


def added(folder: Path, name: str, mechanism: Mechanism, images: Images) -> Tensor:
    """What the records add in a first step, before it is clipped."""
    seen: list[Tensor] = []

    def noting(own: Callable[..., Tensor], vectors: Tensor, *words: Any) -> Tensor:
        seen.append(vectors)
        return own(vectors, *words)

    with pytest.MonkeyPatch.context() as patch:
        for module in (sums, pooled):
            patch.setattr(module, "contributions", partial(noting, module.contributions))
        first_release(task(folder, mechanism, real=images), method(name))
    return torch.cat(seen)


def leaks(folder: Path, name: str) -> bool:
    """Whether leaving out one record, of class 3, changes what those of class 0 add."""
    images = problem.images((3, 1, 0, 2))
    keep = torch.ones(len(images.labels), dtype=torch.bool)
    keep[int(torch.nonzero(images.labels == 3)[0])] = False
    less = Images(images.pixels[keep], images.labels[keep])
    found = [
        added(folder / f"leak-{version}", name, MECHANISM, data)[data.labels == 0]
        for version, data in enumerate([images, less])
    ]
    return not torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-12)
