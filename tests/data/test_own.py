from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedsim.config import validate
from fedsim.data.own import ImageFolder, Npz
from fedsim.types import UserError


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    good = {
        "x_train": rng.integers(0, 256, (12, 5, 4), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, 5, 4), dtype=np.uint8),
        "y_test": np.arange(6, dtype=np.int16) % 3,
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def written(folder: Path, **changes: Any) -> Npz:
    path = folder / "mine.npz"
    content: dict[str, Any] = dict(arrays(**changes))
    np.savez(path, **content)
    return Npz(Npz.Config(path=str(path)))


def test_grey_images_keep_pixels_labels_and_exact_statistics(tmp_path: Path) -> None:
    data = written(tmp_path).load()
    good = arrays()
    assert np.array_equal(data.train.pixels.numpy()[:, 0], good["x_train"])
    assert np.array_equal(data.test.labels.numpy(), good["y_test"])
    assert data.classes == ("0", "1", "2")
    assert data.image_shape == (1, 5, 4)
    assert data.mean == pytest.approx((good["x_train"].mean() / 255,))
    assert data.std == pytest.approx((good["x_train"].std() / 255,))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_and_channels_first_are_told_apart(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(1)
    train = rng.integers(0, 256, (12, 5, 4, channels), dtype=np.uint8)
    first = train.transpose(0, 3, 1, 2)
    one = written(tmp_path, x_train=train, x_test=train[:6]).load()
    two = written(tmp_path, x_train=first, x_test=first[:6]).load()
    assert one.fingerprint() == two.fingerprint()
    assert np.array_equal(one.train.pixels.numpy(), first)
    assert one.mean == pytest.approx(train.mean(axis=(0, 1, 2)) / 255)
    assert one.std == pytest.approx(train.std(axis=(0, 1, 2)) / 255)


def test_names_and_statistics_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, classes=np.array(["a", "b", "c", "d"])).config.path
    raw = json.loads(json.dumps({"name": "npz", "path": path, "mean": [0.5], "std": [0.25]}))
    data = Npz(validate(Npz.Config, raw)).load()
    assert data.classes == ("a", "b", "c", "d")
    assert (data.mean, data.std) == ((0.5,), (0.25,))


