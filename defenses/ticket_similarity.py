"""Ticket similarity: a client whose upload turns other weights into a ticket than everybody else's does is suspect.

    m_k ← mask of w_r trained briefly on S_k alone                       c_k = m_k XOR m(w_r)
    s_k = median over j ≠ k of the chance-corrected likeness of c_k and c_j
    z_k = (s_k − median s) / (1.4826 · median |s − median s|)            flagged where z_k < −τ

    w_r  weights of the server, known to all    S_k  upload of client k    m(w)  mask of weights w, pruned by size

All masks grow from w_r, and what they have in common with m(w_r) says nothing of the client: the bits that its upload
turned over are compared, not the masks. A score far below the others' is what is suspicious; what clients with other
classes than the rest score is the same, and only honest rounds of equal label skew say how often.

More steps turn more bits over. So every training takes as many, those of an upload with the median number of images:
a larger upload is not gone through as often, a smaller one more often. An upload that makes the training diverge has
no mask; nothing could be more suspicious.

Source  the similarity of tickets against backdoors: arXiv 2109.10512, on tickets that clients train and send. Here the
        server trains them itself, on uploaded images; score and threshold are this file's.
Code    none read.
Differs XOR with the mask of the common start; likeness above chance; the robust z of Iglewicz and Hoaglin, 1993.
Cost    K trainings of `train.epochs` on as many images as the median upload has, and K² comparisons of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float64
from pydantic import Field, model_validator

from defenses.suspicion import LEAST, robust_z, verdicts
from fedsim.audit.statistics.masks import Measure, changed, likeness
from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.federated.base import ServerState, Setting, Upload, network_with
from fedsim.federated.defences import Sends, Verdict
from fedsim.models.execution import AS_WRITTEN, Execution
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.training.early_bird import gamma_mask, scales
from fedsim.training.tickets import Masks, Scope, magnitude_mask, prunable
from fedsim.training.train import TrainConfig, fit
from fedsim.types import Params, UserError


class Config(Section):
    """Settings of the defence."""

    name: Literal["ticket_similarity"] = "ticket_similarity"
    mask: Literal["magnitude", "gamma"] = "magnitude"
    """What is pruned: `magnitude`: the smallest weights; `gamma`: channels with the smallest scale of their norm, which
    are all of one size in weights that were never trained."""
    keep: float = Field(default=0.2, gt=0, lt=1)
    """Share of weights, or of channels, that a mask keeps."""
    scope: Scope = "global"
    """Under `magnitude`, whether the smallest are those of all layers together or of each."""
    compare: Literal["changed", "masks"] = "changed"
    """`changed`: the bits of m(w_r) that the upload turned over; `masks`: m_k itself, of which a client that turns over
    more than the others has less in common with all of them."""
    measure: Measure = "iou"
    """Likeness of two masks."""
    threshold: float = Field(default=3.5, gt=0)
    """τ: robust deviations below the median at which a client is flagged."""
    train: TrainConfig = TrainConfig(epochs=20, lr=0.01, batch_size=64, schedule="constant")
    """The training of w_r on one upload; an epoch is the median number of images of all uploads."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.mask == "gamma" and self.compare == "changed":
            raise ValueError("mask: gamma with compare: changed needs a mask of scales that were never trained, which "
                             "are all of one size; give compare: masks")  # fmt: skip
        return self


@dataclass(frozen=True)
class TicketScores:
    """What the defence says of K clients, in the order of their uploads."""

    z: Float64[np.ndarray, "clients"]
    """Robust z (suspicion.py); below 0 is less like the others than most. −∞ where the training diverged and not every
    one did; NaN where fewer than three did not."""
    median: Float64[np.ndarray, "clients"]
    """s_k: 0 by chance, at most 1; NaN without a mask."""
    likeness: Float64[np.ndarray, "clients clients"]
    """Chance-corrected likeness of every two; NaN on the diagonal and without a mask."""
    flagged: Bool[np.ndarray, "clients"]
    """z < −τ."""


