"""Sets of other tools: numpy is read as bytes, pickles are refused with the way to convert them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.data.foreign import read_set
from fedsim.data.images import Dataset, Images
from fedsim.types import UserError

PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([0, 1, 1])
LIKE = Dataset(
    "own", Images(torch.zeros(2, 1, 4, 5, dtype=torch.uint8), torch.tensor([0, 1])),
    Images(torch.zeros(1, 1, 4, 5, dtype=torch.uint8), torch.tensor([0])), ("cat", "dog"), (0.3,), (0.2,),
)  # fmt: skip


def stored(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("images", [PIXELS, PIXELS[:, None], PIXELS[..., None], PIXELS / np.float32(255)])
def test_an_npz_is_described_by_the_images_it_is_tested_on(images: np.ndarray, tmp_path: Path) -> None:
    found = read_set(stored(tmp_path / "set.npz", images=images, labels=LABELS), LIKE)
    assert torch.equal(found.images[:, 0], torch.from_numpy(PIXELS))
    assert found.labels.tolist() == [0, 1, 1]
    assert (found.classes, found.mean, found.std) == (LIKE.classes, LIKE.mean, LIKE.std)


def test_what_we_export_is_what_we_read(tmp_path: Path) -> None:
    found = read_set(stored(tmp_path / "set.npz", images=PIXELS, labels=LABELS), LIKE)
    found.save_npz(tmp_path / "again.npz")
    again = read_set(tmp_path / "again.npz", LIKE)
    assert torch.equal(again.images, found.images)
    found.save(tmp_path / "ours.safetensors")
    assert torch.equal(read_set(tmp_path / "ours.safetensors", LIKE).labels, found.labels)


@pytest.mark.parametrize("suffix", [".pt", ".PTH", ".pkl"])
def test_a_pickle_is_never_opened(suffix: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / f"set{suffix}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"loading one can run code; convert it .* numpy\.savez"):
        read_set(tmp_path / f"set{suffix}", LIKE)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"images": PIXELS}, r"has no labels \(it holds images\); give arrays images and labels"),
        ({"images": PIXELS / 20.0, "labels": LABELS}, "undo the normalisation"),
        ({"images": PIXELS * np.nan, "labels": LABELS}, "60 pixel values are not finite"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "images is empty"),
        ({"images": PIXELS, "labels": LABELS[:2]}, r"labels are int64\(2,\) for 3 images"),
        ({"images": PIXELS, "labels": LABELS / 2}, "give one integer each"),
        ({"images": PIXELS, "labels": LABELS + 1}, "labels reach from 1 to 2, valid are 0 to 1"),
        ({"images": PIXELS[:, :3], "labels": LABELS}, r"image shape is \(1, 3, 5\), not \(1, 4, 5\)"),
        ({"images": PIXELS, "labels": LABELS, "classes": np.array(["dog", "cat"])}, "the test images have"),
        ({"images": np.array([{}], dtype=object), "labels": LABELS}, "give a plain npz without Python objects"),
        ({"images": np.uint8(3), "labels": LABELS}, "images is a single number"),
    ],
)
def test_what_does_not_fit_is_one_line(arrays: dict[str, np.ndarray], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        read_set(stored(tmp_path / "set.npz", **arrays), LIKE)


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; give a \.safetensors or \.npz file"):
        read_set(tmp_path / "none.npz", LIKE)
    (tmp_path / "bad.npz").write_bytes(b"just text")
    with pytest.raises(UserError, match=r"cannot be read \(it is no npz archive\)"):
        read_set(tmp_path / "bad.npz", LIKE)
