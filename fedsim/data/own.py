"""The user's own images: one npz file, or a folder of image files with a subfolder per class."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from fedsim.data.images import DataConfig, Dataset, Images
from fedsim.data.npz import arrays_of
from fedsim.data.split import one_line, stratified
from fedsim.seeding import numpy_stream
from fedsim.types import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
"""Files of a class folder that are read, in lower or upper case; others are passed over."""

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_Mean = list[Annotated[float, Field(ge=0, le=1)]]
_Std = list[Annotated[float, Field(gt=0, le=1)]]


class Npz:
    """uint8 images (n, h, w), (n, h, w, c) or (n, c, h, w), c = 1 or 3, and labels 0..k-1 in an npz file."""

    class Config(DataConfig):
        name: Literal["npz"] = "npz"
        """Kind of data."""
        path: str
        """The file, with arrays x_train, y_train, x_test, y_test and optionally classes."""
        mean: _Mean | None = None
        """Mean of each channel, of pixels scaled to 0..1; None: computed from the train split."""
        std: _Std | None = None
        """Standard deviation of each channel, likewise."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self) -> Dataset:
        """Both splits in memory; `UserError` for whatever is wrong with the file."""
        arrays = _read(Path(self.config.path).expanduser())
        pixels = {split: image_tensor(arrays[f"x_{split}"], f"x_{split}") for split in ("train", "test")}
        labels = {split: _labels(arrays, split) for split in ("train", "test")}
        if pixels["train"].shape[1:] != pixels["test"].shape[1:]:
            shapes = " and ".join(str(tuple(part.shape[1:])) for part in pixels.values())
            raise UserError(f"x_train and x_test hold images of {shapes} (c, h, w); give one size")
        classes = _classes(arrays.get("classes"), labels["train"])
        for split, values in labels.items():
            if values.max() >= len(classes):
                raise UserError(f"y_{split} goes up to {values.max()}; give 0..{len(classes) - 1}")
        train, test = (Images(pixels[split], torch.from_numpy(labels[split])) for split in ("train", "test"))
        given = {"mean": self.config.mean, "std": self.config.std, "classes": arrays.get("classes")}
        mean, std = _statistics(train.pixels, self.config.mean, self.config.std)
        return Dataset("npz", train, test, classes, mean, std, self.config.zca, _absent(given))


class ImageFolder:
    """Image files, a folder per class: RGB (transparency is dropped), centre crop to a square, resized."""

    class Config(DataConfig):
        name: Literal["image_folder"] = "image_folder"
        """Kind of data."""
        path: str
        """Folder with train/CLASS/ and test/CLASS/, or with CLASS/ alone."""
        size: int = Field(default=64, ge=8, le=512)
        """Side of the square that every image is cropped and resized to."""
        test: float = Field(default=0.2, gt=0, le=0.5)
        """Share held for test where there are no train/ and test/; the same images for every seed."""
        mean: _Mean | None = Field(default=None, exclude_if=lambda value: value is None)
        """Mean of each channel, of pixels scaled to 0..1; None: computed from the train split."""
        std: _Std | None = Field(default=None, exclude_if=lambda value: value is None)
        """Standard deviation of each channel, likewise."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.path).expanduser()

    def load(self) -> Dataset:
        """Every image, in the order of the names; `UserError` for a wrong folder or an unreadable image."""
        if not self.root.is_dir():
            raise UserError(f"data.path {self.root} is not a folder; give one with train/CLASS/ and test/CLASS/")
        splits = [self.root / name for name in ("train", "test") if _folders(self.root / name)]
        if len(splits) == 1:
            raise UserError(f"{self.root} has {splits[0].name}/ alone; give train/CLASS/ and test/CLASS/, or CLASS/")
        if splits:
            (classes, train), (other, test) = (self._read(split) for split in splits)
            if classes != other:
                odd = sorted(set(classes) ^ set(other))
                raise UserError(f"class folder '{odd[0]}' is in one of train/ and test/ only; give it in both")
        else:
            classes, every = self._read(self.root)
            train, test = self._hold_out(every)
        given = {"mean": self.config.mean, "std": self.config.std}
        mean, std = _statistics(train.pixels, self.config.mean, self.config.std)
        return Dataset("image_folder", train, test, classes, mean, std, self.config.zca, _absent(given))

    def _read(self, root: Path) -> tuple[tuple[str, ...], Images]:
        folders = _folders(root)
        if len(folders) < 2:
            raise UserError(f"{root} has {len(folders)} class folder(s); give at least 2, with images in each")
        files: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f"class folder {folder} has no image; valid: {', '.join(sorted(SUFFIXES))}")
            files += found
            labels += [label] * len(found)
        pixels = torch.empty(len(files), 3, self.config.size, self.config.size, dtype=torch.uint8)
        for index, file in enumerate(files):
            pixels[index] = _decode(file, self.config.size)
        return tuple(folder.name for folder in folders), Images(pixels, torch.tensor(labels))

    def _hold_out(self, every: Images) -> tuple[Images, Images]:
        labels = every.labels.numpy()
        size = round(self.config.test * len(labels))
        if size < 1:
            raise UserError(f"data.test={self.config.test} of {len(labels)} images is less than 1; raise it")
        rng = numpy_stream(0, "image_folder", "test")
        test = stratified(labels, size, rng, f"data.test={self.config.test}")
        train = np.delete(np.arange(len(labels)), test)
        return every.take(torch.from_numpy(train)), every.take(torch.from_numpy(test))


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a data set by name."""
    if not path.is_file():
        raise UserError(f"data.path {path} is not a file; give an npz with {', '.join(_KEYS)}")
    arrays = arrays_of(path, (*_KEYS, "classes"))
    if missing := [key for key in _KEYS if key not in arrays]:
        raise UserError(f"{path} has no {', '.join(missing)}; give {', '.join(_KEYS)} and optionally classes")
    return arrays


