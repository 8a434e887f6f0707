"""A trigger: where it lies, what it leaves alone, and that nothing leaves the box of bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.images import Images
from fedsim.data.trigger import Trigger, corner, noisy, scrambled, veil, white
from fedsim.types import UserError


def pixels(count: int = 3, channels: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 5, 6), generator=rng).to(torch.uint8)


def test_a_square_lies_one_pixel_off_the_bottom_right_corner() -> None:
    assert corner((1, 4, 5), 2).int().tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert corner((3, 2, 2), 2, offset=0).all()


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8))
def test_a_square_has_its_size_or_is_refused(size: int, offset: int, height: int, width: int) -> None:
    if size + offset > min(height, width):
        with pytest.raises(UserError, match=rf"a square of {size} pixels, {offset} off the corner, does not fit"):
            corner((1, height, width), size, offset)
    else:
        assert int(corner((1, height, width), size, offset).sum()) == size**2


@pytest.mark.parametrize(("size", "offset"), [(0, 1), (-2, 1), (2, -1)])
def test_no_square_is_refused(size: int, offset: int) -> None:
    with pytest.raises(UserError, match="valid: size from 1, offset from 0, together at most 5"):
        corner((1, 5, 6), size, offset)


def test_a_stamp_covers_the_mask_and_nothing_else_and_the_given_images_stay() -> None:
    given_pixels = pixels()
    before, trigger = given_pixels.clone(), noisy((2, 5, 6), 2, 1, torch.Generator().manual_seed(1))
    found = trigger.stamp(given_pixels)
    assert torch.equal(given_pixels, before)
    assert found.dtype == torch.uint8
    for image in found:
        assert torch.equal(image[:, trigger.mask], trigger.values[:, trigger.mask])
    assert torch.equal(found[:, :, ~trigger.mask], before[:, :, ~trigger.mask])
    assert torch.equal(trigger.stamp(found), found)


def test_poison_is_stamped_and_relabelled_where_it_is_told() -> None:
    images = Images(pixels(4), torch.tensor([0, 1, 2, 2]))
    trigger, rows = white((2, 5, 6), 2, target=3), torch.tensor([3, 0])
    found = trigger.poison(images, rows)
    assert found.labels.tolist() == [3, 1, 2, 3]
    assert torch.equal(found.pixels[rows], trigger.stamp(images.pixels[rows]))
    assert torch.equal(found.pixels[[1, 2]], images.pixels[[1, 2]])
    assert images.labels.tolist() == [0, 1, 2, 2]
    none = trigger.poison(images, torch.tensor([], dtype=torch.int64))
    assert torch.equal(none.pixels, images.pixels)


def test_white_is_white_and_noise_is_drawn_from_its_generator() -> None:
    assert set(white((2, 5, 6), 2, 0).values.unique().tolist()) == {255}
    one, same, other = (noisy((3, 16, 16), 4, 0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.values, other.values)
    assert (one.values.dtype, int(one.values.min()) < 20, int(one.values.max()) > 235) == (torch.uint8, True, True)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    trigger = noisy((2, 5, 6), 3, 7, torch.Generator().manual_seed(1))
    trigger.save(tmp_path / "trigger.safetensors")
    found = Trigger.load(tmp_path / "trigger.safetensors")
    assert torch.equal(found.values, trigger.values)
    assert torch.equal(found.mask, trigger.mask)
    assert (found.mask.dtype, found.target) == (torch.bool, 7)


def test_a_veil_is_added_to_every_pixel_and_clipped_to_bytes() -> None:
    given_pixels = pixels()
    given_pixels[0] = torch.tensor([0, 3, 100, 252, 255, 7]).to(torch.uint8)
    before, trigger = given_pixels.clone(), veil((2, 5, 6), 8, 1, torch.Generator().manual_seed(3))
    found = trigger.stamp(given_pixels)
    assert found.dtype == torch.uint8
    assert torch.equal(given_pixels, before)
    assert torch.equal(found.int(), (before.int() + trigger.values.int()).clamp(0, 255))
    assert set(trigger.values.unique().tolist()) == {-8, 8}
    assert int((found.int() - before.int()).abs().max()) == 8


@pytest.mark.parametrize("bound", [-1, 256])
def test_a_bound_is_of_grey_levels(bound: int) -> None:
    with pytest.raises(UserError, match=f"bound {bound}; valid: int16 within the bound, and a bound from 0 to 255"):
        veil((1, 5, 6), bound, 0, torch.Generator())


def test_a_veil_is_saved_with_its_bound(tmp_path: Path) -> None:
    trigger = veil((2, 5, 6), 8, 7, torch.Generator().manual_seed(1))
    trigger.save(tmp_path / "trigger.safetensors")
    found = Trigger.load(tmp_path / "trigger.safetensors")
    assert torch.equal(found.values, trigger.values)
    assert (found.bound, found.values.dtype, found.target) == (8, torch.int16, 7)


def test_what_it_is_compared_with_has_its_place_and_its_bound() -> None:
    square, quiet = white((1, 5, 6), 2, 3), veil((1, 5, 6), 8, 3, torch.Generator().manual_seed(1))
    noise, signs = (scrambled(one, torch.Generator().manual_seed(2)) for one in (square, quiet))
    assert torch.equal(noise.values, noisy((1, 5, 6), 2, 3, torch.Generator().manual_seed(2)).values)
    assert torch.equal(noise.mask, square.mask)
    assert (signs.bound, signs.target, torch.equal(signs.values, quiet.values)) == (8, 3, False)


def test_records_of_the_target_keep_their_label() -> None:
    images = Images(pixels(4), torch.tensor([3, 1, 3, 2]))
    found = white((2, 5, 6), 2, target=3).poison(images, torch.tensor([0, 2]))
    assert torch.equal(found.labels, images.labels)
    assert not torch.equal(found.pixels, images.pixels)
