"""Which records were reconstructed, against a null of held-out records that are matched in the same way; a picture of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ntk_training import SHAPE
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsim.audit.image_distances import distances
from fedsim.seeding import numpy_stream

OTHERS, DRAWS, POOL, SHOWN = 99, 99, 6000, 20


@dataclass(frozen=True)
class Digits:
    """Records of one seed, and those that were held out: pixels (n, 1, 28, 28) and digits."""

    images: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor

    @classmethod
    def of(cls, data: dict[str, np.ndarray], count: int, seed: int, device: str) -> Digits:
        rows = numpy_stream(seed, "records").permutation(len(data["y_train"]))[: count + POOL]
        pixels = torch.from_numpy(data["x_train"][rows])[:, None].to(device) / 255
        labels = torch.from_numpy(data["y_train"][rows]).long().to(device)
        return cls(pixels[:count], labels[:count], pixels[count:], labels[count:])


def compared(found: Tensor, true: Digits, seed: int) -> dict[str, Any]:
    """Records identified, the null, and who was matched with whom."""
    far = distances(found, true.held).square().cpu().numpy()
    near = distances(found, true.images).square().cpu().numpy()
    labels, held = true.labels.cpu().numpy(), true.held_labels.cpu().numpy()
    rng = numpy_stream(seed, "others")
    kinds = {label: rng.permutation(np.flatnonzero(held == label)) for label in np.unique(labels)}
    least = np.stack([far[:, kinds[label][:OTHERS]].min(1) for label in labels], 1)  # reconstruction × record

    def identified(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = linear_sum_assignment(cost.T)
        return columns, cost[columns, rows] < least[columns, rows]

    place, names = identified(near)
    null, drawn = [], np.zeros(0, dtype=int)
    for _ in range(DRAWS):
        kept = {label: iter(rng.permutation(kinds[label][OTHERS:])) for label in kinds}
        drawn = np.array([next(kept[label]) for label in labels])
        null.append(int(identified(far[:, drawn])[1].sum()))
    return {
        "identified": int(names.sum()),
        "null": null,
        "mse": near[place, np.arange(len(labels))] / np.prod(SHAPE),
        "place": place,
        "null_place": identified(far[:, drawn])[0],
        "drawn": drawn,
    }


def panel(path: Path, found: Tensor, true: Digits, seen: dict[str, Any]) -> None:
    """Records, reconstructions; held-out records, reconstructions: the best matched first."""
    found = found.cpu()
    best = np.argsort(seen["mse"])[:SHOWN]
    rows = [
        true.images.cpu()[best],
        found[seen["place"][best]],
        true.held.cpu()[seen["drawn"][best]],
        found[seen["null_place"][best]],
    ]
    tiles = [torch.cat(list(row[:, 0]), dim=1) for row in rows]
    pixels = (torch.cat(tiles).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.NEAREST).save(path)
