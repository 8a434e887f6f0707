"""How far synthetic images lie from the candidates of their class, sorted: what both nearest-record attacks start from.

    pixels        d(s, x) = ‖s − x‖                               pixels in 0..1
    standardised  d(s, x) = ‖z(s) − z(x)‖/√p                      z(x) = (x − mean x)/std x over the p pixels of x
    ssim          d(s, x) = 1 − SSIM(s, x)                        windows of 11 pixels, fewer where images are smaller
    lpips         d(s, x) = LPIPS(s, x)                           where its weights are on disk

Matching a mean through networks inflates the contrast of synthetic images; `standardised` is blind to brightness and
contrast.

Source  Euclidean distance; fedsim/audit/image_distances.py for SSIM, fedsim/audit/perceptual.py for LPIPS.
Code    none read.
Cost    m × n distances, and for each of m images a sort of the candidates of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

from attacks.membership_networks import fingerprint
from fedsim.audit import perceptual
from fedsim.audit.image_distances import dissimilarities, distances, fitting_window
from fedsim.audit.view import AdversaryView, Released
from fedsim.data.images import Images
from fedsim.data.synthetic import union

Distance = Literal["pixels", "standardised", "ssim", "lpips"]
CHUNK = 64
"""Synthetic images compared at a time."""
FLAT = 1 / 255
"""Least standard deviation divided by: an image of one grey level is 0, not undefined."""


@dataclass(frozen=True)
class Neighbours:
    """Of every synthetic image the candidates of its class, nearest first; w is the size of the largest class."""

    classes: Int64[np.ndarray, "m"]
    order: Int32[np.ndarray, "m w"]
    """Index of the candidate, −1 beyond the last of the class."""
    distances: Float32[np.ndarray, "m w"]
    """Rising, infinite beyond the last."""

    def nearest(self) -> Int32[np.ndarray, "m"]:
        """Index of the nearest candidate, −1 where the class has none."""
        return self.order[:, 0]

    def least(self, candidates: int) -> Float64[np.ndarray, "n"]:
        """Distance of every candidate to the nearest synthetic image of its class; infinite where there is none."""
        found = np.full(candidates, np.inf)
        inside = self.order >= 0
        np.minimum.at(found, self.order[inside], self.distances[inside].astype(np.float64))
        return found


def lacking(distance: Distance) -> str:
    """Why a distance cannot be computed here; empty where it can."""
    return perceptual.lacking() if distance == "lpips" else ""


def neighbours(synthetic: Images, candidates: Images, distance: Distance) -> Neighbours:
    """Every synthetic image against all candidates of its class; equal distances in the order of candidates."""
    classes, labels = synthetic.labels.cpu().numpy(), candidates.labels.cpu().numpy()
    width = int(np.bincount(labels).max()) if len(labels) else 0
    order = np.full((len(classes), width), -1, dtype=np.int32)
    sorted_ = np.full((len(classes), width), np.inf, dtype=np.float32)
    for label in np.unique(classes):
        images, records = np.flatnonzero(classes == label), np.flatnonzero(labels == label)
        if not len(records):
            continue
        left = synthetic.pixels.cpu()[torch.from_numpy(images)]
        right = candidates.pixels.cpu()[torch.from_numpy(records)]
        away = between(left, right, distance).numpy().astype(np.float32)
        places = np.argsort(away, axis=1, kind="stable")
        order[images, : len(records)] = records[places]
        sorted_[images, : len(records)] = np.take_along_axis(away, places, axis=1)
    return Neighbours(classes, order, sorted_)


def between(
    synthetic: UInt8[Tensor, "m c h w"], records: UInt8[Tensor, "n c h w"], distance: Distance
) -> Float64[Tensor, "m n"]:
    """All distances; `UserError` for LPIPS without its weights."""
    if distance == "ssim":
        window = fitting_window(min(synthetic.shape[-2:]))
        return dissimilarities(synthetic.double() / 255, records.double() / 255, window)
    if distance == "lpips":
        layers, weights = perceptual.load()
        left, right = (perceptual.vectors(one.float() / 255, layers, weights) for one in (synthetic, records))
        return distances(left, right, CHUNK).square().double()
    return distances(_vectors(synthetic, distance), _vectors(records, distance), CHUNK)


def _vectors(images: UInt8[Tensor, "n c h w"], distance: Distance) -> Float64[Tensor, "n p"]:
    flat = images.flatten(1).double() / 255
    if distance == "pixels":
        return flat
    spread = flat.std(1, correction=0, keepdim=True).clamp(min=FLAT)
    return (flat - flat.mean(1, keepdim=True)) / spread / flat.shape[1] ** 0.5


def of_release(view: AdversaryView, released: Released, distance: Distance) -> Neighbours:
    """Of all sets that the client sent."""
    return neighbours(union(released.client_sets()), view.candidates, distance)


def least_of_release(view: AdversaryView, released: Released, distance: Distance) -> Float64[np.ndarray, "n"]:
    """`Neighbours.least` of a release, computed once for all targets."""
    name = f"least-{distance}-{released.key}-{fingerprint(view.candidates)}"
    return view.cache(name, lambda: of_release(view, released, distance).least(len(view.candidates)))
