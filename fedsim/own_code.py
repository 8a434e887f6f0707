"""The files of parts that are a user's own: a run notices when they change."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsim.config import Section, dump
from fedsim.types import UserError


def own_code(config: Section) -> dict[str, str]:
    """SHA-256 of the file of every part that is not the catalog's (`package.module:Class`), by its name."""
    names = [value for key, value in _leaves(dump(config)) if key == "name" and ":" in str(value)]
    return {name: hashlib.sha256(_source_file(name).read_bytes()).hexdigest()[:16] for name in names}


def _leaves(values: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything that is no mapping and no list."""
    for key, value in values.items() if isinstance(values, dict) else ():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from _leaves(inner)
            else:
                yield key, inner


def _source_file(name: str) -> Path:
    module = importlib.import_module(name.partition(":")[0])
    if module.__file__ is None:
        raise UserError(f"'{name}' comes from no file, so a run could not notice its changes; put it in a module file")
    return Path(module.__file__)