GOOD = arrays()
LARGE = np.uint64(2**63 + 5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y_test": None, "x_test": None}, "has no x_test, y_test"),
        ({"x_train": GOOD["x_train"] / 255.0}, "x_train is float64; give uint8"),
        ({"x_train": GOOD["x_train"].astype(np.int64)}, "x_train is int64; give uint8"),
        ({"y_train": GOOD["y_train"].astype(float)}, "y_train is float64; give integer"),
        ({"y_train": GOOD["y_train"] > 0}, "y_train is bool; give integer"),
        ({"y_train": GOOD["y_train"].astype(object)}, "cannot be read .* without Python objects"),
        ({"y_train": GOOD["y_train"].astype(int) - 1}, "y_train goes from -1 to 1"),
        ({"y_train": GOOD["y_train"].astype(np.uint64) + LARGE}, "y_train goes from 9223372036854775813"),
        ({"y_test": GOOD["y_test"] + 1}, r"y_test goes up to 3; give 0\.\.2"),
        ({"classes": np.array(["a", "b"])}, r"y_train goes up to 2; give 0\.\.1"),
        ({"classes": np.array(["a", "b", "a"])}, "a name twice"),
        ({"classes": np.array([1, 2, 3])}, "not a list of names"),
        ({"y_train": GOOD["y_train"] * 2}, "3 classes numbered up to 4"),
        ({"y_train": GOOD["y_train"][:-1]}, r"y_train has shape \(11,\) beside 12 images"),
        ({"y_test": GOOD["y_test"][:, None]}, r"y_test has shape \(6, 1\)"),
        ({"x_train": GOOD["x_train"][:0], "y_train": GOOD["y_train"][:0]}, "is empty"),
        ({"y_train": np.zeros(12, np.int64)}, "holds class 0 alone"),
        ({"x_train": np.zeros((12, 3, 5, 3), np.uint8)}, "both of axis 1 and axis 3"),
        ({"x_train": np.zeros((12, 5, 4, 2), np.uint8)}, "neither of axis 1 and axis 3"),
        ({"x_train": np.zeros((12, 20), np.uint8)}, r"has shape \(12, 20\)"),
        ({"x_train": np.uint8(3)}, r"has shape \(\)"),
        ({"x_test": GOOD["x_test"][:, :4]}, "give one size"),
        ({"x_train": np.full((12, 5, 4), 7, np.uint8)}, "constant in train"),
    ],
)
def test_a_wrong_npz_is_a_user_error(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        written(tmp_path, **changes).load()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_npz_is_a_user_error(tmp_path: Path) -> None:
    path = Path(written(tmp_path).config.path)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 255
    np.save(tmp_path / "one.npy", np.arange(3))
    for content in (b"", b"text", whole[:300], bytes(damaged), (tmp_path / "one.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            Npz(Npz.Config(path=str(path))).load()
    for missing in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(UserError, match="is not a file"):
            Npz(Npz.Config(path=str(missing))).load()


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(UserError, match="without Python objects"):
        written(tmp_path, classes=np.array([Trap()], dtype=object)).load()
    assert not (tmp_path / "ran").exists()


def test_statistics_of_another_channel_count_are_a_user_error(tmp_path: Path) -> None:
    path = written(tmp_path).config.path
    with pytest.raises(UserError, match=r"data\.mean has 3 values; give 1"):
        Npz(Npz.Config(path=path, mean=[0.1, 0.2, 0.3])).load()


def draw_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee"), number: int = 5) -> None:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(number):
            colour = (40 * label, 20 * index, 100 + index)
            Image.new("RGB", (20 + index, 12), colour).save(root / name / f"{index}.png")


def folder_of(root: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(ImageFolder.Config(path=str(root), size=8, **settings))


def test_folders_with_their_own_test_split(tmp_path: Path) -> None:
    draw_folder(tmp_path / "train")
    draw_folder(tmp_path / "test", number=2)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("passed over")
    data = folder_of(tmp_path).load()
    assert (len(data.train), len(data.test), data.classes) == (10, 4, ("ant", "bee"))
    assert data.image_shape == (3, 8, 8)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.train.pixels[:, :, 3, 3].tolist()[5:7] == [[40, 0, 100], [40, 20, 101]]


def test_folders_without_a_test_split_hold_out_the_same_images_each_time(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    data = folder_of(tmp_path, test=0.4).load()
    assert data.test.counts(2).tolist() == [2, 2]
    assert data.train.counts(2).tolist() == [3, 3]
    assert data.fingerprint() == folder_of(tmp_path, test=0.4).load().fingerprint()


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    picture = np.zeros((16, 48, 3), np.uint8)
    picture[:, 16:32] = 255
    Image.fromarray(picture).save(tmp_path / "ant" / "0.png")
    assert (folder_of(tmp_path, test=0.1).load().train.pixels.flatten(1).min(dim=1).values == 255).any()


def test_modes_become_rgb_without_warnings(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    Image.new("L", (9, 9), 10).save(tmp_path / "ant" / "grey.JPG")
    Image.new("RGBA", (9, 9), (1, 2, 3, 100)).save(tmp_path / "ant" / "alpha.png")
    palette = Image.new("P", (9, 9))
    palette.save(tmp_path / "ant" / "palette.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = folder_of(tmp_path).load()
    assert len(data.train) + len(data.test) == 13
    assert data.image_shape == (3, 8, 8)


@pytest.mark.parametrize("case", ["text", "truncated", "sixteen_bit"])
def test_an_unreadable_image_is_named(tmp_path: Path, case: str) -> None:
    draw_folder(tmp_path)
    file = tmp_path / "bee" / "3.png"
    if case == "text":
        file.write_text("not an image")
    elif case == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:500])
    else:
        Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(file)
    with pytest.raises(UserError, match=r"bee.3\.png cannot be read"):
        folder_of(tmp_path).load()


def test_wrong_folders_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        folder_of(tmp_path / "none").load()
    with pytest.raises(UserError, match=r"0 class folder\(s\)"):
        folder_of(tmp_path).load()
    draw_folder(tmp_path / "a")
    (tmp_path / "a" / "cat").mkdir()
    with pytest.raises(UserError, match="cat has no image"):
        folder_of(tmp_path / "a").load()
    draw_folder(tmp_path / "b" / "train")
    with pytest.raises(UserError, match="has train/ alone"):
        folder_of(tmp_path / "b").load()
    draw_folder(tmp_path / "b" / "test", ("ant", "cow"))
    with pytest.raises(UserError, match="class folder 'bee' is in one of"):
        folder_of(tmp_path / "b").load()
    draw_folder(tmp_path / "c", number=1)
    with pytest.raises(UserError, match="less than 1"):
        folder_of(tmp_path / "c").load()
