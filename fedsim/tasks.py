"""Networks for a data set, and the condensation of all of its images as one task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fedsim import catalog
from fedsim.compute import Compute
from fedsim.config import Section
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.distill.base import Task
from fedsim.distill.real import RealImages
from fedsim.models.execution import Runner
from fedsim.models.network import Network, build_network
from fedsim.seeding import Streams

Fresh = Callable[[torch.Generator], Network]
"""Constructor of newly initialised networks."""


def network_factory(model: Section, dataset: Dataset, device: torch.device) -> Fresh:
    """Networks of `model` for the images of `dataset`."""
    architecture: Any = catalog.resolve("model", model.name)  # pyright: ignore[reportAttributeAccessIssue]

    def fresh(rng: torch.Generator) -> Network:
        return build_network(architecture, model, dataset.image_shape, dataset.num_classes, rng, device=device)

    return fresh


def central_task(
    images: Images,
    dataset: Dataset,
    normalise: Normalise,
    fresh: Fresh,
    ipc: int,
    compute: Compute,
    streams: Streams,
) -> Task:
    """Condense `images` into `ipc` per class, or as many as the class has."""
    device = torch.device(compute.device)
    real = RealImages(images, dataset.num_classes, normalise, device)
    return Task(
        real=real,
        budget=real.counts.clamp(max=ipc),
        runner=Runner(fresh(streams.generator("template")), compute.execution()).frozen(),
        normalise=normalise,
        classes=dataset.classes,
        device=device,
    )
