"""A synthetic set as arrays, as a folder of pictures and as one picture."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim.data.synthetic import SyntheticSet
from fedsim.seeding import stream
from tests.data.test_synthetic import made


def test_npz_holds_plain_arrays(tmp_path: Path) -> None:
    synthetic = made(channels=3)
    synthetic.save_npz(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        assert np.array_equal(file["images"], synthetic.images.numpy())
        assert np.array_equal(file["labels"], synthetic.labels.numpy())
        assert file["classes"].tolist() == ["a", "b", "c"]
    assert zipfile.is_zipfile(tmp_path / "set.npz")


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_holds_every_image_under_its_class(channels: int, tmp_path: Path) -> None:
    synthetic = made(6, channels, ("x/y", "b", "c"))
    synthetic.save_folder(tmp_path / "folder")
    names = ("x_y", "b", "c")
    assert len(list((tmp_path / "folder").rglob("*.png"))) == 6
    for index, (image, label) in enumerate(zip(synthetic.images, synthetic.labels.tolist(), strict=True)):
        read = np.asarray(Image.open(tmp_path / "folder" / names[label] / f"{index:04d}.png"))
        expected = image.permute(1, 2, 0).numpy()
        assert np.array_equal(read, expected[:, :, 0] if channels == 1 else expected)


@pytest.mark.parametrize("name", ["..", ".", "", "/", "../../up"])
def test_folder_never_writes_outside_itself(name: str, tmp_path: Path) -> None:
    synthetic = made(3, classes=(name,))
    synthetic.save_folder(tmp_path / "a" / "b" / "folder")
    written = list(tmp_path.rglob("*.png"))
    assert len(written) == 3
    inside = tmp_path / "a" / "b" / "folder"
    assert all(path.parent.parent == inside for path in written)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_shows_a_row_per_class_present(channels: int, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, channels, 4, 5), generator=stream(0), dtype=torch.uint8)
    labels = torch.tensor([0, 2, 2, 2])
    synthetic = SyntheticSet(images, labels, ("a", "b", "c"), (0.5,) * channels, (0.5,) * channels)
    synthetic.save_png(tmp_path / "set.png", scale=1)
    shown = np.asarray(Image.open(tmp_path / "set.png"))
    assert shown.shape[:2] == (2 * 5 + 1, 3 * 6 + 1)
    for row, column, index in ((0, 0, 0), (1, 0, 1), (1, 1, 2), (1, 2, 3)):
        tile = shown[row * 5 + 1 : row * 5 + 5, column * 6 + 1 : column * 6 + 6]
        expected = images[index].permute(1, 2, 0).numpy()
        assert np.array_equal(tile, expected[:, :, 0] if channels == 1 else expected)
    assert (shown[0] == 128).all()
    assert synthetic.grid(per_row=2).shape[0] == 3 * 5 + 1
    synthetic.save_png(tmp_path / "large.png", scale=3)
    assert np.asarray(Image.open(tmp_path / "large.png")).shape[:2] == (11 * 3, 19 * 3)
