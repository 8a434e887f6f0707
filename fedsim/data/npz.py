"""Arrays of an npz file that anybody may have written: nothing of it is run, and what is wrong is one line."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedsim.data.split import one_line
from fedsim.types import UserError

_DAMAGED = (zipfile.BadZipFile, zlib.error)


def arrays_of(path: Path, keys: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name, all or those of `keys` that are there; nothing pickled is loaded.

    Raises `UserError` for a file that is damaged, is no npz or holds something else.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if keys is None or key in keys}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, RuntimeError, *_DAMAGED) as error:
        plain = isinstance(error, PermissionError) or zipfile.is_zipfile(path)
        reason = one_line(error) if plain else "it is no npz archive"
        raise UserError(f"{path} cannot be read ({reason}); give a plain npz without Python objects") from error
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path}: {key} is not an array; write the file with numpy.savez")
    return arrays
