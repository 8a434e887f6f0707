"""Normalisation, its inverse, and the box that valid pixels live in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.transforms import Normalise
from fedsim.seeding import stream

LIGHT = settings(max_examples=25, deadline=None)
MEANS, STDS = st.floats(0.0, 1.0), st.floats(0.05, 2.0)


@LIGHT
@given(MEANS, STDS)
def test_every_byte_survives_the_round_trip(mean: float, std: float) -> None:
    normalise = Normalise((mean,), (std,))
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    assert torch.equal(normalise.quantise(normalise(pixels)), pixels)


@LIGHT
@given(MEANS, STDS, st.integers(0, 10**6))
def test_projection_is_the_nearest_point_of_the_box(mean: float, std: float, seed: int) -> None:
    normalise = Normalise((mean,), (std,))
    images = torch.randn(3, 1, 4, 4, generator=stream(seed)) * 4
    projected = normalise.project(images)
    low, high = -mean / std, (1 - mean) / std
    torch.testing.assert_close(projected, images.clamp(low, high), rtol=0, atol=1e-5)
    assert torch.equal(normalise.project(projected), projected)
    inside = (images > low) & (images < high)
    assert torch.equal(projected[inside], images[inside])


def test_channels_have_their_own_constants() -> None:
    normalise = Normalise((0.5, 0.0), (0.25, 1.0))
    pixels = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    assert normalise(pixels).flatten().tolist() == [2.0, 1.0]
    far = torch.full((1, 2, 1, 1), 100.0)
    assert normalise.project(far).flatten().tolist() == [2.0, 1.0]
    assert normalise.project(-far).flatten().tolist() == [-2.0, 0.0]


def test_quantisation_rounds_to_the_nearest_byte_and_clips() -> None:
    normalise = Normalise((0.0,), (1.0,))
    levels = torch.tensor([-3.0, 0.4 / 255, 0.6 / 255, 99.6 / 255, 7.0]).view(1, 1, 1, 5)
    assert normalise.quantise(levels).flatten().tolist() == [0, 0, 1, 100, 255]


def test_network_input_is_float32_of_the_same_shape() -> None:
    pixels = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    images = Normalise((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))(pixels)
    assert (images.dtype, images.shape) == (torch.float32, pixels.shape)
    assert images[0, :, 0, 0].tolist() == pytest.approx([-0.1, -0.2, -0.3])
