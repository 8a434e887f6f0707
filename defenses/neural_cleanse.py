"""Neural Cleanse: for every class the smallest stamp that turns all images into it; a far smaller one shows a backdoor.

    min_{m, Δ}  1/n Σ_x ℓ( f((1 − m) x + m Δ), t )  +  λ_t ‖m‖₁        for every class t, m and Δ in 0..1

    a_t = (median ‖m‖₁ − ‖m_t‖₁) / (1.4826 · median | ‖m‖₁ − median |)        suspicious where a_t is large

    m  mask (h, w)    Δ  pattern (c, h, w)    ℓ  cross-entropy    x  clean images, all classes
    λ_t  × 1.5 after `patience` passes in a row with success at or above `success`, ÷ 1.5^1.5 after as many below it

Kept is the smallest mask of a pass that reached `success`. The paper flags a_t > 2, as if a were normal: but the spread
of k numbers is known by those k alone (ten, mostly), and clean networks are found above 2 (one in the tests, too). So
nothing is flagged here: `indices` gives a, and fedsim/training/calibration.py a threshold for its maximum over classes
(`score`), from clean networks.

Source  Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in
        Neural Networks", S&P 2019, sections IV and V.
Code    TrojanZoo (facts only, for the schedule): λ × 1.5 up, ÷ 1.5^1.5 down, patience 10, success 0.99. Its issue 184
        tells of a target class left as it was while stamps were scored: here `target` is that of each stamp.
Differs all classes at once; m and Δ by a sigmoid of what Adam moves, ½ at the start; λ starts at `cost`; a fixed
        number of passes. A class for which no pass reached `success` counts as a mask of the whole image.
Cost    passes × k × n forward and backward passes of f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.network import Network
from fedsim.types import UserError


class Config(Section):
    """Settings of Neural Cleanse."""

    name: Literal["neural_cleanse"] = "neural_cleanse"
    passes: int = Field(default=200, ge=1)
    """Passes over the images."""
    batch_size: int = Field(default=64, ge=1)
    """Images per step, each stamped for every class."""
    lr: float = Field(default=0.1, gt=0)
    """Step size of Adam, in units of the sigmoid's argument."""
    cost: float = Field(default=1e-3, gt=0)
    """λ at the start, per pixel of the mask."""
    factor: float = Field(default=1.5, gt=1)
    """What λ grows by; it falls by this to the power of 1.5."""
    patience: int = Field(default=10, ge=1)
    """Passes in a row before λ changes."""
    success: float = Field(default=0.99, gt=0, le=1)
    """Share of images that a stamp has to turn."""


@dataclass(frozen=True)
class Triggers:
    """The smallest stamp found for every class."""

    masks: Float[Tensor, "k 1 h w"]
    """m, in 0..1; all ones where none reached `success`."""
    patterns: Float[Tensor, "k c h w"]
    """Δ, in 0..1."""
    success: Float[Tensor, "k"]
    """Share of images that it turned in the pass it is of; 0 where none reached the threshold."""

    @property
    def norms(self) -> Float[Tensor, "k"]:
        """‖m‖₁ of every class, in pixels."""
        return self.masks.sum((1, 2, 3))


def stamped(
    pixels: Float[Tensor, "n c h w"], masks: Float[Tensor, "k 1 h w"], patterns: Float[Tensor, "k c h w"]
) -> Float[Tensor, "k n c h w"]:
    """(1 − m) x + m Δ for every class and image; pixels in 0..1."""
    return (1 - masks)[:, None] * pixels + (masks * patterns)[:, None]


