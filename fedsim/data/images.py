"""Real images as every room sees them: bytes in (n, c, h, w), labels beside them, normalised only on the device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.probabilities import one_hot


class DataConfig(Section):
    """Settings of every data set."""

    name: Any
    """Name of the set; each one narrows it to its own."""
    val: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the train split held by the server."""
    zca: float | None = Field(default=None, gt=0)
    """ε of ZCA whitening, fitted to the training share; the papers' is 0.1. null: none. Mean and covariance of the
    private images are then part of every set that is saved. Not in a federation."""


GreyLevels = UInt8[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]
"""Pixels of images: bytes, or numbers that no image file holds (`Images.pixels`)."""


@dataclass(frozen=True)
class Images:
    """Labelled images of one split."""

    pixels: GreyLevels
    """Grey levels 0..255 as bytes; float32, and not only those, where a trigger lies outside the box of pixels
    (trigger.py) or a set was condensed there: no image file holds such images, no data set is read or saved so."""
    labels: Int64[Tensor, "n"]
    """Class of each image, 0..k-1."""
    soft: Float[Tensor, "n k"] | None = None
    """Probabilities of the classes, to train on in the place of `labels`; None for most images."""
    weights: Float[Tensor, "n"] | None = None
    """What each counts for in a training, mean 1 (weights.py); None: all the same."""
    rates: Float[Tensor, "e s"] | None = None
    """Step sizes learned for these images in this order (rates.py); None for most images."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    def take(self, index: Int64[Tensor, "m"]) -> Images:
        """The images at `index`, in that order, without the rates of all of them."""
        soft = self.soft[index] if self.soft is not None else None
        weights = self.weights[index] if self.weights is not None else None
        return Images(self.pixels[index], self.labels[index], soft, weights)

    def to(self, device: torch.device) -> Images:
        """The same images on another device."""
        soft = self.soft.to(device) if self.soft is not None else None
        weights = self.weights.to(device) if self.weights is not None else None
        return Images(self.pixels.to(device), self.labels.to(device), soft, weights, self.rates)

    def hard(self) -> Images:
        """The same images without soft labels."""
        return replace(self, soft=None)

    @property
    def targets(self) -> Int64[Tensor, "n"] | Float[Tensor, "n k"]:
        """What a cross-entropy is taken against: soft labels where there are some, else the classes."""
        return self.labels if self.soft is None else self.soft

    def counts(self, num_classes: int) -> Int64[Tensor, "k"]:
        """Images of each class."""
        return torch.bincount(self.labels, minlength=num_classes)


def joined(images: Images, more: Images, num_classes: int) -> Images:
    """Both; where the first have soft labels, the labels of the others become one-hot."""
    soft = torch.cat([images.soft, one_hot(more.labels, num_classes)]) if images.soft is not None else None
    return Images(torch.cat([images.pixels, more.pixels]), torch.cat([images.labels, more.labels]), soft)


@dataclass(frozen=True)
class Dataset:
    """A data set: what it holds, what its classes are called, how its pixels are normalised."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""
    std: tuple[float, ...]
    """Per channel, of pixels scaled to 0..1."""
    zca: float | None = None
    """ε of the whitening that was asked for (zca.py); `Normalise.of` fits it."""
    found: tuple[str, ...] = ()
    """What of the above was computed from the training images: mean, std, classes."""

    @property
    def num_classes(self) -> int:
        """k, the number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """16 hex digits over all pixels and labels: runs on different data never share a folder unnoticed."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(str(tuple(split.pixels.shape)).encode())
            digest.update(split.pixels.contiguous().numpy().tobytes())
            digest.update(split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
