"""Records of a seed with held-out ones of the same digits; a picture of what was made of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attacks.exchange import Exchange
from fedsim.seeding import numpy_stream

OTHERS, DRAWS, POOL, SHOWN = 99, 999, 6000, 20


@dataclass(frozen=True)
class Digits:
    """Records of one seed, and those that were held out: pixels (n, 1, 28, 28) in 0..1, and digits."""

    images: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor

    @classmethod
    def of(cls, data: dict[str, np.ndarray], count: int, seed: int, device: str) -> Digits:
        """`count` records and a pool that shares none with them."""
        rows = numpy_stream(seed, "records").permutation(len(data["y_train"]))[: count + POOL]
        pixels = torch.from_numpy(data["x_train"][rows])[:, None].to(device) / 255
        labels = torch.from_numpy(data["y_train"][rows]).long().to(device)
        return cls(pixels[:count], labels[:count], pixels[count:], labels[count:])

    def others(self, seed: int) -> Tensor:
        """Held-out records of the digit of each, (n, OTHERS, 1, 28, 28); drawn anew for each."""
        rng, held = numpy_stream(seed, "others"), self.held_labels.cpu().numpy()
        kinds = {label: np.flatnonzero(held == label) for label in range(10)}
        rows = np.stack([rng.permutation(kinds[label])[:OTHERS] for label in self.labels.tolist()])
        return self.held[torch.from_numpy(rows).to(self.held.device)]


def panel(path: Path, found: Tensor, true: Digits, others: Tensor, seen: Exchange) -> None:
    """Records, their reconstructions, held-out records, theirs: the best matched first."""
    best, found = np.argsort(seen.errors)[:SHOWN], found.cpu()
    drawn = others.cpu()[np.arange(len(others)), seen.last]
    rows = [true.images.cpu()[best], found[seen.place[best]], drawn[best], found[seen.last_place[best]]]
    tiles = torch.cat([torch.cat(list(row[:, 0]), dim=1) for row in rows])
    pixels = (tiles.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.NEAREST).save(path)
