"""DSA: one random, differentiable image operation, the same for every image of a group.

Real and synthetic images of one class pass through the same operation with the same parameters (*siamese*),
so a matching loss compares like with like and its gradient reaches the synthetic pixels. A group is a class
(siamese matching) or one image (training a network); it draws one operation (the release's mode S).

Operations on normalised images x of (c, h, w), with every u independent and uniform in [0, 1):
    color   x ← x + (u − ½)·brightness; then x ← μ_c + (x − μ_c)·u·saturation, μ_c each pixel's mean over c;
            then x ← μ + (x − μ)·(u + contrast), μ the mean over c, h, w
    crop    x[i, j] ← x[i + s, j + t], 0 outside; s uniform on the integers −a … a, a = ⌊h·crop + ½⌋; t with w
    cutout  a patch of a × b pixels ← 0, cut off at the border; a = ⌊h·cutout + ½⌋, first row m − ⌊a/2⌋ with
            m uniform on 0 … h − (a mod 2); columns with b and w
    flip    mirrored left to right if u < flip
    scale   read at (f·x, g·y); f, g uniform in [1/scale, scale); more than 1 shrinks the picture
    rotate  read at the point turned by an angle uniform in ±rotate degrees; > 0 turns it anticlockwise
scale and rotate read bilinearly, at coordinates where −1 and 1 are the outer edges of the image, and find 0
outside. 0 is the mean colour of normalised images and stays 0 for any others.

Source  Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
        arXiv 2102.08259.
Code    VICO-UoE/DatasetCondensation `utils.py` (MIT): formulae and defaults of `DiffAugment` and `rand_*`,
        with torch's default align_corners=False (mtt-distillation's copy passes True).
Differs draws come from a given generator. The release's siamese mode seeds the global one for each draw, by
        the clock and then 1 more each time, so that f ≠ g and the three colour draws differ, as here.
        bfloat16 and half images are augmented in float32 and cast back. Mode M (all operations in turn) and
        the unused noise ratio are not offered.
Reduces to the identity at flip 0, scale 1, rotate 0, crop 0, cutout 0 without color.
Cost    a few copies of the batch. `group` is fetched once from its device, or never if all draws share
        an operation. On a GPU the gradient of scale and rotate is summed in no fixed order (grid_sample).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.types import UserError

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
COLUMNS: tuple[str, ...] = (
    *("operation", "brightness", "saturation", "contrast", "crop_row", "crop_column"),
    *("cutout_row", "cutout_column", "flip", "scale_x", "scale_y", "rotate"),
)
"""What the p columns of `draw` and `parameters` hold."""


class Config(Section):
    """Settings of DSA."""

    name: Literal["dsa"] = "dsa"
    strategy: tuple[Operation, ...] = Field(default=OPERATIONS, strict=False, min_length=1)
    """Operations to draw from, each equally likely; a name given twice is drawn twice as often."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring left to right."""
    scale: float = Field(default=1.2, ge=1)
    """Largest factor of each axis; the smallest is its inverse."""
    rotate: float = Field(default=15.0, ge=0, le=180)
    """Largest angle, in degrees, to either side."""
    crop: float = Field(default=0.125, ge=0, le=1)
    """Largest shift along each axis, as a share of the side."""
    cutout: float = Field(default=0.5, ge=0, le=1)
    """Side of the blank patch, as a share of the image's side."""
    brightness: float = Field(default=1.0, ge=0)
    """Width of the range of shifts, centred at 0, in units of the normalised pixels."""
    saturation: float = Field(default=2.0, ge=0)
    """Largest factor on each pixel's distance from its grey; the smallest is 0."""
    contrast: float = Field(default=0.5, ge=0)
    """Smallest factor on each pixel's distance from the image's mean; the largest is 1 more."""


