"""Makes `import torchvision` work where its compiled part does not fit the installed torch.

A wheel built for CUDA beside a CPU torch (or for another torch) cannot load its binary; the import then
fails because two operators, `nms` and `qnms`, are described without a guard. Declaring their schemas is
enough: data sets, transforms and models use neither, and calling them still fails with torch's own message.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
from pathlib import Path

import torch

OPERATORS = ("nms", "qnms")
"""The operators that torchvision describes at import whether or not its binary is there."""

# A schema lives only as long as the library object that declared it.
_DECLARED: list[torch.library.Library] = []


def ensure_operators() -> tuple[str, ...]:
    """Load torchvision's binary if it can be loaded; declare the operators that are missing after that.

    Call it before `import torchvision`; a second call does nothing. Returns the operators it declared: none
    where the binary works. Raises `ModuleNotFoundError` where torchvision is not installed.
    """
    binary = _binary()
    if _missing() and binary is not None:
        # A binary that does not load is the very case this file is for; what it lacks is declared below.
        with contextlib.suppress(ImportError, OSError):
            torch.ops.load_library(str(binary))
    return _declare(_missing())


def _missing() -> tuple[str, ...]:
    return tuple(name for name in OPERATORS if not hasattr(torch.ops.torchvision, name))


def _declare(names: tuple[str, ...]) -> tuple[str, ...]:
    if names:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in names:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
    return names


def _binary() -> Path | None:
    """torchvision's compiled operators, None in a build without them; found without importing torchvision."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
    folder = Path(package.origin).parent
    files = (folder / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)