def scheduled(
    cost: Float[Tensor, "k"], above: Tensor, below: Tensor, reached: Tensor, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """λ and the counters of passes in a row at or above, and below, the threshold, after one more pass."""
    above, below = torch.where(reached, above + 1, 0), torch.where(reached, 0, below + 1)
    up, down = above >= config.patience, below >= config.patience
    cost = torch.where(up, cost * config.factor, torch.where(down, cost / config.factor**1.5, cost))
    return cost, torch.where(up, 0, above), torch.where(down, 0, below)


def reverse(network: Network, images: Images, normalise: Normalise, config: Config, rng: torch.Generator) -> Triggers:
    """The smallest stamps for `network`, whose weights are not changed; `images` are clean and on its device.

    Raises `UserError` where there are no images.
    """
    if not len(images):
        raise UserError("neural_cleanse: got no images; valid: some clean ones of all classes")
    pixels, classes = images.pixels / 255, network.head.out_features
    search = _Search(network, normalise, pixels.shape, config)
    cost = torch.full((classes,), config.cost, device=pixels.device)
    above = below = torch.zeros(classes, dtype=torch.int64, device=pixels.device)
    whole = torch.ones(classes, 1, *pixels.shape[2:], device=pixels.device)
    best = Triggers(whole, whole.expand(-1, pixels.shape[1], -1, -1) / 2, torch.zeros_like(cost))
    for _ in range(config.passes):
        success = search.through(pixels, cost, rng)
        reached = success >= config.success
        best = _smaller(best, Triggers(*search.stamps(), success), reached)
        cost, above, below = scheduled(cost, above, below, reached, config)
    return best


class _Search:
    """Masks and patterns of all classes as Adam moves them."""

    def __init__(self, network: Network, normalise: Normalise, shape: torch.Size, config: Config) -> None:
        self.network, self.normalise, self.config = network.eval(), normalise, config
        _, channels, height, width = shape
        self.classes, device = network.head.out_features, next(network.parameters()).device
        sizes = ((self.classes, 1, height, width), (self.classes, channels, height, width))
        self.moved = [torch.zeros(size, device=device, requires_grad=True) for size in sizes]
        self.adam = torch.optim.Adam(self.moved, lr=config.lr, betas=(0.5, 0.9))

    def stamps(self) -> tuple[Tensor, Tensor]:
        """m and Δ as they are."""
        mask, pattern = (one.detach().sigmoid() for one in self.moved)
        return mask, pattern

    def through(self, pixels: Tensor, cost: Tensor, rng: torch.Generator) -> Tensor:
        """One pass; the share of images that each class's stamp turned, each at its own step."""
        turned = torch.zeros(self.classes, device=pixels.device)
        target = torch.arange(self.classes, device=pixels.device)[:, None]
        for rows in torch.randperm(len(pixels), generator=rng).split(self.config.batch_size):
            mask, pattern = (one.sigmoid() for one in self.moved)
            seen = stamped(pixels[rows.to(pixels.device)], mask, pattern)
            logits = self.network(self.normalise.inputs(seen.flatten(0, 1))).unflatten(0, seen.shape[:2])
            turned += (logits.argmax(2) == target).sum(1)
            loss = F.cross_entropy(logits.flatten(0, 1), target.expand(-1, len(rows)).flatten(), reduction="sum")
            size = mask.sum((1, 2, 3))
            total = loss / len(rows) + (cost * size).sum()
            for leaf, slope in zip(self.moved, torch.autograd.grad(total, self.moved), strict=True):
                leaf.grad = slope
            self.adam.step()
        return turned / len(pixels)


def _smaller(best: Triggers, now: Triggers, reached: Tensor) -> Triggers:
    """For every class the new stamp where it reached the threshold and is smaller, else the old one."""
    better = reached & ((now.norms < best.norms) | (best.success == 0))
    pick = better[:, None, None, None]
    return Triggers(
        torch.where(pick, now.masks, best.masks),
        torch.where(pick, now.patterns, best.patterns),
        torch.where(better, now.success, best.success),
    )


def indices(norms: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """a of every class, from ‖m‖₁; negative where the stamp is larger than the median.

    Where more than half the norms are equal the spread is zero: a is then 0 at the median, ∞ below, −∞ above.
    """
    apart = norms.quantile(0.5) - norms
    spread = 1.4826 * apart.abs().quantile(0.5)
    extreme = torch.where(apart == 0, torch.zeros_like(apart), apart.sign() * float("inf"))
    return apart / spread if spread > 0 else extreme


def ratios(norms: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Median ‖m‖₁ over that of every class. Not the paper's: no spread is estimated that may be near zero by chance."""
    return norms.quantile(0.5) / norms


def score(triggers: Triggers) -> float:
    """The largest index of a network: calibrated on clean ones (fedsim/training/calibration.py) and compared."""
    return float(indices(triggers.norms).max())
