"""The torchvision sets by name.

Nothing is fetched unless `download: true`. torchvision unpickles CIFAR's files, each only after its published
MD5 was found. Mean and std are those of the condensation papers.

Source  LeCun, Cortes, Burges (MNIST); Xiao, Rasul, Vollgraf,
        arXiv 1708.07747 (Fashion-MNIST); Krizhevsky 2009 (CIFAR); Netzer et al. 2011 (SVHN).
"""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from fedsim.data.images import DataConfig, Dataset, Images
from fedsim.data.split import one_line
from fedsim.data.torchvision_binary import ensure_operators
from fedsim.types import UserError

TEN_DIGITS = tuple(str(digit) for digit in range(10))

# torchvision parses idx files that it did not verify, with assertions and lookups.
_PARSING = (AssertionError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError)


class TorchvisionConfig(DataConfig):
    """Settings of every torchvision set."""

    path: str | None = None
    """Folder that torchvision calls root; None: the environment's FEDSIM_DATA, else ./data."""
    download: bool = False
    """Fetch the set from the internet into `path` when it is not there."""


class TorchvisionSet:
    """What the torchvision sets share: where they are looked for and how they become a Dataset."""

    NAME: ClassVar[str]
    """Name of the class in `torchvision.datasets`."""
    FILES: ClassVar[str]
    """What the folder should hold, for errors."""
    CLASSES: ClassVar[tuple[str, ...]] = ()
    """Names of the classes, where torchvision's are not wanted."""
    MEAN: ClassVar[tuple[float, ...]]
    STD: ClassVar[tuple[float, ...]]

    def __init__(self, config: TorchvisionConfig) -> None:
        self.config = config
        self.root = Path(config.path or os.environ.get("FEDSIM_DATA") or "data").expanduser()

    def load(self) -> Dataset:
        """The whole set, (n, c, h, w) uint8; `UserError` when missing, damaged or out of reach."""
        ensure_operators()
        loader = getattr(importlib.import_module("torchvision.datasets"), self.NAME)
        root = self._root(loader)
        if self.config.download and root == self.root:
            self._download(loader)
        try:
            splits = [loader(str(root), **self._split(train)) for train in (True, False)]
            train, test = (_images(split) for split in splits)
        except (RuntimeError, OSError, *_PARSING) as error:
            raise UserError(
                f"data {self.config.name} is not (or not intact) in {root.absolute()}: "
                f"expected {self.FILES}; set data.path; data.download=true downloads it ({one_line(error)})"
            ) from error
        classes = self.CLASSES or tuple(splits[0].classes)
        return Dataset(self.config.name, train, test, classes, self.MEAN, self.STD, self.config.zca)

    def _split(self, train: bool) -> dict[str, Any]:
        return {"train": train}

    def _download(self, loader: Any) -> None:
        try:
            for train in (True, False):
                loader(str(self.root), download=True, **self._split(train))
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            where = f"{self.root.absolute()} ({one_line(error)}); put there {self.FILES}, or set data.path"
            raise UserError(f"data {self.config.name} could not be downloaded to {where}") from error

    def _root(self, loader: Any) -> Path:
        return self.root


class IdxSet(TorchvisionSet):
    """MNIST's file format: four .gz files, which torchvision unpacks beside themselves."""

    def _root(self, loader: Any) -> Path:
        """The cache, unpacked there without network, where the folder has verified .gz files only."""
        from torchvision.datasets.utils import check_integrity

        raw = self.root / self.NAME / "raw"
        if all((raw / name.removesuffix(".gz")).is_file() for name, _ in loader.resources):
            return self.root
        # torchvision fetches a file whose MD5 is wrong, hence the check before it is told to download.
        if not all(check_integrity(str(raw / name), md5) for name, md5 in loader.resources):
            return self.root
        cache = Path(os.environ.get("FEDSIM_CACHE") or "~/.cache/fedsim").expanduser()
        if not (cache / self.NAME).is_dir():
            self._unpack(loader, raw, cache)
        return cache

    def _unpack(self, loader: Any, raw: Path, cache: Path) -> None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                copy = Path(folder) / self.NAME / "raw"
                copy.mkdir(parents=True)
                for name, _ in loader.resources:
                    shutil.copyfile(raw / name, copy / name)
                loader(folder, download=True)
                for name, _ in loader.resources:
                    (copy / name).unlink()
                copy.parent.rename(cache / self.NAME)
        except OSError as error:
            # A process that unpacked meanwhile took the name, and its files serve all.
            if not (cache / self.NAME).is_dir():
                raise UserError(
                    f"data {self.config.name} cannot be unpacked to {cache.absolute()} ({one_line(error)}); "
                    f"set FEDSIM_CACHE to a folder that can be written"
                ) from error


class MNIST(IdxSet):
    """70 000 handwritten digits, 28×28 grey."""

    class Config(TorchvisionConfig):
        name: Literal["mnist"] = "mnist"
        """Name of the set."""

    NAME = "MNIST"
    FILES = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]"
    MEAN, STD = (0.1307,), (0.3081,)
    CLASSES = TEN_DIGITS


class FashionMNIST(IdxSet):
    """70 000 pieces of clothing, 28×28 grey."""

    class Config(TorchvisionConfig):
        name: Literal["fashion_mnist"] = "fashion_mnist"
        """Name of the set."""

    NAME = "FashionMNIST"
    FILES = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]"
    MEAN, STD = (0.2861,), (0.3530,)


class CIFAR10(TorchvisionSet):
    """60 000 colour images of 10 classes, 32×32."""

    class Config(TorchvisionConfig):
        name: Literal["cifar10"] = "cifar10"
        """Name of the set."""

    NAME = "CIFAR10"
    FILES = "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}"
    MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class CIFAR100(TorchvisionSet):
    """60 000 colour images of 100 classes, 32×32."""

    class Config(TorchvisionConfig):
        name: Literal["cifar100"] = "cifar100"
        """Name of the set."""

    NAME = "CIFAR100"
    FILES = "cifar-100-python/{train,test,meta}"
    MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)


class SVHN(TorchvisionSet):
    """99 289 house numbers, 32×32 colour; the extra split is not used."""

    class Config(TorchvisionConfig):
        name: Literal["svhn"] = "svhn"
        """Name of the set."""

    NAME = "SVHN"
    FILES = "{train,test}_32x32.mat"
    MEAN, STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)

    def _split(self, train: bool) -> dict[str, Any]:
        return {"split": "train" if train else "test"}

    CLASSES = TEN_DIGITS


def _images(loaded: Any) -> Images:
    """As (n, c, h, w); torchvision holds MNIST as (n, h, w), CIFAR as (n, h, w, c), SVHN as (n, c, h, w)."""
    pixels = torch.as_tensor(loaded.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] != 3:
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(loaded.labels if hasattr(loaded, "labels") else loaded.targets, dtype=torch.int64)
    if len(pixels) != len(labels):
        raise ValueError(f"{len(pixels)} images and {len(labels)} labels")
    return Images(pixels.contiguous(), labels)
