"""The owner's real images behind one door: per-class sums of per-record vectors, and random subsets as they are.

Feature matching from noise (`dm`, `datadam`, `ncfm` with normal frequencies) asks for `class_sums` alone: what a
differentially private owner could clip and noise. Gradient matching, CAFE, learned frequencies, early networks,
selections and starts from real images take `subset`, raw records, which such an owner must refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.data.images import GreyLevels, Images
from fedsim.data.transforms import Normalise
from fedsim.distill.matching import class_sums, ordered_sums

SLICE = 16
"""Passes whose images are drawn, normalised and augmented together."""

Embed = Callable[[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], Float[Tensor, "n d"]]
"""Normalised images and their labels (augmentations are drawn per class) to feature vectors."""


@runtime_checkable
class Real(Protocol):
    """What a method may ask of real images, whoever owns them."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        ...

    @property
    def counts(self) -> Int64[Tensor, "s"]:
        """Real images of each class, on the CPU."""
        ...

    def class_sums(
        self, embed: Embed, per_class: int, rng: torch.Generator, *, rows: int = 0
    ) -> tuple[Float[Tensor, "s d"], Int64[Tensor, "s"]]:
        """Σ embed(x) over up to `per_class` random images of every class (0: all of them), and how many there were."""
        ...

    def subset(self, counts: Int64[Tensor, "s"], rng: torch.Generator) -> tuple[GreyLevels, Int64[Tensor, "n"]]:
        """`counts[c]` random real images of each class c (at most those there are), labels ascending."""
        ...


class RealImages:
    """Real images of one owner, on one device; classes may be ragged or absent."""

    def __init__(self, images: Images, num_classes: int, normalise: Normalise, device: torch.device) -> None:
        self._images = Images(images.pixels.to(device), images.labels.to(device))
        self._labels = images.labels.cpu()
        self.normalise = normalise
        self.num_classes = num_classes
        _, channels, height, width = images.pixels.shape
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self.counts = images.counts(num_classes).cpu()
        """Real images of each class, on the CPU."""

    def class_sums(
        self, embed: Embed, per_class: int, rng: torch.Generator, *, rows: int = 0
    ) -> tuple[Float[Tensor, "k d"], Int64[Tensor, "k"]]:
        """Σ embed(x) over up to `per_class` random images of every class (0: all of them), and how many there were.

        `rows` is how many images `embed` passes through a network at once; 0: all of them.
        """
        index, labels = self._draw(torch.full((self.num_classes,), per_class or len(self._images)), rng)
        device = self._images.pixels.device
        sums: Tensor | None = None
        size = SLICE * rows or len(index)
        for piece, targets in zip(index.split(size), labels.to(device).split(size), strict=True):
            with torch.no_grad():
                features = embed(self.normalise(self._images.pixels[piece.to(device)]), targets)
                part = class_sums(features, targets, self.num_classes)
            sums = part if sums is None else sums + part
        assert sums is not None, "a task without real images is never condensed"
        return sums, torch.bincount(labels, minlength=self.num_classes).to(device)

    def subset(self, counts: Int64[Tensor, "k"], rng: torch.Generator) -> tuple[GreyLevels, Int64[Tensor, "n"]]:
        """`counts[c]` random real images of each class c (at most those there are), labels ascending."""
        rows, labels = self._draw(counts, rng)
        device = self._images.pixels.device
        return self._images.pixels[rows.to(device)], labels.to(device)

    def _draw(self, counts: Int64[Tensor, "k"], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows without replacement, `counts[c]` of each class or all of it, ordered by label: (rows, labels)."""
        shuffled = torch.randperm(len(self._labels), generator=rng)
        order = shuffled[torch.sort(self._labels[shuffled], stable=True).indices]
        starts = torch.cumsum(self.counts, 0) - self.counts
        labels = self._labels[order]
        rank = torch.arange(len(order)) - starts[labels]
        kept = rank < counts[labels]
        return order[kept], labels[kept]


class Owners:
    """Several owners behind the same door: class c of owner g is segment g·k + c.

    Each owner draws as it would alone from the generator it is given: all of them start from the same state.
    """

    def __init__(self, owners: Sequence[RealImages]) -> None:
        self._owners = owners
        self._classes = owners[0].num_classes
        self.image_shape: tuple[int, int, int] = owners[0].image_shape
        self.counts = torch.cat([owner.counts for owner in owners])
        """Real images of each segment, on the CPU."""

    def class_sums(
        self, embed: Embed, per_class: int, rng: torch.Generator, *, rows: int = 0
    ) -> tuple[Float[Tensor, "s d"], Int64[Tensor, "s"]]:
        """As for one owner, for every segment; one pass holds images of as many owners as fit."""
        most = torch.full((self._classes,), per_class or int(self.counts.max()))
        images, labels = self.subset(most.repeat(len(self._owners)), rng)
        places = labels.cpu()
        sums: Tensor | None = None
        size = SLICE * rows or len(labels)
        for pixels, segments, where in zip(images.split(size), labels.split(size), places.split(size), strict=True):
            with torch.no_grad():
                features = embed(self._owners[0].normalise(pixels), segments)
            if sums is None:
                sums = features.new_zeros((len(self.counts), features.shape[1]))
            ordered_sums(features, where, sums)
        assert sums is not None, "a task without real images is never condensed"
        return sums, torch.bincount(places, minlength=len(self.counts)).to(sums.device)

    def subset(self, counts: Int64[Tensor, "s"], rng: torch.Generator) -> tuple[GreyLevels, Int64[Tensor, "n"]]:
        """`counts[s]` random real images of each segment s (at most those there are), labels ascending."""
        state, images, labels = rng.get_state(), [], []
        for index, (owner, wanted) in enumerate(zip(self._owners, counts.split(self._classes), strict=True)):
            rng.set_state(state)
            pixels, classes = owner.subset(wanted, rng)
            images.append(pixels)
            labels.append(classes + index * self._classes)
        return torch.cat(images), torch.cat(labels)
