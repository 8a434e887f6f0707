"""Scores and truths on disk: every number of a card is recomputed from them, and a cut-off audit goes on with them.

scores/ATTACK/TARGET.npz   what an attack computed of one target      truth/TARGET.npz   what it was not told
cache/HASH.npy             what several targets need                  scores/control.NAME/…   of a control
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.audit.types import Scores
from fedsim.runs import write_atomic
from fedsim.types import UserError


class Store:
    """The arrays of one audit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def scores(self, attack: str, target: str, compute: Callable[[], Scores]) -> Scores:
        """Of one attack on one target: from disk if they are there, else computed and stored."""
        path = self.folder / "scores" / attack / f"{target}.npz"
        return load_arrays(path) if path.is_file() else save_arrays(path, compute())

    def truth(self, target: str, compute: Callable[[], Scores]) -> Scores:
        """Of one target."""
        path = self.folder / "truth" / f"{target}.npz"
        return load_arrays(path) if path.is_file() else save_arrays(path, compute())

    def cached(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that is computed once; `name` says everything it depends on."""
        path = self.folder / "cache" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
        if path.is_file():
            return load_arrays(path)["array"]
        return save_arrays(path, {"array": compute()})["array"]

    def stored(self, attack: str) -> list[tuple[str, Scores, Scores]]:
        """(target, scores, truth) of every target that an attack was run on, in order."""
        found = sorted((self.folder / "scores" / attack).glob("*.npz"))
        return [(one.stem, load_arrays(one), load_arrays(self.folder / "truth" / one.name)) for one in found]

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of every stored array, those on the card's page among them, by its path in the folder."""
        files = [path for kind in ("scores", "truth", "cache") for path in sorted((self.folder / kind).rglob("*.npz"))]
        files += sorted(self.folder.glob("*.npz"))
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def save_arrays(path: Path, arrays: Scores) -> Scores:
    """Write an npz file whole or not at all; returns what a reader will find in it."""
    content = io.BytesIO()
    plain: dict[str, Any] = {name: np.asarray(one) for name, one in arrays.items()}
    np.savez_compressed(content, **plain)
    write_atomic(path, content.getvalue())
    return load_arrays(path)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote; a damaged or missing file is a `UserError`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); delete it and run again") from error
