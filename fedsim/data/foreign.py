"""Synthetic sets that other tools made, to be scored under our protocol: plain numpy in, a `SyntheticSet` out.

Bytes are what is scored: floats in 0..1 are rounded to them. A set that was stored normalised or whitened is refused,
since its pixels cannot be known. Pickles are never opened: loading one can run code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsim.data import probabilities
from fedsim.data.images import Dataset
from fedsim.data.npz import arrays_of
from fedsim.data.own import image_tensor
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.types import UserError

PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"})
"""Suffixes of files that torch or Python would unpickle."""

CONVERT = (
    "python -c \"import numpy, torch; s = torch.load('FILE', weights_only=True); "
    "numpy.savez('set.npz', images=s[0].numpy(), labels=s[1].numpy())\""
)
"""What turns the usual (images, labels) file into one that is read."""


def read_set(path: Path, like: Dataset) -> SyntheticSet:
    """The set in `path`: safetensors that fedsim wrote, or an npz with `images` and `labels`.

    An npz may also hold `classes` (their names) and `soft`, a row of class probabilities for each image. It is
    described by `like`, the images it will be tested on: class names, normalisation and whitening (that of all training
    images) are theirs. Raises `UserError` for any other file and for what does not fit.
    """
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path} is a pickle, and loading one can run code; convert it where you trust it: {CONVERT}, "
            "un-normalised and un-whitened, pixels in 0..1 or bytes"
        )
    if path.suffix.lower() != ".npz":
        return SyntheticSet.load(path)
    arrays = _arrays(path)
    images, labels, classes = arrays["images"], arrays["labels"], arrays.get("classes")
    if classes is not None and tuple(classes.tolist()) != like.classes:
        raise UserError(
            f"{path}: classes are {classes.tolist()[:3]} …; the test images have {list(like.classes)[:3]} …"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"{path}: labels are {labels.dtype}{labels.shape} for {len(images)} images; give one integer each, "
            "and class probabilities beside them as soft"
        )
    pixels = image_tensor(_bytes(images, path), "images")
    label = torch.from_numpy(labels.astype(np.int64))
    soft = _soft(arrays["soft"], path) if "soft" in arrays else None
    found = SyntheticSet(
        pixels, label, like.classes, like.mean, like.std, {"method": None, "file": path.name}, soft=soft,
        zca=Normalise.of(like, like.train).zca,
    )  # fmt: skip
    if problem := found.problem(like.num_classes, like.image_shape):
        raise UserError(f"{path}: {problem}; give images of the size and labels of the test images")
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"synthetic set {path} {what}; give a .safetensors or .npz file")
    arrays = arrays_of(path)
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        there = ", ".join(arrays) or "nothing"
        raise UserError(f"{path} has no {' and no '.join(missing)} (it holds {there}); give arrays images and labels")
    if flat := [key for key in ("images", "labels") if not arrays[key].ndim]:
        raise UserError(f"{path}: {flat[0]} is a single number; give arrays images and labels")
    if len(arrays["images"]) == 0:
        raise UserError(f"{path}: images is empty; give at least one image")
    return arrays


def _soft(rows: np.ndarray, path: Path) -> Tensor:
    """Probabilities as float16; what they sum to is checked with the set."""
    if rows.dtype.kind != "f":
        raise UserError(f"{path}: soft is {rows.dtype}; give floats, a row of class probabilities for each image")
    return probabilities.stored(torch.from_numpy(rows.astype(np.float64)))


def _bytes(images: np.ndarray, path: Path) -> np.ndarray:
    """uint8 as it is; floats in 0..1 as the nearest bytes."""
    if images.dtype.kind != "f":
        return images
    if not np.isfinite(images).all():
        raise UserError(f"{path}: {int((~np.isfinite(images)).sum())} pixel values are not finite; give pixels in 0..1")
    if images.min() < 0 or images.max() > 1:
        raise UserError(
            f"{path}: images are floats from {images.min():.3g} to {images.max():.3g}; undo the normalisation "
            "(x · std + mean) and any whitening, divide grey levels by 255, and give pixels in 0..1 or uint8"
        )
    return (images * 255).round().astype(np.uint8)