def image_tensor(array: np.ndarray, key: str) -> UInt8[Tensor, "n c h w"]:
    """Images of shape (n, h, w), (n, h, w, c) or (n, c, h, w) in the last form; `UserError` names the array `key`."""
    if array.dtype != np.uint8:
        raise UserError(f"{key} is {array.dtype}; give uint8 pixels 0..255, round(x * 255) of floats")
    if array.size == 0:
        raise UserError(f"{key} of shape {array.shape} is empty; give at least one image")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4:
        raise UserError(f"{key} has shape {array.shape}; give (n, h, w), (n, h, w, c) or (n, c, h, w)")
    else:
        first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
        if first == last:
            what = "both" if first else "neither"
            raise UserError(
                f"{key} has shape {array.shape}: {what} of axis 1 and axis 3 could be 1 or 3 channels; "
                f"give (n, h, w, c) or (n, c, h, w) that can be told apart"
            )
        if last:
            array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
    key, labels, images = f"y_{split}", arrays[f"y_{split}"], len(arrays[f"x_{split}"])
    if labels.dtype.kind not in "iu":
        raise UserError(f"{key} is {labels.dtype}; give integer labels 0..k-1")
    if labels.shape != (images,):
        raise UserError(f"{key} has shape {labels.shape} beside {images} images; give shape ({images},)")
    # Compared before the cast: a uint64 beyond int64 would come out negative.
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise UserError(f"{key} goes from {labels.min()} to {labels.max()}; give labels 0..k-1")
    return labels.astype(np.int64)


def _classes(names: np.ndarray | None, labels: np.ndarray) -> tuple[str, ...]:
    """Names of the classes: as given, else the numbers that the train labels hold without a gap."""
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(f"y_train holds class {present[0]} alone; give images of at least 2 classes")
    if names is None:
        if present[-1] != len(present) - 1:
            raise UserError(
                f"y_train holds {len(present)} classes numbered up to {present[-1]}; number them "
                f"0..{len(present) - 1}, or name all of them in an array classes"
            )
        return tuple(str(label) for label in present)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError("classes is not a list of names; give a 1-d array of text, one name per class")
    if len(set(names.tolist())) != len(names):
        raise UserError("classes holds a name twice; give every class its own")
    return tuple(names.tolist())


def _statistics(
    pixels: UInt8[Tensor, "n c h w"], mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel of pixels/255 where not given, from exact counts of grey levels."""
    channels = pixels.shape[1]
    for key, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != channels:
            raise UserError(f"data.{key} has {len(given)} values; give {channels}, one per channel")
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(channels):
        counts = torch.bincount(pixels[:, channel].flatten(), minlength=256).numpy()
        share = counts / counts.sum()
        means.append(float(share @ levels))
        stds.append(float(np.sqrt(share @ (levels - means[-1]) ** 2)))
        if std is None and np.count_nonzero(counts) < 2:
            raise UserError(f"channel {channel} is constant in train; give images that vary, or std")
    return tuple(mean or means), tuple(std or stds)


def _absent(given: dict[str, Any]) -> tuple[str, ...]:
    return tuple(key for key, value in given.items() if value is None)


def _folders(root: Path) -> list[Path]:
    entries = root.iterdir() if root.is_dir() else ()
    return sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _decode(file: Path, size: int) -> UInt8[Tensor, "3 size size"]:
    """The image as RGB, the middle square of it, `size` on a side."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
            # Through RGBA, because Pillow warns when a transparent palette goes to RGB directly.
            whole = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"image {file} cannot be read ({one_line(error)}); replace or remove it") from error
    side = min(whole.size)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    # Cropped first: a filter that is given the box instead also sees the pixels beside it.
    square = whole.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
