"""A file that is damaged, or holds what is no array, is one line, and no object in it is made."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedsim.data.npz import arrays_of
from fedsim.types import UserError

IMAGES = np.random.default_rng(0).integers(0, 255, (50, 6, 6), dtype=np.uint8)


def stored(path: Path) -> Path:
    np.savez_compressed(path, images=IMAGES, labels=np.arange(50))
    return path


def test_all_arrays_or_those_that_are_asked_for(tmp_path: Path) -> None:
    path = stored(tmp_path / "set.npz")
    assert set(arrays_of(path)) == {"images", "labels"}
    found = arrays_of(path, ("images", "soft"))
    assert set(found) == {"images"}
    assert np.array_equal(found["images"], IMAGES)


def test_what_is_no_array_is_named_where_it_is_asked_for(tmp_path: Path) -> None:
    path = stored(tmp_path / "set.npz")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("soft", b"no array")
    with pytest.raises(UserError, match=r"set\.npz: soft is not an array; write the file with numpy\.savez"):
        arrays_of(path)
    assert set(arrays_of(path, ("images",))) == {"images"}


def test_damage_is_one_line(tmp_path: Path) -> None:
    broken = bytearray(stored(tmp_path / "set.npz").read_bytes())
    broken[90:110] = b"\xff" * 20  # inside the deflated bytes of the first member
    (tmp_path / "set.npz").write_bytes(broken)
    with pytest.raises(UserError, match=r"set\.npz cannot be read \(.+\); give a plain npz without Python objects"):
        arrays_of(tmp_path / "set.npz")
    (tmp_path / "text.npz").write_text("words")
    with pytest.raises(UserError, match=r"text\.npz cannot be read \(it is no npz archive\)"):
        arrays_of(tmp_path / "text.npz")
