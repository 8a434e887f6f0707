"""Methods that match gradients, and what they become in a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.base import Task
from fedsim.distill.class_gradients import no_class_sums
from fedsim.distill.gradient.dc import Config as DCConfig
from fedsim.distill.gradient.dc import GradientMatching
from fedsim.distill.gradient.dsa import Config as SiameseConfig
from fedsim.distill.gradient.dsa import SiameseMatching
from fedsim.distill.gradient.idc import Config as IDCConfig
from fedsim.distill.gradient.idc import EfficientParameterization
from fedsim.distill.gradient.meta_knowledge import Config as MetaKnowledgeConfig
from fedsim.distill.gradient.meta_knowledge import MetaKnowledge
from fedsim.distill.gradient.model_augmentation import Config as ModelAugmentationConfig
from fedsim.distill.gradient.model_augmentation import EarlyConfig, EarlyStage, ModelAugmentation
from fedsim.distill.networks import PerturbConfig, Radius
from fedsim.distill.pixels import start
from fedsim.distill.unrolled.dd import Config as DDConfig
from fedsim.distill.unrolled.dd import DatasetDistillation
from fedsim.models.functional import unflatten
from fedsim.seeding import stream
from tests.reference import dm as problem

MATCHED = {"ipc": 2, "batch_real": 2, "lr": 0.3, "outer": 2, "inner": 3, "batch_train": 3, "init": "noise"}
"""Of gradient matching: two networks, each trained for three epochs in between."""


UNMOVED = DSAConfig(strategy=("flip", "crop", "cutout"), flip=0, crop=0, cutout=0)
"""Without the operations that read between pixels, and so round."""
TOLD: dict[str, Any] = {"labels": "learned", "lr_labels": 0.3}
"""Soft labels that move as much as pixels do."""


def gradients_matched(method: Any, task: Task | None = None, steps: int = 4) -> Tensor:
    """The images after `steps` steps of a gradient matching method from a fixed start."""
    here = task or problem.task()
    prepared = method.prepare(here, stream(1))
    current = method.init(here, prepared, stream(2))
    for step in range(steps):
        method.step(here, prepared, current, stream(3, step))
    return current.pixels


def meta_knowledge(**settings: Any) -> Tensor:
    """The images under SGD without momentum, around a fixed network."""
    plain = {
        "ipc": 2,
        "batch_real": 2,
        "optimiser": "sgd",
        "momentum": 0.0,
        "lr": 0.3,
        "inner_lr": 0.3,
        "inner_steps": 2,
    }
    return gradients_matched(MetaKnowledge(MetaKnowledgeConfig(**plain | settings)), problem.task(around=True))


def where_images_start() -> Tensor:
    return start(problem.task(), "noise", stream(2))


ALPHA = 1e-4


def one_tiny_inner_step() -> Tensor:
    """The move of the images, in units of α."""
    return (meta_step(inner_lr=ALPHA, lr=1 / ALPHA) - where_images_start()).double()


def climbing_the_inner_product() -> Tensor:
    """∂⟨∇ℓ(w; S), ∇ 1/n Σ ℓ(w; x)⟩/∂S, projected as a step would be."""
    task = problem.task(around=True)
    task.network.requires_grad_(True)
    pixels, weights = where_images_start().requires_grad_(), list(task.network.parameters())
    real = problem.images()
    losses = (
        F.cross_entropy(task.network(problem.NORMALISE(real.pixels)), real.labels),
        F.cross_entropy(task.network(pixels), task.labels()),
    )
    theirs, ours = (torch.autograd.grad(loss, weights, create_graph=True) for loss in losses)
    product = torch.stack([(one * other.detach()).sum() for one, other in zip(ours, theirs, strict=True)]).sum()
    (uphill,) = torch.autograd.grad(product, pixels)
    start = pixels.detach()
    return (problem.NORMALISE.project(start + uphill) - start).double()


def unrolled(**settings: Any) -> Tensor:
    """The images of dataset distillation as `meta_knowledge` has them: all in one part, three times, at fixed rates."""
    plain = {"ipc": 2, "batch_real": 2, "optimiser": "sgd", "momentum": 0.0, "lr": 0.3, "steps": 1, "epochs": 3}
    plain |= {"rate": 0.3, "lr_rates": 0.0}
    method = DatasetDistillation(DDConfig(**plain | settings))
    return gradients_matched(method, problem.task(around=True))


def meta_step(**settings: Any) -> Tensor:
    """The images after one step with equal weights on all real ones."""
    plain: dict[str, Any] = {
        "ipc": 2,
        "batch_real": 0,
        "optimiser": "sgd",
        "momentum": 0.0,
        "weights": "equal",
        "inner_steps": 1,
    }
    method = MetaKnowledge(MetaKnowledgeConfig(**plain | settings))
    return gradients_matched(method, problem.task(around=True), steps=1)


def dc_images(**settings: Any) -> Tensor:
    return gradients_matched(GradientMatching(DCConfig(**MATCHED | settings)))


def dsa_images(**settings: Any) -> Tensor:
    return gradients_matched(SiameseMatching(SiameseConfig(**MATCHED | {"augment": UNMOVED} | settings)))


def idc_images(**settings: Any) -> Tensor:
    plain = {"formation": 1, "train_on": "synthetic", "metric": "cosine", "augment": None, "cutmix": 0.0}
    sgd = {"momentum_net": 0.0, "weight_decay": 0.0}
    return gradients_matched(EfficientParameterization(IDCConfig(**MATCHED | plain | sgd | settings)))


WHOLE = MATCHED | {"batch_real": 0, "batch_train": 99, "augment": None, "cutmix": 0.0}
"""Of IDC: all images at once, so that neither order nor draws have an influence."""


def on_one_early_network() -> Tensor:
    networks = EarlyConfig(size=1, epochs=1, magnitude=(0.0, 0.0))
    return gradients_matched(ModelAugmentation(ModelAugmentationConfig(**WHOLE, networks=networks)))


def idc_from_that_network() -> Tensor:
    """IDC around the weights that the pool of one was trained to."""
    trained = problem.task()
    pool = EarlyStage(EarlyConfig(size=1, epochs=1), None).prepare(trained, no_class_sums, stream(1))
    start = unflatten(pool.flats[0], trained.network.state_dict())
    networks = PerturbConfig(radius=Radius(absolute=1e-12))
    here = replace(problem.task(), start=start)
    return gradients_matched(EfficientParameterization(IDCConfig(**WHOLE, networks=networks)), here)
