"""Records planted for an audit in one run: each in its client's data by a coin of its own, drawn with the partition.

    crafted       a vector under every network in the place of an image (privacy/observed.py); its pixels are a name
    mislabelled   a record under another label          natural   a record as it is
    ood_noise     an image of uniform bytes

    b_i ~ Bernoulli(½), independent: whether record i is among those of the client it was dealt to

The slots are records that the split kept from every client (`audit.canaries`): a planted record takes the place of one.
Of a federation's joint release every planted record counts, whichever client it was dealt to.

Source  Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, arXiv 2305.08846.
Code    none read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from fedsim.data.images import Images
from fedsim.data.partition import Positions
from fedsim.data.split import PlantedConfig, Split
from fedsim.seeding import numpy_stream, stream


@dataclass(frozen=True)
class Canaries:
    """All planted records of a run, by rising position."""

    positions: Positions
    """m slots: positions into the source train split."""
    kinds: np.ndarray
    """(m) names."""
    clients: Int[np.ndarray, "m"]
    """Whose each is, if it is anybody's."""
    included: Bool[np.ndarray, "m"]
    """b."""
    images: Images
    """As they are planted."""

    def of(self, client: int) -> Canaries:
        """Those that were dealt to one client."""
        rows = np.flatnonzero(self.clients == client)
        taken = self.images.take(torch.from_numpy(rows))
        return Canaries(self.positions[rows], self.kinds[rows], self.clients[rows], self.included[rows], taken)


@dataclass(frozen=True)
class Planted:
    """The records of one client with planted ones among them."""

    rest: Images
    """Those that it would hold anyway."""
    canaries: Images
    """All that were dealt to it, in or not."""
    included: Bool[torch.Tensor, "m"]
    crafted: Bool[torch.Tensor, "m"]
    """Which of them are vectors."""


def disguised(kind: str, records: Images, num_classes: int, rng: torch.Generator) -> Images:
    """What is planted in the place of `records`; names of crafted ones are uniform bytes too."""
    if kind in ("crafted", "ood_noise"):
        pixels = torch.randint(0, 256, records.pixels.shape, generator=rng, dtype=torch.uint8)
        return Images(pixels, records.labels)
    if kind == "mislabelled":
        moved = records.labels + torch.randint(1, num_classes, (len(records),), generator=rng)
        return Images(records.pixels, moved % num_classes)
    return records


def plant(split: Split, source: Images, asked: PlantedConfig, num_classes: int, seed: int) -> Canaries:
    """Fill slots of `split`, which is the one before anything is planted, and deal them to clients in turn.

    `source` is the train split as loaded; there are at least as many slots as records are asked for.
    """
    rng = numpy_stream(seed, "canaries")
    slots = rng.permutation(split.canaries)[: asked.total]
    holding = np.array([client for client, held in enumerate(split.client) if len(held)])
    clients, kinds, pixels, labels, start = [], [], [], [], 0
    for kind, number in asked.counts.items():
        records = source.take(torch.from_numpy(slots[start : start + number]))
        made = disguised(kind, records, num_classes, stream(seed, "canaries", kind))
        pixels.append(made.pixels)
        labels.append(made.labels)
        clients.append(holding[np.arange(number) % len(holding)])
        kinds += [kind] * number
        start += number
    images, order = Images(torch.cat(pixels), torch.cat(labels)), np.argsort(slots)
    included = numpy_stream(seed, "canaries", "coins").random(len(slots)) < 0.5
    return Canaries(
        slots[order], np.array(kinds)[order], np.concatenate(clients)[order], included,
        images.take(torch.from_numpy(order)),
    )  # fmt: skip


def with_canaries(split: Split, canaries: Canaries) -> Split:
    """The split in which every planted record whose coin says so is its client's; the others stay in their slots."""
    client = list(split.client)
    for number in np.unique(canaries.clients):
        own = canaries.positions[(canaries.clients == number) & canaries.included]
        client[number] = np.sort(np.concatenate([client[number], own]))
    left = np.setdiff1d(split.canaries, canaries.positions[canaries.included])
    return replace(split, train=np.sort(np.concatenate(client)), canaries=left, client=client)


def replaced(source: Images, canaries: Canaries) -> Images:
    """The train split with the planted records in their slots."""
    where = torch.from_numpy(canaries.positions)
    pixels, labels = source.pixels.clone(), source.labels.clone()
    pixels[where], labels[where] = canaries.images.pixels, canaries.images.labels
    return replace(source, pixels=pixels, labels=labels)


def planted(images: Images, positions: Positions, canaries: Canaries) -> Planted:
    """Of one client: `images` are those at `positions`, what it holds; `canaries` those that were dealt to it."""
    own = ~np.isin(positions, canaries.positions)
    return Planted(
        images.take(torch.from_numpy(np.flatnonzero(own))), canaries.images, torch.from_numpy(canaries.included),
        torch.from_numpy(canaries.kinds == "crafted"),
    )  # fmt: skip
