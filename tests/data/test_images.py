"""Real images and data sets: selection, counts, and a fingerprint that sees every byte."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest
import torch

from fedsim.data.images import Dataset, Images
from tests.reference import dm as reference


def dataset(seed: int = 0) -> Dataset:
    train, test = reference.images(seed=seed), reference.images((1, 1, 0, 0), seed=seed + 1)
    return Dataset("made", train, test, ("a", "b", "c", "d"), (0.3,), (0.4,))


def test_take_gives_rows_in_the_order_asked() -> None:
    images = reference.images()
    some = images.take(torch.tensor([4, 0, 4]))
    assert torch.equal(some.pixels, images.pixels[[4, 0, 4]])
    assert torch.equal(some.labels, images.labels[[4, 0, 4]])
    assert (len(images), len(some)) == (9, 3)


def test_counts_include_absent_classes() -> None:
    assert reference.images((2, 0, 3)).counts(5).tolist() == [2, 0, 3, 0, 0]


def test_moving_keeps_content() -> None:
    images = reference.images().to(torch.device("cpu"))
    assert torch.equal(images.pixels, reference.images().pixels)


def test_a_data_set_knows_its_form() -> None:
    assert (dataset().num_classes, dataset().image_shape) == (4, (1, 6, 6))


def test_fingerprint_is_the_hash_of_shapes_pixels_and_labels() -> None:
    expected = hashlib.sha256()
    for split in (dataset().train, dataset().test):
        expected.update(str(tuple(split.pixels.shape)).encode())
        expected.update(bytes(split.pixels.flatten().tolist()))
        expected.update(struct.pack(f"<{len(split)}q", *split.labels.tolist()))
    assert dataset().fingerprint() == expected.hexdigest()[:16]
    assert dataset().fingerprint() != dataset(seed=5).fingerprint()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", ["pixels", "labels"])
def test_fingerprint_sees_one_changed_value(split: str, part: str) -> None:
    images = getattr(dataset(), split)
    changed = getattr(images, part).clone()
    changed.view(-1)[0] = (int(changed.view(-1)[0]) + 1) % 4
    other = dataclasses.replace(dataset(), **{split: dataclasses.replace(images, **{part: changed})})
    assert other.fingerprint() != dataset().fingerprint()


def test_fingerprint_does_not_see_memory_layout() -> None:
    train = dataset().train
    strided = Images(train.pixels.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2), train.labels)
    assert not strided.pixels.is_contiguous()
    assert dataclasses.replace(dataset(), train=strided).fingerprint() == dataset().fingerprint()
