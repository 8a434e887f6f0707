"""MNIST and CIFAR-10 from one npz file each, and scikit-learn's digits, with the papers' mean and deviation.

The folder is `--data`, else the environment's FEDSIM_DATA, else ./data. `mnist.npz` holds arrays x_train, y_train, x_test,
y_test. `cifar10.npz` may hold those, or the JPEG files one after the other (`train_jpeg`, `train_offsets`, `y_train`, and of
test); such images are not the published ones bit for bit, and results say so.
"""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fedsim import api
from fedsim.data.images import Dataset, Images
from fedsim.data.own import image_tensor
from fedsim.data.sources import CIFAR10, MNIST
from fedsim.types import UserError

SETS = {"mnist": MNIST, "cifar10": CIFAR10}


def load(name: str, folder: str | None) -> Dataset:
    """A data set by name."""
    if name == "digits":
        return api.load("digits")
    path = Path(folder or os.environ.get("FEDSIM_DATA") or "data").expanduser() / f"{name}.npz"
    if not path.is_file():
        raise UserError(f"{path} is not there; give the folder that holds {name}.npz by --data or FEDSIM_DATA")
    with np.load(path, allow_pickle=False) as file:
        train, test = (_split(file, split) for split in ("train", "test"))
        classes = tuple(str(one) for one in file["classes"])
    made = SETS[name]
    return Dataset(name, train, test, classes, made.MEAN, made.STD)


def _split(file: np.lib.npyio.NpzFile, split: str) -> Images:
    if f"x_{split}" in file:
        pixels = file[f"x_{split}"]
    else:
        stream, ends = file[f"{split}_jpeg"].tobytes(), file[f"{split}_offsets"].tolist()
        pixels = np.stack([decoded(stream[a:b]) for a, b in pairwise(ends)])
    labels = torch.from_numpy(file[f"y_{split}"].astype(np.int64))
    return Images(image_tensor(pixels, f"x_{split}").contiguous(), labels)


def decoded(content: bytes) -> np.ndarray:
    """The pixels (h, w, c) of an image file."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)
