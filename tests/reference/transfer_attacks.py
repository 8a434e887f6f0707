"""Transfer attacks written slowly: one image, one step, one copy, one pixel at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Callable[[Tensor], Tensor]


def slope(logits: Logits, image: Tensor, label: int) -> Tensor:
    """∂(−log softmax_y)/∂x of one image (c, h, w)."""
    leaf = image.clone().requires_grad_()
    found = logits(leaf[None])[0]
    (torch.logsumexp(found, 0) - found[label]).backward()
    assert leaf.grad is not None
    return leaf.grad


def momentum_iteration(
    gradient: Callable[[list[Tensor], int], list[Tensor]],
    images: Tensor,
    epsilon: float,
    steps: int,
    alpha: float,
    mu: float,
) -> Tensor:
    """`gradient(images now, step)` gives one gradient per image; every pixel is moved on its own."""
    now = [image.clone() for image in images]
    memory = [torch.zeros_like(image) for image in images]
    for step in range(steps):
        slopes = gradient([image.clone() for image in now], step)
        for place, image in enumerate(now):
            size = sum(abs(float(value)) for value in slopes[place].flatten())
            for index in torch.cartesian_prod(*(torch.arange(side) for side in image.shape)).tolist():
                at = tuple(index)
                memory[place][at] = mu * memory[place][at] + (slopes[place][at] / size if size > 0 else 0)
                sign = (float(memory[place][at]) > 0) - (float(memory[place][at]) < 0)
                moved = float(image[at]) + alpha * sign
                clean = float(images[place][at])
                image[at] = min(max(moved, clean - epsilon, 0.0), clean + epsilon, 1.0)
    return torch.stack(now)


def shrunk(image: Tensor, height: int, width: int, top: int, left: int) -> Tensor:
    """Resized to height × width, then padded with zeros to what it was."""
    _, h, w = image.shape
    small = F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    return F.pad(small, (left, w - left - width, top, h - top - height))


def admix(
    logits: Logits, images: Sequence[Tensor], labels: list[int], partners: Tensor, scales: int, strength: float
) -> list[Tensor]:
    """Equation 5, one copy after another."""
    found = []
    for place, image in enumerate(images):
        total = torch.zeros_like(image)
        for row in range(len(partners)):
            added = images[int(partners[row, place])].clone()
            for power in range(scales):
                gamma = 1 / 2**power
                seen = lambda x, gamma=gamma, added=added: logits(gamma * (x + strength * added))  # noqa: E731
                total += slope(seen, image, labels[place])
        found.append(total / (len(partners) * scales))
    return found


def rolled(image: Tensor, down: int, right: int) -> Tensor:
    """Pixel (i, j) goes to (i + down, j + right), around the edges."""
    _, h, w = image.shape
    return torch.stack(
        [torch.stack([image[:, (i - down) % h, (j - right) % w] for j in range(w)], -1) for i in range(h)], -2
    )


def mist(logits: Logits, images: Sequence[Tensor], labels: list[int], mixtures: Sequence[tuple]) -> list[Tensor]:
    """Both items of every mixture, each by the leaf of its own image, the other held fixed."""
    totals = [torch.zeros_like(image) for image in images]
    for share, partner, down, right in mixtures:
        for i in range(len(images)):
            j, lam = int(partner[i]), float(share[i])
            for which, own in enumerate((i, j)):  # j may be i: then it is told both
                leaves = [images[i].clone(), images[j].clone()]
                leaf = leaves[which].requires_grad_()
                mixed = lam * leaves[0] + (1 - lam) * rolled(leaves[1], int(down[i]), int(right[i]))
                scores = logits(mixed[None])[0]
                (torch.logsumexp(scores, 0) - scores[labels[own]]).backward()
                assert leaf.grad is not None
                totals[own] += leaf.grad
    return [total / len(mixtures) for total in totals]
