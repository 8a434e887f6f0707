"""How alike two images are: mean squared error, PSNR, SSIM, Euclidean distances; which image of many is the true one.

Pixels are in 0..1, de-normalised. A reconstruction may leave that box: PSNR, SSIM and `identified` clamp it first, as a
picture is shown; the mean squared error does not, as the papers on gradient leakage print it.

    PSNR = −10 log₁₀ MSE        SSIM = mean of (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / (μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)

    μ, σ²  Gaussian-weighted mean and variance in a window, σ_ab covariance      C₁ = 0.01²  C₂ = 0.03², pixels up to 1

Source  Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
        IEEE TIP 13(4), 2004, equation 13: windows of 11×11 with deviation 1.5, those that lie inside the image; by
        channel.
Code    none read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsim.types import UserError

WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation, in pixels, of the weights of SSIM."""
C1, C2 = 0.01**2, 0.03**2


def mean_squared_error(found: Float[Tensor, "n *image"], true: Float[Tensor, "n *image"]) -> Float[Tensor, "n"]:
    """Per image, not clamped."""
    return (found - true).square().flatten(1).mean(1)


def psnr(found: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"]) -> Float[Tensor, "n"]:
    """Peak signal-to-noise ratio in dB, clamped to 0..1; infinite for equal images."""
    return -10 * mean_squared_error(found.clamp(0, 1), true.clamp(0, 1)).log10()


def ssim(found: Float[Tensor, "n c h w"], true: Float[Tensor, "n c h w"], window: int = WINDOW) -> Float[Tensor, "n"]:
    """Structural similarity, −1..1 and 1 for equal images, clamped to 0..1; mean over windows and channels.

    Raises `UserError` where the images are smaller than the window: name a smaller one, its values compare with no
    other.
    """
    side = min(found.shape[-2:])
    if not 1 <= window <= side or window % 2 == 0:
        raise UserError(f"ssim: got a window of {window} for images of side {side}; valid: an odd number up to {side}")
    a, b = found.clamp(0, 1).double(), true.clamp(0, 1).double()
    mean_a, mean_b = _windowed(a, window), _windowed(b, window)
    variance_a = _windowed(a * a, window) - mean_a.square()
    variance_b = _windowed(b * b, window) - mean_b.square()
    covariance = _windowed(a * b, window) - mean_a * mean_b
    above = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    below = (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    return (above / below).flatten(1).mean(1).to(found.dtype)


def fitting_window(side: int) -> int:
    """The window of SSIM, or the largest odd one that images of this side have room for."""
    return WINDOW if side >= WINDOW else side - 1 + side % 2


def dissimilarities(
    left: Float[Tensor, "m c h w"], right: Float[Tensor, "n c h w"], window: int = WINDOW
) -> Float64[Tensor, "m n"]:
    """1 − SSIM of every image on the left with every one on the right: E[ab] of a window is a product of patches."""
    side = min(left.shape[-2:])
    if not 1 <= window <= side or window % 2 == 0:
        raise UserError(f"ssim: got a window of {window} for images of side {side}; valid: an odd number up to {side}")
    a, b = left.clamp(0, 1).double(), right.clamp(0, 1).double()
    (mean_a, patches_a), (mean_b, patches_b) = _patches(a, window), _patches(b, window)
    variance_a = (patches_a.square().sum(2) - mean_a.square())[..., None]  # places × m × 1
    variance_b = (patches_b.square().sum(2) - mean_b.square())[:, None]
    found = torch.empty(len(a), len(b), dtype=torch.float64, device=a.device)
    for row in range(len(a)):
        mean = mean_a[:, row, None, None] * mean_b[:, None]
        covariance = patches_a[:, row : row + 1] @ patches_b.mT - mean
        squares = mean_a[:, row, None, None].square() + mean_b[:, None].square()
        below = (squares + C1) * (variance_a[:, row : row + 1] + variance_b + C2)
        found[row] = 1 - ((2 * mean + C1) * (2 * covariance + C2) / below).mean((0, 1))
    return found


def _patches(images: Float[Tensor, "n c h w"], window: int) -> tuple[Float[Tensor, "p n"], Float[Tensor, "p n d"]]:
    """Of every channel and window, p of them: the weighted mean, and pixels times the roots of their weights."""
    weights = _weights(window, images)
    plane = (weights[:, None] * weights).flatten()
    patches = F.unfold(images.flatten(0, 1)[:, None], window).unflatten(0, images.shape[:2])  # n × c × d × places
    patches = patches.permute(1, 3, 0, 2).flatten(0, 1)
    return patches @ plane, patches * plane.sqrt()


def _weights(window: int, like: Tensor) -> Float[Tensor, "w"]:
    places = torch.arange(window, dtype=like.dtype, device=like.device) - (window - 1) / 2
    weights = torch.exp(-places.square() / (2 * DEVIATION**2))
    return weights / weights.sum()


def _windowed(images: Float[Tensor, "n c h w"], window: int) -> Float[Tensor, "n c y x"]:
    """Gaussian-weighted mean of every window inside the image: one pass over rows, one over columns."""
    weights = _weights(window, images)
    planes = images.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes[:, 0].unflatten(0, images.shape[:2])


def distances(
    left: Float[Tensor, "n *image"], right: Float[Tensor, "m *image"], chunk: int = 256
) -> Float[Tensor, "n m"]:
    """Euclidean distance of every image on the left to every one on the right, `chunk` rows at a time, as written.

    The expansion |a|² + |b|² − 2ab is not used: it loses the small distances, which are the ones asked for.
    """
    flat = right.flatten(1)
    parts = left.flatten(1).split(chunk)
    return torch.cat([torch.cdist(part, flat, compute_mode="donot_use_mm_for_euclid_dist") for part in parts])


def match(found: Float[Tensor, "s *image"], true: Float[Tensor, "m *image"]) -> Int64[Tensor, "s"]:
    """Which true image each found one stands for: the assignment of the smallest total squared error (Hungarian)."""
    if found.shape != true.shape:
        raise UserError(f"match: got {tuple(found.shape)} and {tuple(true.shape)}; valid: as many found as true images")
    cost = distances(found, true).square().double().cpu()
    if not torch.isfinite(cost).all():
        raise UserError("match: got images that are not finite; leave them out first")
    _, columns = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(columns, dtype=torch.int64, device=found.device)


def identified(
    found: Float[Tensor, "n *image"], true: Float[Tensor, "n *image"], others: Float[Tensor, "n m *image"]
) -> Bool[Tensor, "n"]:
    """Whether the true image is strictly nearer to the found one than all m others, in Euclidean distance.

    With 99 others that were held out of the same class a reconstruction that knows nothing is right in 1 % of the
    cases.
    """
    seen = found.clamp(0, 1).flatten(1)
    own = (seen - true.flatten(1)).square().sum(1)
    rest = torch.stack([(image - row.flatten(1)).square().sum(1) for image, row in zip(seen, others, strict=True)])
    return own < rest.amin(1)