class TicketSimilarity:
    """The filter."""

    Config = Config
    sends: ClassVar[Sends] = "synthetic"

    def __init__(self, config: Config) -> None:
        self.config = config

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """−z of each client; no judgement where fewer than three are there."""
        clients = [one.client for one in uploads]
        if len(uploads) < LEAST:
            return verdicts(clients, torch.full((len(uploads),), torch.nan), self.config.threshold)
        sets = [one.synthetic for one in uploads if one.synthetic is not None]
        network = network_with(setting, state.weights)
        found = ticket_scores(
            network, state.weights, sets, setting.normalise, self.config, streams, execution=setting.execution
        )
        return verdicts(clients, torch.from_numpy(-found.z), self.config.threshold)


def ticket_scores(
    network: Network,
    start: Params,
    uploads: Sequence[Images | SyntheticSet],
    normalise: Normalise,
    config: Config,
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> TicketScores:
    """Scores of the clients that sent `uploads` for the weights `start`; `network` is worked in, on its device.

    Every training is shuffled by the same stream, so that scores follow the clients whatever their order. Raises
    `UserError` for fewer than three uploads, an empty one, and what `config.mask` cannot be made of.
    """
    if len(uploads) < LEAST:
        raise UserError(
            f"ticket_similarity: got {len(uploads)} uploads; valid: at least {LEAST}; leave it out below that"
        )
    if empty := [place for place, upload in enumerate(uploads) if len(upload) == 0]:
        raise UserError(f"ticket_similarity: got no image in upload {empty[0]}; valid: at least one; leave it out")
    size = usual(uploads)
    bits = [bits_of(network, start, one, size, normalise, config, streams, execution=execution) for one in uploads]
    return compared(bits, config.measure, config.threshold)


def usual(uploads: Sequence[Images | SyntheticSet]) -> int:
    """Images of an epoch: the median of the uploads' numbers, of the middle two the lower; no client sets it alone."""
    sizes = sorted(len(one) for one in uploads)
    return sizes[(len(sizes) - 1) // 2]


def bits_of(
    network: Network,
    start: Params,
    upload: Images | SyntheticSet,
    size: int,
    normalise: Normalise,
    config: Config,
    streams: Streams,
    *,
    execution: Execution = AS_WRITTEN,
) -> Masks | None:
    """c_k, or m_k under `compare: masks`, after a training on one upload with epochs of `size` images; None where it
    diverged. `network` is worked in, on its device."""
    network.load_state_dict(start)
    before = mask_of(network, config) if config.compare == "changed" else None
    images = upload.as_images() if isinstance(upload, SyntheticSet) else upload
    on_device = images.to(next(network.parameters()).device)
    rng = streams.generator("train")
    fit(network, on_device, normalise, config.train, rng, execution=execution, size=size)
    if not all(bool(one.isfinite().all()) for one in network.parameters()):
        return None
    after = mask_of(network, config)
    return after if before is None else changed(after, before)


def mask_of(network: Network, config: Config) -> Masks:
    """m(w). Raises `UserError` under `gamma` where the network has no scales or they are all equal."""
    weights = state(network)
    if config.mask == "gamma":
        return gamma_mask(weights, scales(network), 1 - config.keep)
    return magnitude_mask(weights, prunable(network), config.keep, config.scope)


def compared(bits: Sequence[Masks | None], measure: Measure, threshold: float) -> TicketScores:
    """Scores from c_1 … c_K. Two of which both hold nothing, or both everything, are alike by 1."""
    table = np.full((len(bits), len(bits)), np.nan)
    there = [place for place, one in enumerate(bits) if one is not None]
    for left, right in combinations(there, 2):
        found = likeness(cast(Masks, bits[left]), cast(Masks, bits[right]), measure)
        value = found.value if found.corrected is None else found.corrected
        table[left, right] = table[right, left] = value
    median, z = np.full(len(bits), np.nan), np.full(len(bits), np.nan)
    z[[place for place, one in enumerate(bits) if one is None and there]] = -np.inf
    if len(there) >= LEAST:
        median[there] = np.nanmedian(table[there], axis=1)
        z[there] = robust_z(torch.from_numpy(median[there])).numpy()
    return TicketScores(z, median, table, z < -threshold)
