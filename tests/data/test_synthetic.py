"""The synthetic set on disk: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
import pickle
import re
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fedsim.data.synthetic import FORMAT, SyntheticSet, check_tensors, union
from fedsim.seeding import stream
from fedsim.types import UserError

LIGHT = settings(max_examples=25, deadline=None)


def made(count: int = 5, channels: int = 1, classes: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> SyntheticSet:
    shape, rng = (count, channels, 4, 5), stream(seed)
    images = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, len(classes), (count,), generator=rng).sort().values
    constants = (0.25,) * channels, (0.5,) * channels
    return SyntheticSet(images, labels, classes, *constants, {"method": "dm", "round": 2}, {"labels": "hard"})


def same(left: SyntheticSet, right: SyntheticSet) -> bool:
    tensors = torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels)
    names = ("classes", "mean", "std", "provenance", "protocol")
    return tensors and all(getattr(left, name) == getattr(right, name) for name in names)


@LIGHT
@given(
    st.integers(0, 7),
    st.sampled_from([1, 3]),
    st.lists(st.text(min_size=1), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_what_is_saved_is_loaded(count: int, channels: int, classes: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.safetensors"
        synthetic = made(count, channels, tuple(classes), seed)
        synthetic.save(path)
        assert same(SyntheticSet.load(path), synthetic)
        assert path.read_bytes() == synthetic.encode()
        assert [file.name for file in Path(folder).iterdir()] == ["set.safetensors"]


def test_the_header_is_readable_json() -> None:
    content = made().encode()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == FORMAT
    assert json.loads(header["__metadata__"]["fedsim"])["provenance"] == {"method": "dm", "round": 2}


def test_equal_sets_are_equal_files() -> None:
    assert len({made(classes=("ä", "b")).encode() for _ in range(20)}) == 1
    content = made().encode()
    assert (8 + int.from_bytes(content[:8], "little")) % 8 == 0


@pytest.mark.parametrize(
    ("count", "classes", "bits"),
    [(5, 3, 5 * 20 * 8 + 5 * 2), (10, 10, 1600 + 40), (3, 1, 480 + 3), (1, 16, 164), (0, 2, 0)],
)
def test_bits_count_pixels_and_labels(count: int, classes: int, bits: int) -> None:
    assert made(count, classes=tuple(str(label) for label in range(classes))).bits() == bits


def test_counts_length_and_union() -> None:
    first, second = made(4, seed=1), made(3, seed=2)
    assert (len(first), first.num_classes) == (4, 3)
    assert first.counts().tolist() == [int((first.labels == label).sum()) for label in range(3)]
    both = union([first, second])
    assert torch.equal(both.pixels, torch.cat([first.images, second.images]))
    assert torch.equal(both.labels, torch.cat([first.labels, second.labels]))


def test_the_union_lets_each_set_go() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    class Lazy(Sequence[SyntheticSet]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: Any) -> Any:
            if index >= 6:
                raise IndexError
            assert sum(one() is not None for one in alive) <= 1  # the one before, which the loop still names
            one = made(3, seed=index)
            alive.append(weakref.ref(one.images))
            return one

    together = union(Lazy())
    assert torch.equal(together.pixels, torch.cat([made(3, seed=seed).images for seed in range(6)]))


# --- what is refused ---


@pytest.mark.parametrize("keep", [0, 4, 30, 0.5, 0.99])
def test_a_cut_file_is_one_line(keep: float, tmp_path: Path) -> None:
    content, path = made().encode(), tmp_path / "cut.safetensors"
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    refuse(path, "cannot be read")


def refuse(path: Path, fragment: str) -> None:
    with pytest.raises(UserError, match=fragment) as refused:
        SyntheticSet.load(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", "does not exist")
    refuse(tmp_path, "does not exist|is a folder|cannot be read")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    path = tmp_path / "set.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    refuse(path, "cannot be read")
    torch.save({"images": torch.zeros(1)}, path)
    refuse(path, "cannot be read")
    assert not (tmp_path / "sprung").exists()


GOOD = {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "labels": torch.tensor([0, 1])}
HEADER: dict[str, Any] = {"classes": ["a", "b"], "mean": [0.5], "std": [0.5], "provenance": {}, "protocol": {}}


@pytest.mark.parametrize(
    ("tensors", "meta"),
    [
        (GOOD, None),
        (GOOD, {"format": "other", "fedsim": json.dumps(HEADER)}),
        (GOOD, {"format": FORMAT}),
        (GOOD, {"format": FORMAT, "fedsim": "{"}),
        (GOOD, {"format": FORMAT, "fedsim": "[]"}),
        (GOOD, {"format": FORMAT, "fedsim": "{}"}),
        (GOOD, HEADER | {"classes": "ab"}),
        (GOOD, HEADER | {"classes": [1, 2]}),
        (GOOD, HEADER | {"classes": ["a"]}),
        (GOOD, HEADER | {"mean": ["x"]}),
        (GOOD, HEADER | {"mean": [0.5, 0.5]}),
        (GOOD, HEADER | {"std": []}),
        (GOOD, HEADER | {"std": [0.0]}),
        (GOOD, HEADER | {"mean": None}),
        (GOOD, HEADER | {"protocol": []}),
        ({"images": GOOD["images"]}, HEADER),
        (GOOD | {"more": torch.zeros(1)}, HEADER),
        (GOOD | {"images": torch.full((2, 1, 4, 4), float("nan"))}, HEADER),
        (GOOD | {"images": torch.zeros(2, 1, 4, 4)}, HEADER),
        (GOOD | {"images": torch.zeros(2, 4, dtype=torch.uint8)}, HEADER),
        (GOOD | {"images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, HEADER),
        (GOOD | {"labels": torch.tensor([0, 2])}, HEADER),
        (GOOD | {"labels": torch.tensor([-1, 0])}, HEADER),
        (GOOD | {"labels": torch.tensor([0.0, 1.0])}, HEADER),
    ],
)
def test_foreign_and_damaged_files_are_one_line(tensors: Any, meta: Any, tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    if meta is not None and "classes" in meta:
        meta = {"format": FORMAT, "fedsim": json.dumps(meta)}
    save_file(dict(tensors), path, meta)
    refuse(path, "synthetic set")


@pytest.mark.parametrize(
    ("images", "labels", "fragment"),
    [
        (torch.full((1, 1, 2, 2), float("nan")), torch.tensor([0]), "4 pixel values are not finite"),
        (torch.zeros(1, 1, 2, 2), torch.tensor([0]), "float32, not uint8"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), torch.tensor([0]), "int64, not uint8"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0.0]), "labels are torch.float32"),
        (torch.zeros(1, 1, 2, 3, dtype=torch.uint8), torch.tensor([0]), r"image shape is \(1, 2, 3\), not \(1, 2, 2\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), r"\(1,\) labels for 2 images"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([3]), "labels reach from 3 to 3, valid are 0 to 2"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1]), "labels reach from -1"),
    ],
)
def test_check_names_the_defect(images: torch.Tensor, labels: torch.Tensor, fragment: str) -> None:
    problem = check_tensors(images, labels, 3, (1, 2, 2))
    assert problem is not None
    assert re.search(fragment, problem)


def test_check_accepts_a_sound_set() -> None:
    assert made().problem(3, (1, 4, 5)) is None
