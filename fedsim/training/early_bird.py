"""Early-bird tickets: channels pruned by the scale of their norm, drawn as soon as the mask stands still.

    loss + s Σ_j |γ_j|                                      one training; the penalty makes scales small
    m_t = channels but for the share p with the smallest |γ|, over all layers, after epoch t
    drawn at the first t with  d(m_t, m_{t−i}) < δ  for i = 1 … w                         d  share of bits that differ

    γ_j  scale of channel j    s  strength of the penalty    p  share pruned    δ, w  distance and window

Source  You, Li, Xu, Fu, Wang, Chen, Baraniuk, Wang, Lin, "Drawing Early-Bird Tickets: Toward More Efficient Training of
        Deep Networks", ICLR 2020, arXiv 1909.11957; the scale as a measure of a channel: Liu, Li, Shen, Huang, Yan,
        Zhang, "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, arXiv 1708.06519.
Code    none read.
Differs instance and group norms have such scales too and serve as batch norm does; s·sign(γ) is added to the gradient
        of a batch; scales of equal size go in the order of names and channels; the largest scale of a layer stays.
Cost    one training up to the epoch of the ticket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.training.tickets import Masks, magnitude_mask
from fedsim.training.train import TrainConfig, fit
from fedsim.types import Params, UserError


class Config(Section):
    """Settings of early-bird tickets."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """p: share of all channels pruned."""
    penalty: float = Field(default=1e-4, ge=0)
    """s: strength of the L1 penalty on the scales."""
    distance: float = Field(default=0.1, gt=0, le=1)
    """δ: the mask stands still while less than this share of its bits changes."""
    window: int = Field(default=5, ge=1)
    """w: earlier epochs that the mask is held against."""
    train: TrainConfig = TrainConfig()
    """The training that is ended when the ticket is drawn."""


@dataclass(frozen=True)
class EarlyBird:
    """What one training drew."""

    masks: Masks
    """Of the scales, True is a channel that is kept; of the last epoch trained."""
    epoch: int | None
    """Epoch after which the mask stood still, from 1; None: it never did, and no ticket was drawn."""
    distances: tuple[float, ...]
    """After each epoch from the second the largest distance to the earlier ones of the window."""


def draw_ticket(
    network: Network,
    images: Images,
    normalise: Normalise,
    config: Config,
    rng: torch.Generator,
    *,
    execution: Execution = AS_WRITTEN,
) -> EarlyBird:
    """Train `network` in place until its mask stands still. Raises `UserError` for a network without scales."""
    names = scales(network)
    seen: list[Masks] = []
    distances: list[float] = []

    def still(epoch: int, loss: float) -> bool:
        mask = gamma_mask(state(network), names, config.share)
        before = seen[-config.window :]
        seen.append(mask)
        if before:
            distances.append(max(distance(mask, one) for one in before))
        return len(before) == config.window and distances[-1] < config.distance

    fit(
        network, images, normalise, config.train, rng, execution=execution, progress=still,
        adjust=lambda inner: _penalise(inner, names, config.penalty),
    )  # fmt: skip
    drawn = len(seen) > config.window and distances[-1] < config.distance
    return EarlyBird(seen[-1], len(seen) if drawn else None, tuple(distances))


def scales(network: nn.Module) -> list[str]:
    """Sorted names of the scales of channels: weights of batch, group and instance norms.

    Raises `UserError` where there are none; a layer norm's are of pixels.
    """
    kinds = (nn.BatchNorm2d, nn.GroupNorm)
    found = [f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, kinds) and layer.affine]
    if not found:
        raise UserError(
            f"{type(network).__name__} has no scale for each channel; valid: model.norm of batch, instance or group; "
            "give one of these, or prune by magnitude"
        )
    return sorted(found)


def gamma_mask(weights: Params, names: Sequence[str], share: float) -> dict[str, Tensor]:
    """Of the scales `names` those channels that stay when the `share` (0..1) with the smallest |γ| goes.

    Raises `UserError` where all scales are of one size, as in a network that was not trained: they rank no channel.
    """
    sizes = torch.cat([weights[name].abs() for name in names])
    if bool((sizes == sizes[0]).all()):
        raise UserError(
            f"all {len(sizes)} scales are {float(sizes[0]):g}, as in a new network, and rank no channel; valid: scales "
            "after training; train first, or prune by magnitude"
        )
    return magnitude_mask(weights, names, 1 - share)


def of_channels(masks: Masks) -> dict[str, Tensor]:
    """Masks for `tickets.fit_masked` that turn a channel off: its scale and its shift."""
    return dict(masks) | {f"{name.removesuffix('weight')}bias": mask for name, mask in masks.items()}


def distance(left: Masks, right: Masks) -> float:
    """d: share of bits in which two masks of the same channels differ, 0..1."""
    differing = sum(int((left[name] != right[name]).sum()) for name in left)
    return differing / sum(mask.numel() for mask in left.values())


def _penalise(network: nn.Module, names: Sequence[str], strength: float) -> None:
    weights = dict(network.named_parameters())
    for name in names:
        gradient = weights[name].grad
        assert gradient is not None, "a scale without a gradient"
        gradient.add_(weights[name].detach().sign(), alpha=strength)
