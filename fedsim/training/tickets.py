"""Lottery tickets: a sparse network found by training, pruning the smallest weights and going back to early ones.

    θ_k ← k epochs from θ_0                                                          m_0 = 1
    θ_T ← epochs k … T of m_n ⊙ θ_k, pruned weights held at 0                        m_n ⊙ θ_k is the ticket of round n
    m_{n+1} ← m_n without the share p of its weights whose |θ_T| is smallest

    θ_0  first weights    k  rewinding point    T  epochs of a training    m_n  mask of round n, keeps (1 − p)ⁿ

Source  Frankle, Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019, arXiv
        1803.03635 (k = 0, each layer by itself or all together); Frankle, Dziugaite, Roy, Carbin, "Linear Mode
        Connectivity and the Lottery Ticket Hypothesis", ICML 2020, arXiv 1912.05671 (k > 0).
Code    torch.nn.utils.prune, which the tests hold these masks against.
Differs k counts epochs, not steps; the momentum begins at 0 in epoch k, in the dense round too; weights of equal size
        go in the order of names and places; the largest weight of a layer always stays, so that no layer is cut
        through; the head is pruned like every layer.
Reduces k = 0 and no round: `fit`. Masks that keep everything: `fit`, bit for bit.
Cost    rounds + 1 trainings; nothing is saved by sparsity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig, fit
from fedsim.types import Params, UserError

Masks = Mapping[str, Tensor]
"""By the name of a parameter a bool tensor of its shape: True is kept. What is not named is not pruned."""

Scope = Literal["global", "layer"]
"""Whether sizes are compared over all layers or within each."""


class Config(Section):
    """Settings of iterative magnitude pruning."""

    rounds: int = Field(default=10, ge=0)
    """Times that weights are pruned."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """p: share of the remaining weights pruned a round."""
    scope: Scope = "global"
    """`global`: the smallest of all layers together; `layer`: the same share of every layer."""
    rewind: int = Field(default=0, ge=0)
    """k: epochs after which the weights are those that every round goes back to."""
    train: TrainConfig = TrainConfig()
    """T is its `epochs`."""

    @model_validator(mode="after")
    def _early(self) -> Config:
        if self.rewind >= self.train.epochs:
            raise ValueError(f"rewind: got {self.rewind} of {self.train.epochs} epochs; valid: below train.epochs")
        return self


@dataclass(frozen=True)
class Round:
    """One training under one mask."""

    number: int
    """n; 0 is the dense network."""
    masks: Masks
    """m_n."""
    trained: Params
    """θ_T of the ticket, buffers included."""
    loss: float
    """Mean loss of the last epoch."""


def rounds(
    network: Network,
    images: Images,
    normalise: Normalise,
    config: Config,
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> Iterator[Round]:
    """The dense training and `config.rounds` tickets, one after another; θ_0 are the weights of `network`.

    `network` is worked in and ends as the last round left it. Every round shuffles by a stream of its own.
    """
    masks: Masks = whole(network)
    if config.rewind:
        start_of(network, images, normalise, config, streams, execution=execution)
    early = state(network)
    for number in range(config.rounds + 1):
        network.load_state_dict(early)
        rng = streams.at("round", number).generator("train")
        loss = fit_masked(
            network, masks, images, normalise, config.train, rng, execution=execution, first=config.rewind
        )
        trained = state(network)
        yield Round(number, masks, trained, loss)
        masks = pruned(masks, trained, config.share, config.scope)


def start_of(
    network: Network,
    images: Images,
    normalise: Normalise,
    config: Config,
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> None:
    """Train `network` up to the rewinding point k ≥ 1."""
    rng = streams.at("start").generator("train")
    until = config.rewind
    fit(
        network, images, normalise, config.train, rng, execution=execution,
        progress=lambda epoch, loss: epoch == until,
    )  # fmt: skip


def fit_masked(
    network: Network,
    masks: Masks,
    images: Images,
    normalise: Normalise,
    config: TrainConfig,
    rng: torch.Generator,
    *,
    execution: Execution = AS_WRITTEN,
    first: int = 0,
) -> float:
    """`fit` of the ticket: what `masks` prune is set to 0 and stays there, exactly. Returns the last epoch's loss.

    Without a gradient a weight of 0 has neither momentum nor decay, so that the gradient is all that is masked.
    """
    hold(network, masks)
    return fit(
        network, images, normalise, config, rng, execution=execution, first=first,
        adjust=lambda inner: mask_gradients(inner, masks),
    )  # fmt: skip


@torch.no_grad()
def hold(network: Network, masks: Masks) -> None:
    """Set the pruned weights of `network` to 0. Raises `UserError` for masks that do not fit it."""
    for name, weight in _masked(network, masks):
        weight.masked_fill_(~masks[name].to(weight.device), 0.0)


def mask_gradients(network: Network, masks: Masks) -> None:
    """Set the gradients of pruned weights to 0: an `adjust` of `fit`."""
    for name, weight in _masked(network, masks):
        if weight.grad is not None:
            weight.grad.masked_fill_(~masks[name].to(weight.device), 0.0)


def prunable(network: nn.Module) -> list[str]:
    """Sorted names of the weights of convolutions and linear layers; biases and norms are not pruned."""
    layers = (nn.Conv2d, nn.Linear)
    return sorted(f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, layers))


def whole(network: nn.Module) -> dict[str, Tensor]:
    """Masks of all that can be pruned, which keep everything."""
    weights = dict(network.named_parameters())
    return {name: torch.ones_like(weights[name], dtype=torch.bool) for name in prunable(network)}


def pruned(masks: Masks, weights: Params, share: float, scope: Scope = "global") -> dict[str, Tensor]:
    """`masks` without the `share` (0..1, rounded to a number) of what they keep that is smallest in `weights`.

    Fewer go where only the largest weight of every layer is left. Raises `UserError` for weights that are not finite.
    """
    names = sorted(masks)
    if odd := [name for name in names if not bool(torch.isfinite(weights[name]).all())]:
        raise UserError(f"got weights of {odd[0]} that are not finite; valid: those of a training that did not diverge")
    groups = [names] if scope == "global" else [[name] for name in names]
    return {name: mask for group in groups for name, mask in _without_smallest(masks, weights, share, group).items()}


def magnitude_mask(weights: Params, names: Sequence[str], keep: float, scope: Scope = "global") -> dict[str, Tensor]:
    """Masks that keep the share `keep` (0..1) of the entries `names` of `weights`, the largest."""
    return pruned({name: torch.ones_like(weights[name], dtype=torch.bool) for name in names}, weights, 1 - keep, scope)


def random_masks(masks: Masks, rng: torch.Generator) -> dict[str, Tensor]:
    """Masks that keep as many weights of every layer as `masks`, at random places; `rng` is on the CPU."""
    found = {}
    for name in sorted(masks):
        mask = masks[name]
        order = torch.randperm(mask.numel(), generator=rng).to(mask.device)
        found[name] = mask.flatten()[order].view(mask.shape)
    return found


def keep_ratio(masks: Masks) -> float:
    """Share of all weights named that is kept, 0..1."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def _without_smallest(masks: Masks, weights: Params, share: float, names: Sequence[str]) -> dict[str, Tensor]:
    kept = torch.cat([masks[name].flatten() for name in names])
    sizes = torch.cat([_sizes(weights[name], masks[name]) for name in names])
    places = kept.nonzero()[:, 0]
    free = int(torch.isfinite(sizes[places]).sum())
    order = torch.argsort(sizes[places], stable=True)[: min(free, round(share * len(places)))]
    kept[places[order]] = False
    pieces = kept.split([masks[name].numel() for name in names])
    return {name: piece.view(masks[name].shape).clone() for name, piece in zip(names, pieces, strict=True)}


def _sizes(weight: Tensor, mask: Tensor) -> Tensor:
    """|w| flat; infinite for the largest that is kept, which never goes."""
    sizes = weight.detach().abs().flatten()
    if bool(mask.any()):
        sizes[torch.where(mask.flatten(), sizes, -1.0).argmax()] = torch.inf
    return sizes


def _masked(network: nn.Module, masks: Masks) -> list[tuple[str, nn.Parameter]]:
    weights = dict(network.named_parameters())
    if odd := sorted(name for name in masks if name not in weights or weights[name].shape != masks[name].shape):
        raise UserError(f"got masks that do not fit the network ({', '.join(odd[:3])}); valid: names and shapes of its "
                        "parameters")  # fmt: skip
    return [(name, weights[name]) for name in sorted(masks)]
