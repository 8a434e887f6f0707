"""scikit-learn's handwritten digits: the set that needs no file of its own, and that everything can be tried on.

Mean and std are those of the train split.

Source  Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from fedsim.data.images import DataConfig, Dataset, Images
from fedsim.data.split import stratified
from fedsim.seeding import numpy_stream
from fedsim.types import UserError

CLASSES = tuple(str(digit) for digit in range(10))
TEST_SHARE = 0.2


class Digits:
    """1797 handwritten digits of 8×8, 17 grey levels; the test split is the same 20 % for every seed."""

    class Config(DataConfig):
        name: Literal["digits"] = "digits"
        """Name of the set."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self) -> Dataset:
        """Pixels (n, 1, 8, 8): round(v·255/16) of scikit-learn's levels v = 0..16; 1438 train, 359 test."""
        levels, labels = _read()
        pixels = torch.from_numpy(np.rint(levels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8))
        labels = labels.astype(np.int64)
        size, rng = round(TEST_SHARE * len(labels)), numpy_stream(0, "digits", "test")
        test = stratified(labels, size, rng, "digits")
        train = np.delete(np.arange(len(labels)), test)
        every = Images(pixels, torch.from_numpy(labels))
        take = (every.take(torch.from_numpy(index)) for index in (train, test))
        return Dataset("digits", *take, classes=CLASSES, mean=(0.3049,), std=(0.3756,), zca=self.config.zca)


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """Levels (n, 64) and labels (n,) from the file that scikit-learn holds.

    Its own reader imports all of scikit-learn and scipy.stats, a third of what a worker takes to start.
    """
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise UserError("data.name=digits: scikit-learn, which holds them, is not installed; pip install scikit-learn")
    file = Path(folders[0]) / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        raise UserError(f"data.name=digits: scikit-learn {importlib.metadata.version('scikit-learn')} has no {file}; "
                        "install it whole: pip install --force-reinstall scikit-learn")  # fmt: skip
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]