def draw(config: Config, groups: int, rng: torch.Generator, *, one_operation: bool = False) -> Float[Tensor, "g p"]:
    """One float32 row per group, on the CPU: an index into `config.strategy`, then a uniform per parameter.

    Independent of the image size, so rows can be stored and indexed by class. With `one_operation` all groups
    share one operation and keep their own parameters, as the release does for training batches.
    """
    size = (1 if one_operation else groups, 1)
    kinds = torch.randint(len(config.strategy), size, generator=rng, device=rng.device)
    uniforms = torch.rand(groups, len(COLUMNS) - 1, generator=rng, device=rng.device)
    return torch.cat([kinds.float().expand(groups, 1), uniforms], dim=1).cpu()


def parameters(draws: Float[Tensor, "g p"], config: Config, height: int, width: int) -> Float[Tensor, "g p"]:
    """The draws as float64 parameters for images of `height` × `width`, column by column.

    Shifts and cutout centres are in pixels, flip is 0 or 1, the angle is in radians.
    """
    kind, brightness, saturation, contrast, crop_row, crop_column, *others = draws.double().unbind(1)
    cutout_row, cutout_column, flipped, scale_x, scale_y, angle = others
    shift_row, shift_column = _part(height, config.crop), _part(width, config.crop)
    centres_row = height + 1 - _part(height, config.cutout) % 2
    centres_column = width + 1 - _part(width, config.cutout) % 2
    smallest = 1 / config.scale
    columns = (
        kind,
        (brightness - 0.5) * config.brightness,
        saturation * config.saturation,
        contrast + config.contrast,
        (crop_row * (2 * shift_row + 1)).floor() - shift_row,
        (crop_column * (2 * shift_column + 1)).floor() - shift_column,
        (cutout_row * centres_row).floor(),
        (cutout_column * centres_column).floor(),
        (flipped < config.flip).double(),
        smallest + scale_x * (config.scale - smallest),
        smallest + scale_y * (config.scale - smallest),
        ((angle - 0.5) * 2 * config.rotate).deg2rad(),
    )
    return torch.stack(columns, dim=1)


def augment(
    images: Float[Tensor, "n c h w"], group: Int[Tensor, "n"], draws: Float[Tensor, "g p"], config: Config
) -> Float[Tensor, "n c h w"]:
    """Every image after its group's operation; differentiable in `images`, in their dtype and memory format.

    `group` holds rows 0..g-1 of `draws`. Raises `UserError` for draws that do not fit the strategy.
    """
    kinds = _kinds(draws, config)
    if images.shape[0] == 0:
        return images
    precision = torch.promote_types(images.dtype, torch.float32)
    values = parameters(draws, config, images.shape[2], images.shape[3])
    values = values.to(device=images.device, dtype=precision)[group]  # n p
    used = kinds.unique().tolist()
    if len(used) == 1:
        result = _apply(config.strategy[used[0]], images.to(precision), values, config)
    else:
        result = _by_operation(images.to(precision), kinds[group.cpu()], values, config)
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return result.to(images.dtype).contiguous(memory_format=layout)


def color(
    images: Float[Tensor, "n c h w"],
    brightness: Float[Tensor, "n"],
    saturation: Float[Tensor, "n"],
    contrast: Float[Tensor, "n"],
) -> Float[Tensor, "n c h w"]:
    """Shift by `brightness`, times `saturation` about each pixel's grey, times `contrast` about the mean."""
    images = images + brightness.view(-1, 1, 1, 1)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * saturation.view(-1, 1, 1, 1) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * contrast.view(-1, 1, 1, 1) + mean


def crop(
    images: Float[Tensor, "n c h w"], down: Float[Tensor, "n"], right: Float[Tensor, "n"]
) -> Float[Tensor, "n c h w"]:
    """The window starting `down` rows and `right` columns (whole numbers) into the image, 0 outside it."""
    _, channels, height, width = images.shape
    row = (torch.arange(height, device=images.device) + down.long()[:, None])[:, :, None]  # n h 1
    column = (torch.arange(width, device=images.device) + right.long()[:, None])[:, None, :]  # n 1 w
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    source = source.flatten(1)[:, None, :].expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, source).unflatten(2, (height, width))
    return moved.masked_fill(~inside[:, None], 0)


