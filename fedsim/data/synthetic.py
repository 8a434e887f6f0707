"""SyntheticSet: what a condensation method makes, a client uploads, a server trains on and a reader inspects.

It describes itself (class names, normalisation, protocol, provenance), so that a set found on disk years later can be
evaluated as its maker evaluated it. Pixels are bytes: what is scored is what is shipped. On disk it is safetensors
with a JSON header; no pickle is written or read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64, UInt8
from PIL import Image
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor

from fedsim.config import Section, first_error
from fedsim.data import formation as multi
from fedsim.data import pictures, probabilities, zca
from fedsim.data import rates as schedule
from fedsim.data import weights as scale
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.zca import Whitening
from fedsim.runs import write_atomic
from fedsim.types import UserError

FORMAT = "fedsim-synthetic-1"


class _Header(Section):
    """The JSON header of a file; its fields are those of `SyntheticSet`."""

    classes: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    provenance: dict[str, Any]
    protocol: dict[str, Any]
    formation: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class SyntheticSet:
    """A small labelled set of synthetic images with everything needed to use it."""

    images: UInt8[Tensor, "m c h w"]
    """Grey levels 0..255, the wire form."""
    labels: Int64[Tensor, "m"]
    """Hard labels, 0..k-1."""
    classes: tuple[str, ...]
    """Class names, in label order."""
    mean: tuple[float, ...]
    """Per-channel mean of real pixels in 0..1, to be subtracted before a network."""
    std: tuple[float, ...]
    """Per-channel standard deviation of real pixels in 0..1, to divide by before a network."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Method, config hash, seed, kind of init, client, round: how the set came to be."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """The evaluation that its numbers belong to (label regime, architecture, epochs …)."""
    formation: int = 1
    """f: a stored image holds f² smaller ones (formation.py), which `as_images` gives."""
    soft: Float16[Tensor, "m k"] | None = None
    """Soft labels, learned or given (probabilities.py); they are part of the release."""
    weights: Float32[Tensor, "m"] | None = None
    """How many records each stands for (weights.py), estimated and released; None: all count the same."""
    rates: Float32[Tensor, "e s"] | None = None
    """Learned step sizes (rates.py), of the set on disk; they do not travel in a federation."""
    zca: Whitening | None = None
    """What follows the normalisation, or None: d + 2d² floats that describe the data set, the same in all its sets."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def num_classes(self) -> int:
        """k, the number of classes (absent ones included)."""
        return len(self.classes)

    def normalise(self) -> Normalise:
        """Bytes → network input."""
        return Normalise(self.mean, self.std, self.zca)

    def as_images(self) -> Images:
        """Images and labels without the description: what a network is trained on."""
        parts = self.formation**2
        soft = probabilities.used(self.soft).repeat_interleave(parts, 0) if self.soft is not None else None
        pixels = multi.decode_bytes(self.images, self.formation)
        weights = scale.mean_one(self.weights.repeat_interleave(parts)) if self.weights is not None else None
        return Images(pixels, self.labels.repeat_interleave(parts), soft, weights, self.rates)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored and sent, by name; `soft` and `weights` only where there are some. `rates` are stored only."""
        found = {"images": self.images, "labels": self.labels, "soft": self.soft, "weights": self.weights}
        return {name: value for name, value in found.items() if value is not None}

    def counts(self) -> Int64[Tensor, "k"]:
        """Stored images of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    def bits(self) -> int:
        """Storage: 8 bits per pixel value, ⌈log₂ k⌉ per label or, in its place, 16 · k per soft label, 32 per rate.

        `zca` is left out.
        """
        each = max(1, math.ceil(math.log2(max(2, self.num_classes)))) if self.soft is None else 16 * self.num_classes
        return self.images.numel() * 8 + len(self) * each + (32 * self.rates.numel() if self.rates is not None else 0)

    def encode(self) -> bytes:
        """The content of one safetensors file."""
        header = {"classes": self.classes, "mean": self.mean, "std": self.std}
        header |= {"provenance": self.provenance, "protocol": self.protocol}
        if self.formation > 1:  # left out otherwise, so that equal sets stay equal files
            header |= {"formation": self.formation}
        tensors = {name: value.contiguous().cpu() for name, value in self.tensors().items()}
        tensors |= {"rates": self.rates.contiguous().cpu()} if self.rates is not None else {}
        tensors |= self.zca.on(torch.device("cpu")).tensors() if self.zca is not None else {}
        return _sorted_header(encode(tensors, {"format": FORMAT, "fedsim": json.dumps(header, sort_keys=True)}))

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, whole or not at all."""
        write_atomic(Path(path), self.encode())

    @classmethod
    def load(cls, path: Path | str) -> SyntheticSet:
        """Read what `save` wrote; anything else is a `UserError`."""
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise UserError(f"synthetic set {path} {what}; give a .safetensors file that fedsim wrote")
        try:
            with safe_open(str(path), framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise UserError(f"synthetic set {path} cannot be read ({error}); give a file that fedsim wrote") from error
        whitening = zca.taken(tensors)
        if (
            meta.get("format") != FORMAT
            or "fedsim" not in meta
            or set(tensors) - {"soft", "weights", "rates"} != {"images", "labels"}
        ):
            raise UserError(f"{path} is safetensors but not a synthetic set; give a file that fedsim wrote")
        try:
            header = _Header.model_validate_json(meta["fedsim"])
        except ValidationError as error:
            where, line = first_error(error, _Header)
            raise UserError(f"synthetic set {path} is damaged: header {where}: {line}") from error
        images, labels = tensors["images"], tensors["labels"]
        soft, weights, rates = (tensors.get(name) for name in ("soft", "weights", "rates"))
        problem = check_tensors(images, labels, len(header.classes), tuple(images.shape[1:]), soft)
        problem = problem or scale.problem(weights, len(labels)) or schedule.problem(rates, header.formation)
        if problem is None and not images.shape[1] == len(header.mean) == len(header.std):
            problem = f"{len(header.mean)} means and {len(header.std)} deviations for {images.shape[1]} channels"
        problem = problem or multi.problem(header.formation, *images.shape[2:])
        problem = problem or zca.problem(whitening, math.prod(images.shape[1:]))
        if problem is not None:
            raise UserError(f"synthetic set {path} is damaged: {problem}")
        rest = {"soft": soft, "weights": weights, "rates": rates, "zca": Whitening.of(whitening)}
        return cls(images, labels, **dict(header), **rest)

    def problem(self, num_classes: int, image_shape: tuple[int, ...]) -> str | None:
        """What is wrong with the tensors for a task of `num_classes` and `image_shape`, or None."""
        return check_tensors(self.images, self.labels, num_classes, image_shape, self.soft)

    def save_npz(self, path: Path | str) -> None:
        """Export images (m, c, h, w) uint8, labels, class names, and what else there is, as plain numpy."""
        found = self.tensors() | ({"rates": self.rates} if self.rates is not None else {})
        arrays: dict[str, Any] = {name: value.numpy() for name, value in found.items()}
        np.savez_compressed(path, **arrays, classes=np.array(self.classes))

    def save_png(self, path: Path | str, per_row: int | None = None, scale: int = 2) -> None:
        """Export one picture: a row of images per class present, labels ascending."""
        whole = self.grid(per_row)
        Image.fromarray(whole).resize(pictures.scaled(whole, scale), Image.Resampling.NEAREST).save(path)

    def save_folder(self, path: Path | str) -> None:
        """Export PATH/CLASS/0000.png, as torchvision's ImageFolder reads it."""
        for index, (image, label) in enumerate(zip(self.images, self.labels.tolist(), strict=True)):
            folder = Path(path) / pictures.folder_name(self.classes[label], label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures.picture(image)).save(folder / f"{index:04d}.png")

    def grid(self, per_row: int | None = None) -> np.ndarray:
        """All images as one uint8 picture (height, width[, 3]) with a grey line between them, a class per row."""
        return pictures.grid(self.images, self.labels, per_row)


def union(sets: Sequence[SyntheticSet]) -> Images:
    """All images of several sets as networks see them (`as_images`), in the order given.

    Where some have soft labels, the hard ones of the others become one-hot; weights are those of all sets or of none.
    Each item is asked for twice and let go, so that beside the union only one set of a lazy sequence is in memory.
    """
    forms = [(len(one) * one.formation**2, one.soft is not None, one.weights is not None) for one in sets]
    sizes, softs, weighty = zip(*forms, strict=True)
    soft = torch.empty((sum(sizes), sets[0].num_classes)) if any(softs) else None
    weights = torch.empty(sum(sizes)) if any(weighty) else None
    if weights is not None and not all(weighty):
        raise UserError(f"{sum(weighty)} of {len(sets)} sets have weights; valid: all or none of a union")
    pixels = torch.empty((sum(sizes), *sets[0].images.shape[1:]), dtype=torch.uint8)
    labels = torch.empty(sum(sizes), dtype=torch.int64)
    first = 0
    for one, size in zip(sets, sizes, strict=True):
        images, rows = one.as_images(), slice(first, first + size)
        pixels[rows], labels[rows] = images.pixels, images.labels
        if soft is not None:
            own = images.soft
            soft[rows] = own if own is not None else probabilities.one_hot(images.labels, soft.shape[1])
        if weights is not None and one.weights is not None:
            weights[rows] = one.weights.repeat_interleave(one.formation**2)
        first += size
    return Images(pixels, labels, soft, scale.mean_one(weights) if weights is not None else None)


def check_tensors(  # noqa: PLR0911 - one return per defect
    images: Tensor, labels: Tensor, num_classes: int, image_shape: tuple[int, ...], soft: Tensor | None = None
) -> str | None:
    """Shapes, dtypes, finiteness, box and label range of a received set: what is wrong, or None."""
    if images.dtype.is_floating_point:
        if not bool(torch.isfinite(images).all()):
            return f"{int((~torch.isfinite(images)).sum())} pixel values are not finite"
        return f"images are {images.dtype}, not uint8"
    if images.dtype != torch.uint8:
        return f"images are {images.dtype}, not uint8"
    if labels.dtype != torch.int64:
        return f"labels are {labels.dtype}, not int64"
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(image_shape):
        return f"image shape is {tuple(images.shape[1:])}, not {tuple(image_shape)}"
    if labels.ndim != 1 or labels.shape[0] != images.shape[0]:
        return f"{tuple(labels.shape)} labels for {images.shape[0]} images"
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        return f"labels reach from {int(labels.min())} to {int(labels.max())}, valid are 0 to {num_classes - 1}"
    return probabilities.problem(soft, len(labels), num_classes) if soft is not None else None


def _sorted_header(content: bytes) -> bytes:
    """A safetensors file with its header's keys in order: its writer's own order differs from call to call."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # data begin at a multiple of 8, as the format asks
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
