"""Defences with plain numbers, one at a time, and a round of uploads to try them on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median

import numpy as np
import torch

from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.models.functional import state
from fedsim.seeding import stream
from tests.reference import dm
from tests.reference import fedavg as federation

Vector = list[float]


def z_scores(values: Sequence[float]) -> list[float]:
    """(s − med) / (1.4826 MAD), or / (1.2533 mean |s − med|) where MAD is 0."""
    centre = median(values)
    apart = [abs(value - centre) for value in values]
    scale = 1.4826 * median(apart) or 1.2533 * mean(apart)
    return [(value - centre) / scale for value in values]


def statistics(image: np.ndarray) -> tuple[float, float, float]:
    """Brightness, contrast and total variation of one image (c, h, w) in 0..1."""
    channels, height, width = image.shape
    values = [float(image[c, y, x]) for c in range(channels) for y in range(height) for x in range(width)]
    centre = mean(values)
    contrast = math.sqrt(mean([(value - centre) ** 2 for value in values]))
    down = [abs(float(image[c, y + 1, x] - image[c, y, x]))
            for c in range(channels) for y in range(height - 1) for x in range(width)]  # fmt: skip
    right = [abs(float(image[c, y, x + 1] - image[c, y, x]))
             for c in range(channels) for y in range(height) for x in range(width - 1)]  # fmt: skip
    return centre, contrast, mean(down) + mean(right)


def signatures(rows: np.ndarray) -> list[float]:
    """Tran et al.: the top right singular vector by power iteration on the rows' covariance, one row at a time."""
    centred = rows - rows.mean(0)
    covariance = sum(np.outer(row, row) for row in centred)
    direction = np.ones(rows.shape[1])
    for _ in range(2000):
        direction = covariance @ direction
        direction = direction / np.linalg.norm(direction)
    return [float(np.dot(row, direction)) ** 2 for row in centred]


def with_class_ids_and_ith_vectors(rows: np.ndarray, label: int) -> list[tuple[int, float]]:
    """What went wrong elsewhere: (class id, projection on the i-th singular vector) of each row i."""
    centred = rows - rows.mean(0)
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    return [(label, float(np.dot(row, vectors[min(i, len(vectors) - 1)])) ** 2) for i, row in enumerate(centred)]


def krum_scores(vectors: Sequence[Vector], malicious: int) -> list[float]:
    """Σ of squared distances to the K − f − 2 nearest others."""
    found = []
    for place, one in enumerate(vectors):
        others = [other for at, other in enumerate(vectors) if at != place]
        squares = sorted(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for other in others)
        found.append(sum(squares[: len(vectors) - malicious - 2]))
    return found


def trimmed_mean(vectors: Sequence[Vector], malicious: int) -> Vector:
    """Coordinate by coordinate."""
    columns = [sorted(column) for column in zip(*vectors, strict=True)]
    return [mean(column[malicious : len(column) - malicious]) for column in columns]


def silhouette(points: np.ndarray, second: Sequence[bool]) -> float:
    """Mean (b − a) / max(a, b)."""
    found = []
    for i, j in enumerate(second):
        own = [math.dist(points[i], points[at]) for at, side in enumerate(second) if side == j and at != i]
        other = [math.dist(points[i], points[at]) for at, side in enumerate(second) if side != j]
        found.append((mean(other) - mean(own)) / max(mean(other), mean(own)) if own else 0.0)
    return mean(found)


# --- a round ---

CLASSES = ("a", "b", "c", "d")


def upload(client: int, per_class: Sequence[int], seed: int = 0, noise: float = 25.0) -> Upload:
    """Images of 1×6×6: a pattern of the class and noise of the client."""
    rng = stream(seed, "client", client)
    labels = torch.tensor(
        [*itertools.chain(*([label] * count for label, count in enumerate(per_class)))], dtype=torch.int64
    )
    patterns = torch.stack([torch.rand((1, 6, 6), generator=stream(0, "class", one)) for one in range(len(CLASSES))])
    grey = 40 + 170 * patterns[labels] + noise * torch.randn((len(labels), 1, 6, 6), generator=rng)
    pixels = grey.round().clamp(0, 255).to(torch.uint8)
    normalise = dm.NORMALISE
    found = SyntheticSet(pixels, labels, CLASSES, normalise.mean, normalise.std, {"method": "dm"})
    return Upload(client, 1, 10 * len(labels), synthetic=found)


def uploads(clients: int = 7, per_class: Sequence[int] = (4, 4, 4, 4), seed: int = 0) -> list[Upload]:
    """Honest clients, ids 10, 11 …, so that a place is no id."""
    return [upload(10 + place, per_class, seed) for place in range(clients)]


def changed(one: Upload, images: torch.Tensor) -> Upload:
    """The upload with other pixels."""
    assert one.synthetic is not None
    return replace(one, synthetic=replace(one.synthetic, images=images))


def images_of(one: Upload) -> torch.Tensor:
    """Its pixels."""
    assert one.synthetic is not None
    return one.synthetic.images


def relabelled(one: Upload, rows: torch.Tensor, pattern_of: int, label: int) -> Upload:
    """The upload with noisy images of another class at `rows`, which have `label`."""
    other = upload(one.client, [len(rows) if at == pattern_of else 0 for at in range(len(CLASSES))], seed=9)
    images, labels = images_of(one).clone(), one.synthetic.labels.clone() if one.synthetic is not None else None
    assert labels is not None
    assert one.synthetic is not None
    images[rows], labels[rows] = images_of(other), label
    return replace(one, synthetic=replace(one.synthetic, images=images, labels=labels))


def poisoned(one: Upload, label: int = 2, source: int = 0) -> Upload:
    """All its images of one class are of another."""
    assert one.synthetic is not None
    return relabelled(one, (one.synthetic.labels == label).nonzero().flatten(), source, label)


def setting() -> Setting:
    """ConvNet-1 for these images, deterministic."""
    return federation.setting("instance", width=8)


def before(here: Setting) -> ServerState:
    """The server before round 1."""
    return ServerState(0, state(here.first_network()))