def cutout(
    images: Float[Tensor, "n c h w"], row: Float[Tensor, "n"], column: Float[Tensor, "n"], share: float
) -> Float[Tensor, "n c h w"]:
    """0 in the patch of `share` of each side around (`row`, `column`)."""
    hidden_rows = _interval(row, images.shape[2], share)[:, :, None]  # n h 1
    hidden_columns = _interval(column, images.shape[3], share)[:, None, :]  # n 1 w
    return images.masked_fill((hidden_rows & hidden_columns)[:, None], 0)


def flip(images: Float[Tensor, "n c h w"], mirrored: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Mirrored left to right where `mirrored` is not 0."""
    return torch.where(mirrored.view(-1, 1, 1, 1) != 0, images.flip(3), images)


def scale(images: Float[Tensor, "n c h w"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Read at `x` times the horizontal and `y` times the vertical coordinate."""
    zero = torch.zeros_like(x)
    return _read_at(images, (x, zero), (zero, y))


def rotate(images: Float[Tensor, "n c h w"], angle: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
    """Read at coordinates turned by `angle` radians, about the centre (of a square image)."""
    return _read_at(images, (angle.cos(), -angle.sin()), (angle.sin(), angle.cos()))


def _kinds(draws: Tensor, config: Config) -> Int64[Tensor, "g"]:
    last = len(config.strategy) - 1
    if draws.shape[1] != len(COLUMNS) or not bool(((draws[:, 0] >= 0) & (draws[:, 0] <= last)).all()):
        raise UserError(
            f"DSA draws of shape {tuple(draws.shape)} do not fit strategy {', '.join(config.strategy)}; "
            f"valid: {len(COLUMNS)} columns, the first in 0..{last}; make them with draw and the same config"
        )
    return draws[:, 0].long().cpu()


def _by_operation(images: Tensor, kinds: Tensor, values: Tensor, config: Config) -> Float[Tensor, "n c h w"]:
    # Sorted by operation, each operation meets one slice; nothing is written in place under autograd.
    order = kinds.argsort(stable=True).to(images.device)
    counts = kinds.bincount(minlength=len(config.strategy)).tolist()
    parts = images.index_select(0, order).split(counts)
    slices = zip(config.strategy, parts, values[order].split(counts), strict=True)
    done = [_apply(name, part, value, config) for name, part, value in slices if len(part)]
    return torch.cat(done).index_select(0, order.argsort())


def _apply(name: Operation, images: Tensor, values: Tensor, config: Config) -> Tensor:
    value = dict(zip(COLUMNS, values.unbind(1), strict=True))
    match name:
        case "color":
            return color(images, value["brightness"], value["saturation"], value["contrast"])
        case "crop":
            return crop(images, value["crop_row"], value["crop_column"])
        case "cutout":
            return cutout(images, value["cutout_row"], value["cutout_column"], config.cutout)
        case "flip":
            return flip(images, value["flip"])
        case "scale":
            return scale(images, value["scale_x"], value["scale_y"])
        case "rotate":
            return rotate(images, value["rotate"])


def _read_at(images: Tensor, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    # Rows of the matrix that takes an output point (x, y) to the point that is read.
    zero = torch.zeros_like(x[0])
    matrix = torch.stack([*x, zero, *y, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _interval(centre: Tensor, side: int, share: float) -> Tensor:
    length = _part(side, share)
    offset = torch.arange(side, device=centre.device) - (centre - length // 2)[:, None]
    return (offset >= 0) & (offset < length)  # n side


def _part(side: int, share: float) -> int:
    return int(side * share + 0.5)
