"""Class means of pixels: against a literal mean, its private form against the mechanism, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from fedsim.distill.distribution.class_means import ClassMeans, Config, PrivateClassMeans
from fedsim.distill.drive import condense
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference.private_dm import LEAST, task, terms

COUNTS = (5, 0, 1, 3)
BOUND = math.sqrt(36) / 2
"""No image of 1×6×6 lies farther from grey."""


def literal(counts: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """The mean image of each class that is there, in 0..1, pixel by pixel in float64."""
    real = loops.images(counts)
    means = {}
    for label, count in enumerate(counts):
        total = torch.zeros(1, 6, 6, dtype=torch.float64)
        for image in real.pixels[real.labels == label]:
            total += image.double() / 255
        if count:
            means[label] = total / count
    return means


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found.double() / 255 - expected).abs().max()) <= 0.5001 / 255


def test_it_is_the_mean_image_of_every_class_that_is_there():
    found, _ = condense(ClassMeans(Config()), loops.task(counts=COUNTS), 1, Streams(0))
    means = literal(COUNTS)
    assert found.labels.tolist() == list(means)
    assert all(close(image, means[label]) for image, label in zip(found.images, found.labels.tolist(), strict=True))
    assert found.provenance == {"method": "class_means", "init": "mean"}


@pytest.mark.parametrize("centre", [0.5, 0.0])
def test_without_noise_the_private_means_are_the_open_ones(tmp_path, centre):
    clear = task(tmp_path, COUNTS, mechanism=Mechanism(2 * BOUND, 1.0, 1e-7))
    found, _ = condense(PrivateClassMeans(Config(centre=centre), terms(least=0.5)), clear, 1, Streams(0))
    means = literal(COUNTS)
    assert found.labels.tolist() == [0, 2, 3]
    assert all(close(image, means[label]) for image, label in zip(found.images, found.labels.tolist(), strict=True))


def test_the_private_means_are_the_noisy_sums_over_the_noisy_counts(tmp_path):
    here = task(tmp_path, (9, 0, 7, 3), mechanism=Mechanism(BOUND, BOUND / 2, 0.4))
    method = PrivateClassMeans(Config(), terms())
    state = method.init(here, None, stream(0))
    assert isinstance(here.real, PrivateImages)
    centre = torch.full((36,), 0.5)
    sums = here.real.release("class means of pixels around 0.5", lambda x, y: x, centre, here.network)  # the stored one
    for image, label in zip(state.pixels, state.labels.tolist(), strict=True):
        count = float(sums.values[label, -1]) / (BOUND / 2)
        expected = (0.5 + sums.values[label, :-1] / max(count, LEAST)).clamp(0, 1)
        assert count >= LEAST
        assert torch.allclose(image.flatten().double(), expected, atol=1e-6)
    left = set(range(4)) - set(state.labels.tolist())
    assert all(float(sums.counts[label]) < LEAST for label in left)
    assert 1 in left
    assert len(here.real.ledger.charges) == 1


def test_another_round_asks_for_the_same_release_and_pays_nothing(tmp_path):
    here, method = task(tmp_path, COUNTS), PrivateClassMeans(Config(), terms())
    first, again = (condense(method, here, 1, Streams(seed))[0] for seed in (0, 1))
    assert torch.equal(first.images, again.images)
    assert isinstance(here.real, PrivateImages)
    assert len(here.real.ledger.charges) == 1


def test_around_grey_no_image_is_cut():
    black, white = torch.zeros(1, 36), torch.ones(1, 36)
    assert all(float((image - 0.5).norm()) <= BOUND for image in (black, white))


def test_open_images_are_refused():
    with pytest.raises(UserError, match="got a client's open images"):
        PrivateClassMeans(Config(), terms()).init(loops.task(), None, stream(0))
