"""DSA against its pixel-by-pixel version, and what siamese, per-group and differentiable mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from fedsim import config as configuration
from fedsim.data import augment as dsa
from fedsim.types import UserError
from tests.reference import dsa as reference

ALL = dsa.Config()
PARAMETERS = ("flip", "scale", "rotate", "crop", "cutout", "brightness", "saturation", "contrast")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def slowly(images: Tensor, group: Tensor, draws: Tensor, config: dsa.Config) -> Tensor:
    """Every image by the literal version, its uniforms looked up by name."""
    values = {name: getattr(config, name) for name in PARAMETERS}
    result = []
    for image, index in zip(images, group.tolist(), strict=True):
        row = dict(zip(dsa.COLUMNS, draws[index].double().tolist(), strict=True))
        operation = config.strategy[int(row["operation"])]
        result.append(reference.transform(image.double().numpy(), operation, row, values))
    return torch.from_numpy(np.stack(result))


ranges = zip(PARAMETERS, ((0, 1), (1, 3), (0, 180), (0, 1), (0, 1), (0, 3), (0, 3), (0, 2)), strict=True)
settings_drawn = st.builds(dsa.Config, **{name: st.floats(*ends) for name, ends in ranges})
shapes = st.tuples(st.just(3), st.sampled_from([1, 3]), st.integers(8, 11), st.integers(8, 11))


@pytest.mark.parametrize("operation", dsa.OPERATIONS)
@settings(max_examples=20, deadline=None)
@given(drawn=settings_drawn, shape=shapes, seed=st.integers(0, 10**6))
def test_each_operation_equals_its_literal_version(
    operation: dsa.Operation, drawn: dsa.Config, shape: tuple[int, ...], seed: int
) -> None:
    config = drawn.model_copy(update={"strategy": (operation,)})
    images, group = noise(*shape, seed=seed), torch.tensor([1, 0, 1])
    draws = dsa.draw(config, 2, generator(seed))
    close(dsa.augment(images, group, draws, config), slowly(images, group, draws, config), 1e-10)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (1, 64)])
def test_defaults_equal_the_literal_version_in_float32(channels: int, side: int) -> None:
    draws = dsa.draw(ALL, 6, generator(1))
    draws[:, 0] = torch.arange(6)  # every operation once
    images, group = noise(6, channels, side, side, dtype=torch.float32), torch.arange(6).flip(0)
    close(dsa.augment(images, group, draws, ALL), slowly(images, group, draws, ALL).float(), 1e-4)


def test_siamese_images_of_a_group_share_one_transform() -> None:
    draws = dsa.draw(ALL, 10, generator(2))
    real, synthetic = noise(40, 3, 8, 8, seed=1), noise(20, 3, 8, 8, seed=2)
    real_class = torch.randint(10, (40,), generator=generator(3))
    synthetic_class = torch.arange(10).repeat_interleave(2)
    joint = dsa.augment(torch.cat([real, synthetic]), torch.cat([real_class, synthetic_class]), draws, ALL)
    close(joint[:40], dsa.augment(real, real_class, draws, ALL))
    close(joint[40:], dsa.augment(synthetic, synthetic_class, draws, ALL))
    twins = dsa.augment(synthetic[:1].expand(20, -1, -1, -1), synthetic_class, draws, ALL)
    close(twins[0::2], twins[1::2])
    assert twins[0::2].flatten(1).unique(dim=0).shape[0] > 5  # and groups differ from each other


@settings(max_examples=20, deadline=None)
@given(groups=st.integers(1, 7), count=st.integers(1, 12), seed=st.integers(0, 10**6), one=st.booleans())
def test_all_groups_at_once_equal_a_loop_over_groups(groups: int, count: int, seed: int, one: bool) -> None:
    draws = dsa.draw(ALL, groups, generator(seed), one_operation=one)
    images = noise(count, 3, 9, 8, seed=seed)
    group = torch.randint(groups, (count,), generator=generator(seed + 1))
    looped, given_images = torch.empty_like(images), images.clone()
    for index in range(groups):
        members = (group == index).nonzero()[:, 0]
        looped[members] = dsa.augment(images[members], members * 0, draws[index : index + 1], ALL)
    close(dsa.augment(images, group, draws, ALL), looped)
    assert torch.equal(images, given_images)


@pytest.mark.parametrize("strategy", [*((name,) for name in dsa.OPERATIONS), dsa.OPERATIONS])
def test_gradient_with_respect_to_the_images(strategy: tuple[dsa.Operation, ...]) -> None:
    config = dsa.Config(strategy=strategy)
    draws = dsa.draw(config, 3, generator(4))
    if len(strategy) > 1:
        draws[:, 0] = torch.tensor([5.0, 0.0, 4.0])  # rotate, color, scale in one batch
    images, group = noise(3, 2, 4, 3).requires_grad_(), torch.tensor([2, 0, 1])
    assert torch.autograd.gradcheck(lambda pixels: dsa.augment(pixels, group, draws, config), (images,))


def test_flip_mirrors_below_its_probability() -> None:
    images, group = noise(5, 3, 8, 8), torch.arange(5)
    never, always = dsa.Config(strategy=("flip",), flip=0), dsa.Config(strategy=("flip",), flip=1)
    draws = dsa.draw(never, 5, generator())
    assert torch.equal(dsa.augment(images, group, draws, never), images)
    assert torch.equal(dsa.augment(images, group, draws, always), images.flip(3))
    draws[:, dsa.COLUMNS.index("flip")] = torch.tensor([0.5 - 2**-25, 0.5, 0.4, 0.6, 0.0])
    half = dsa.augment(images, group, draws, dsa.Config(strategy=("flip",)))
    assert torch.equal(half[[1, 3]], images[[1, 3]])
    assert torch.equal(half[[0, 2, 4]], images[[0, 2, 4]].flip(3))


def test_reduces_to_the_identity() -> None:
    strategy = ("crop", "cutout", "flip", "scale", "rotate")
    config = dsa.Config(strategy=strategy, flip=0, scale=1, rotate=0, crop=0, cutout=0)
    draws, images = dsa.draw(config, 30, generator()), noise(30, 3, 10, 10)
    assert draws[:, 0].unique().numel() == 5
    close(dsa.augment(images, torch.arange(30), draws, config), images)
    draws[:, 0], draws[:, 1:] = torch.arange(30) % 3, 0.5  # no shift, a factor of 1, an angle of 0
    middle = dsa.Config(strategy=("color", "rotate", "crop"))
    close(dsa.augment(images, torch.arange(30), draws, middle), images)


def test_operations_move_a_known_picture_the_right_way() -> None:
    picture = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    picture[0, 0, 1, 3] = 1.0  # second row, right border
    one, quarter = torch.ones(1, dtype=torch.float64), torch.full((1,), math.pi / 2, dtype=torch.float64)
    # Anticlockwise the right border becomes the top; a window that moves down moves the picture up.
    assert dsa.rotate(picture, quarter)[0, 0, 0, 1] == pytest.approx(1)
    assert dsa.crop(picture, one, one)[0, 0, 0, 2] == 1
    assert dsa.crop(picture, -one, -one).sum() == 0
    assert dsa.cutout(picture, one, 4 * one, 0.5).sum() == 0  # rows 0 and 1, columns 3 (and 4, outside)
    assert torch.equal(dsa.cutout(picture, 3 * one, 4 * one, 0.5), picture)
    grey, flat = (dsa.color(noise(1, 3, 4, 4), one, a * one, (1 - a) * one) for a in (0, 1))
    close(grey[:, 0], grey[:, 2])
    close(flat, (noise(1, 3, 4, 4).mean() + 1).expand(1, 3, 4, 4))


BAD = "flip: 1.1, flip: -0.1, scale: 0.9, scale: .inf, rotate: 181, crop: -0.1, cutout: 1.5, brightness: -1,"
BAD += "saturation: -1, contrast: -1, contrast: high, noise: 0.05, strategy: [], strategy: flip, strategy: [a]"


@pytest.mark.parametrize("text", [line.strip() for line in BAD.split(",")])
def test_bad_settings_are_refused_by_name(text: str) -> None:
    raw = configuration.parse_yaml(text, "test")
    with pytest.raises(ValidationError):
        dsa.Config(**raw)
    with pytest.raises(UserError, match=text.partition(":")[0]):
        configuration.validate(dsa.Config, raw)


def test_config_survives_writing_and_names_what_is_wrong() -> None:
    config = configuration.validate(dsa.Config, {"strategy": ["flip", "crop"], "scale": 2})
    assert config.strategy == ("flip", "crop")
    assert tuple(getattr(ALL, name) for name in PARAMETERS) == (0.5, 1.2, 15, 0.125, 0.5, 1, 2, 0.5)
    assert configuration.validate(dsa.Config, configuration.dump(config)) == config
    with pytest.raises(UserError, match=r"strategy\.0: got 'zoom'.*'rotate'"):
        configuration.validate(dsa.Config, {"strategy": ["zoom"]})


def test_draws_come_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    draws = dsa.draw(ALL, 12, generator(7))
    dsa.augment(noise(12, 1, 8, 8), torch.arange(12), draws, ALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(draws, dsa.draw(ALL, 12, generator(7)))
    assert not torch.equal(draws, dsa.draw(ALL, 12, generator(8)))
    assert (draws.dtype, draws.device.type, draws.is_contiguous()) == (torch.float32, "cpu", True)
    assert dsa.draw(ALL, 0, generator()).shape == (0, len(dsa.COLUMNS))


def test_statistics_of_the_draws() -> None:
    draws = dsa.draw(ALL, 12_000, generator(9))
    counts = draws[:, 0].long().bincount(minlength=6)
    assert (counts - 2000).abs().max() < 5 * math.sqrt(12_000 * 5 / 36)  # five standard deviations
    assert draws[:, 1:].min() >= 0
    assert draws[:, 1:].max() < 1
    assert (draws[:, 1:].mean(0) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / 12_000)
    correlation = torch.corrcoef(draws.T) - torch.eye(len(dsa.COLUMNS))
    assert correlation.abs().max() < 5 / math.sqrt(12_000)  # scale_x and scale_y, the colors: all independent


def test_one_operation_for_all_groups_with_parameters_of_their_own() -> None:
    drawn = [dsa.draw(ALL, 5, generator(seed), one_operation=True) for seed in range(60)]
    assert all(draws[:, 0].unique().numel() == 1 for draws in drawn)
    assert {int(draws[0, 0]) for draws in drawn} == set(range(6))
    assert all(draws[:, 1:].unique(dim=0).shape[0] == 5 for draws in drawn)


@pytest.mark.parametrize("side", [8, 9, 28, 32, 64])
def test_ranges_of_the_parameters(side: int) -> None:
    draws = dsa.draw(ALL, 4000, generator(side))
    draws[0, 1:], draws[1, 1:] = 0.0, 1 - 2**-24  # both ends of float32 uniforms
    value = dict(zip(dsa.COLUMNS, dsa.parameters(draws, ALL, side, side).unbind(1), strict=True))
    shift, odd = int(side / 8 + 0.5), int(side / 2 + 0.5) % 2
    assert value["crop_row"].unique().tolist() == list(range(-shift, shift + 1))
    assert value["cutout_column"].unique().tolist() == list(range(side + 1 - odd))
    assert value["flip"].mean() == pytest.approx(0.5, abs=0.05)
    ends = {
        "brightness": (-0.5, 0.5),
        "saturation": (0, 2),
        "contrast": (0.5, 1.5),
        "scale_y": (1 / 1.2, 1.2),
    }
    ends |= {"rotate": (-math.pi / 12, math.pi / 12)}
    for name, (low, high) in ends.items():
        assert value[name].min() == pytest.approx(low, abs=1e-6)
        assert value[name].max() == pytest.approx(high, abs=1e-6)


def test_draws_of_another_strategy_are_refused_and_an_empty_batch_passes() -> None:
    images, group, config = noise(2, 3, 8, 8), torch.arange(2), dsa.Config(strategy=("flip", "crop"))
    draws = dsa.draw(config, 2, generator())
    draws[1, 0] = 5
    with pytest.raises(UserError, match=r"do not fit strategy flip, crop; valid: .* the first in 0\.\.1"):
        dsa.augment(images, group, draws, config)
    assert dsa.augment(images[:0], group[:0], draws[:1], config).shape == (0, 3, 8, 8)
    with pytest.raises(UserError, match=r"shape \(2, 4\)"):
        dsa.augment(images, group, draws[:, :4], config)


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_memory_format_are_kept(dtype: torch.dtype, one: bool) -> None:
    draws = dsa.draw(ALL, 12, generator(3), one_operation=one)
    images, group = noise(12, 3, 8, 8).to(dtype), torch.arange(12)
    rows = dsa.augment(images, group, draws, ALL)
    pixels = dsa.augment(images.to(memory_format=torch.channels_last), group, draws, ALL)
    assert (rows.dtype, pixels.dtype, rows.is_contiguous()) == (dtype, dtype, True)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(rows, pixels)
    close(rows.double(), dsa.augment(images.double(), group, draws, ALL), 0.02)


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu() -> None:
    draws = dsa.draw(ALL, 12, generator(3))
    images, group = noise(12, 3, 32, 32, dtype=torch.float32), torch.arange(12)
    there = dsa.augment(images.cuda(), group.cuda(), draws, ALL)
    close(there.cpu(), dsa.augment(images, group, draws, ALL), 1e-4)
