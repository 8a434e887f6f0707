"""Neural Cleanse and STRIP written slowly: one class, one image, one overlay at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def neural_cleanse(
    network: nn.Module, batches: Sequence[Sequence[Tensor]], label: int, settings: dict[str, float]
) -> tuple[Tensor, Tensor, float, list[float]]:
    """Mask (1, h, w), pattern (c, h, w), its success and λ after every pass, for one class.

    `batches[pass][step]` are pixels in 0..1; the network takes them as they are.
    """
    c, h, w = batches[0][0].shape[1:]
    mask, pattern = torch.zeros(1, h, w, requires_grad=True), torch.zeros(c, h, w, requires_grad=True)
    adam = torch.optim.Adam([mask, pattern], lr=settings["lr"], betas=(0.5, 0.9))
    kept = (torch.ones(1, h, w), torch.full((c, h, w), 0.5), 0.0)
    cost, up, down, costs = settings["cost"], 0, 0, []
    for steps in batches:
        turned, count = 0, 0
        for batch in steps:
            m, delta = torch.sigmoid(mask), torch.sigmoid(pattern)
            loss = torch.zeros(())
            for image in batch:
                logits = network(((1 - m) * image + m * delta)[None])
                turned += int(logits.argmax()) == label
                count += 1
                loss = loss + F.cross_entropy(logits, torch.tensor([label])) / len(batch)
            adam.zero_grad()
            (loss + cost * m.abs().sum()).backward()
            adam.step()
        now = torch.sigmoid(mask).detach().clone(), torch.sigmoid(pattern).detach().clone()
        if turned / count >= settings["success"]:
            up, down = up + 1, 0
            if kept[2] == 0 or float(now[0].sum()) < float(kept[0].sum()):
                kept = (*now, turned / count)
        else:
            up, down = 0, down + 1
        if up >= settings["patience"]:
            up, cost = 0, cost * settings["factor"]
        elif down >= settings["patience"]:
            down, cost = 0, cost / settings["factor"] ** 1.5
        costs.append(cost)
    return *kept, costs


def anomaly(norms: list[float], place: int) -> float:
    """How many scaled median deviations a norm lies below the median."""
    middle = median(norms)
    spread = 1.4826 * median([abs(norm - middle) for norm in norms])
    return (middle - norms[place]) / spread


def strip(network: nn.Module, image: Tensor, overlays: Sequence[Tensor], a: float, b: float) -> float:
    """Mean entropy in bits of one image (c, h, w) of pixels in 0..1, under each overlay."""
    total = 0.0
    for overlay in overlays:
        laid = torch.zeros_like(image)
        for index in torch.cartesian_prod(*(torch.arange(side) for side in image.shape)).tolist():
            at = tuple(index)
            laid[at] = min(max(a * float(image[at]) + b * float(overlay[at]), 0.0), 1.0)
        logits = network(laid[None])[0].tolist()
        top = max(logits)
        weights = [math.exp(value - top) for value in logits]
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log2(share) for share in shares if share > 0)
    return total / len(overlays)
