"""The narrow door to real images: class sums against loops, and never more rows than were asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.data.images import Images
from fedsim.distill.real import SLICE, Owners, RealImages
from fedsim.seeding import stream
from tests.reference import dm as reference

LIGHT = settings(max_examples=25, deadline=None)
COUNTS = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)
SEEDS = st.integers(0, 10**6)


def owner(images: Images, classes: int) -> RealImages:
    return RealImages(images, classes, reference.NORMALISE, torch.device("cpu"))


def pixels_in_double(images: Tensor, _: Tensor) -> Tensor:
    return images.double().flatten(1)


@LIGHT
@given(COUNTS, SEEDS, st.integers(0, 4))
def test_sums_over_everything_equal_loops(counts: list[int], seed: int, chunk: int) -> None:
    images = reference.images(counts, seed=seed)
    sums, seen = owner(images, len(counts)).class_sums(pixels_in_double, 0, stream(seed), rows=chunk)
    expected = torch.zeros(len(counts), 36, dtype=torch.float64)
    for pixels, label in zip(images.pixels, images.labels.tolist(), strict=True):
        expected[label] += reference.NORMALISE(pixels[None])[0].double().flatten()
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-12)
    assert seen.tolist() == counts


@LIGHT
@given(COUNTS, SEEDS, st.integers(1, 6))
def test_a_batch_holds_what_was_asked_or_the_whole_class_each_row_once(
    counts: list[int], seed: int, asked: int
) -> None:
    images = reference.images(counts, seed=seed)
    seen: list[tuple[float, ...]] = []
    labels_seen: list[int] = []

    def spy(batch: Tensor, labels: Tensor) -> Tensor:
        seen.extend(tuple(row) for row in batch.flatten(1).tolist())
        labels_seen.extend(labels.tolist())
        return batch.flatten(1)

    _, taken = owner(images, len(counts)).class_sums(spy, asked, stream(seed))
    assert taken.tolist() == [min(asked, count) for count in counts]
    assert labels_seen == [label for label, count in enumerate(counts) for _ in range(min(asked, count))]
    assert len(set(seen)) == len(seen)
    known = {
        (tuple(row), label)
        for row, label in zip(
            reference.NORMALISE(images.pixels).flatten(1).tolist(), images.labels.tolist(), strict=True
        )
    }
    assert set(zip(seen, labels_seen, strict=True)) <= known


@LIGHT
@given(COUNTS, SEEDS, st.data())
def test_subset_gives_at_most_what_there_is_with_labels_ascending(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    images = reference.images(counts, seed=seed)
    wanted = torch.tensor([data.draw(st.integers(0, 7)) for _ in counts])
    pixels, labels = owner(images, len(counts)).subset(wanted, stream(seed))
    expected = torch.minimum(wanted, torch.tensor(counts))
    assert torch.equal(torch.bincount(labels, minlength=len(counts)), expected)
    assert torch.equal(labels, labels.sort().values)
    originals = {
        (image.numpy().tobytes(), label) for image, label in zip(images.pixels, images.labels.tolist(), strict=True)
    }
    chosen = [(image.numpy().tobytes(), label) for image, label in zip(pixels, labels.tolist(), strict=True)]
    assert set(chosen) <= originals
    assert len(set(chosen)) == len(chosen)


def test_draws_are_those_of_the_generator_and_vary_with_it() -> None:
    real = owner(reference.images((20, 0, 20)), 3)
    first, again, other = (real.class_sums(pixels_in_double, 4, stream(seed), rows=0)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[1].abs().sum() == 0


def test_every_image_of_a_class_is_drawn_equally_often() -> None:
    images = Images(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), torch.tensor([1, 0, 1, 1, 0, 1]))
    real, rng = owner(images, 2), stream(0)
    hits = torch.zeros(6)
    for _ in range(2000):
        pixels, _ = real.subset(torch.tensor([1, 1]), rng)
        hits[pixels.flatten().long()] += 1
    # 5 standard deviations of a binomial count: one image in four, one image in two
    assert (hits[[0, 2, 3, 5]] - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5
    assert (hits[[1, 4]] - 1000).abs().max() < 5 * (2000 * 0.25) ** 0.5


def test_no_gradient_and_no_image_leaves_by_the_sums() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    sums, _ = owner(reference.images(), 4).class_sums(
        lambda images, labels: pixels_in_double(images, labels) * weight, 0, stream(0)
    )
    assert not sums.requires_grad


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_chunks_show_every_row_once(chunk: int) -> None:
    sizes: list[int] = []

    def spy(images: Tensor, _: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.flatten(1)

    owner(reference.images(), 4).class_sums(spy, 0, stream(0), rows=chunk)
    assert sum(sizes) == sum(reference.RAGGED)
    assert max(sizes) <= SLICE * chunk


# --- several owners ---

SOME = st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any), min_size=1, max_size=4)


@LIGHT
@given(SOME, SEEDS, st.integers(0, 3), st.integers(0, 4))
def test_owners_together_draw_and_sum_as_each_alone(counts: list[list[int]], seed: int, batch: int, chunk: int) -> None:
    owners = [owner(reference.images(one, seed=seed + index), 3) for index, one in enumerate(counts)]
    together = Owners(owners)
    sums, seen = together.class_sums(pixels_in_double, batch, stream(seed), rows=chunk)
    for index, one in enumerate(owners):
        alone, held = one.class_sums(pixels_in_double, batch, stream(seed), rows=chunk)
        torch.testing.assert_close(sums[3 * index : 3 * index + 3], alone, rtol=0, atol=1e-12)
        assert torch.equal(seen[3 * index : 3 * index + 3], held)
    assert together.counts.tolist() == [count for one in counts for count in one]


def test_a_subset_of_owners_is_ordered_by_segment() -> None:
    owners = [owner(reference.images(one, seed=index), 2) for index, one in enumerate(((3, 1), (0, 2)))]
    pixels, labels = Owners(owners).subset(torch.tensor([2, 9, 1, 1]), stream(0))
    assert labels.tolist() == [0, 0, 1, 3]
    assert torch.equal(pixels[3], owners[1].subset(torch.tensor([1, 1]), stream(0))[0][0])
