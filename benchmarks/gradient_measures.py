"""What a reconstruction is worth: per record when it is made, as shares and medians with intervals when it is shown.

    recovered     mean squared error below 1e-3, pixels in 0..1, not clamped
    identified    the true record is strictly nearer than all others of its class that stand beside it
    chance        the reconstruction of the next problem's gradient, asked for this problem's record: what an attack
                  knows that saw someone else's gradient

Images of a batch come in any order: they are matched to the true ones by the assignment of least squared error, also for
`chance`. Shares have Clopper-Pearson's interval, medians that of order statistics, which assumes nothing of the
distribution; both take records of one batch as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from gradient_cases import Leaks
from scipy.stats import binom
from torch import Tensor

from attacks.gradient_matching import Reconstruction
from attacks.labels import multiset_accuracy
from fedsim.audit.image_distances import identified, match, mean_squared_error, psnr, ssim
from fedsim.audit.statistics.proportions import clopper_pearson

RECOVERED = 1e-3
"""Mean squared error below which an image counts as recovered."""


def finite(images: Tensor) -> Tensor:
    """Grey where a value is not finite, which identifies nothing."""
    return torch.nan_to_num(images, nan=0.5, posinf=0.5, neginf=0.5)


def matched(found: Tensor, true: Tensor) -> Tensor:
    """Images (b, s, c, h, w) of each problem in the order of the true ones."""
    return torch.stack([images[torch.argsort(match(images, batch))] for images, batch in zip(found, true, strict=True)])


def measured(found: Reconstruction, truth: Leaks, problems: Sequence[int]) -> tuple[list[dict[str, Any]], Tensor]:
    """A row for each problem with lists over its records; and the images (b, s, c, h, w), in the order of the truth."""
    raw = finite(found.images.float().cpu())
    images, strangers = matched(raw, truth.pixels), matched(raw.roll(1, 0), truth.pixels)
    flat, true, others = images.flatten(0, 1), truth.pixels.flatten(0, 1), truth.others.flatten(0, 1)
    values: dict[str, Tensor] = {
        "mse": mean_squared_error(flat, true),
        "psnr": psnr(flat, true).clamp(max=100),
        "ssim": ssim(flat, true),
        "identified": identified(flat, true, others),
    }
    if len(problems) > 1:  # nobody else's gradient otherwise
        values["chance"] = identified(strangers.flatten(0, 1), true, others)
    labels = multiset_accuracy(found.labels.cpu(), truth.labels, truth.observed.num_classes)
    records = images.shape[1]
    rows = []
    for at, problem in enumerate(problems):
        own = slice(at * records, (at + 1) * records)
        row = {"problem": problem, "labels_right": round(float(labels[at]) * records)}
        row |= {"gradient_loss": float(found.gradient_loss[at]), "steps": int(found.iterations[at])}
        row |= {name: [_short(one) for one in value[own].tolist()] for name, value in values.items()}
        rows.append(row)
    return rows, images


def _short(value: float | bool) -> float | bool:
    return value if isinstance(value, bool) else float(f"{value:.4g}")


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares and medians over all records of the rows, each as (value, low, high); n."""
    every = {name: [one for row in rows for one in row[name]] for name in ("mse", "psnr", "ssim", "identified")}
    n = len(every["mse"])
    strangers = [one for row in rows for one in row.get("chance", [])]
    found: dict[str, Any] = {"records": n, "problems": len(rows)}
    found["labels"] = share(sum(row["labels_right"] for row in rows), n)
    found["recovered"] = share(sum(error < RECOVERED for error in every["mse"]), n)
    found["identified"] = share(sum(every["identified"]), n)
    found["chance"] = share(sum(strangers), len(strangers)) if strangers else None
    for name in ("mse", "psnr", "ssim"):
        found[name] = middle(every[name])
    return found


def share(hits: int, n: int) -> tuple[float, float, float]:
    """With Clopper-Pearson's 95 % interval."""
    found = clopper_pearson(hits, n)
    return found.value, found.low, found.high


def middle(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The median and the interval between the order statistics that hold it with at least `level`.

    Of fewer than six values there are none that do, and the interval is that of all values.
    """
    ordered, n = sorted(values), len(values)
    below = int(binom.ppf((1 - level) / 2, n, 0.5)) - 1  # the largest rank r with P[Bin(n, ½) ≤ r] below the tail
    low = max(below, 0)
    return median(ordered), ordered[low], ordered[n - 1 - low]
