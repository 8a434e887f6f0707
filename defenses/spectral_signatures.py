"""Spectral signatures: poisoned rows of a class stand out along the direction in which its embeddings spread most.

    R_c = rows ψ(x) − mean of class c, over all clients        v = top right singular vector of R_c
    τ_i = (R_i · v)²                                           the Σ_i of a class's τ is σ₁²
    a_kc = mean (or largest) of τ_i / mean τ over the rows of client k and class c;  1 on average
    score_k = robust z over the clients of  max_c a_kc

    ψ  input of the last layer of the network with w_r        σ₁  largest singular value of R_c

Source  Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, arXiv 1811.00636, Algorithm 1.
Code    TrojanZoo (GPL, facts only): it collects the class's index in the place of the sample's, and scores sample i
        with the i-th singular vector; neither is so here, and tests hold both.
Differs the paper's network has learned the poisoned set; w_r has learned those of earlier rounds, in the first none.
        Whole uploads are judged, not rows: their rows are averaged. Classes have their own scale, so τ is taken as a
        multiple of its mean. The paper removes 1.5 ε of a class, ε being known; here a threshold on z decides.
        `directions` > 1 sums over more singular vectors; the paper has one. A class is looked at only with 3 rows for
        each direction kept and three clients that hold it; a client without such a class is not judged, and the
        round's metrics say so. Label skew moves honest clients, too: calibrate on clean rounds.
Cost    one pass of all rows, and per class an SVD of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from defenses.rows import inspected
from defenses.suspicion import LEAST, largest, robust_z
from fedsim.config import Section
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.defences import Sends, Verdict
from fedsim.federated.upload_rows import Rows, embedded
from fedsim.seeding import Streams
from fedsim.types import Params

PER_DIRECTION = 3
"""Rows of a class for each direction that is kept of them."""


class Config(Section):
    """Settings of spectral signatures."""

    name: Literal["spectral_signatures"] = "spectral_signatures"
    directions: int = Field(default=1, ge=1)
    """Singular vectors that are kept; the paper's is 1."""
    over_rows: Literal["mean", "max"] = "mean"
    """How the scores of a client's rows of one class become one."""
    threshold: float = Field(default=6.0, gt=0)
    """Robust z beyond which an upload is left out; calibrate it on clean rounds
    (`fedsim.training.calibration.threshold`)."""


def signatures(features: Float[Tensor, "n d"], directions: int = 1) -> Float[Tensor, "n"]:
    """τ of every row of one class: squared length of its projection on the top singular vectors of the centred rows.

    Differentiable with the directions held fixed: Σ τ has its exact gradient so, single rows a part of theirs.
    """
    centred = features - features.mean(0)
    # a gradient through the vectors is infinite where two singular values agree, as those that are 0 do
    _, _, vectors = torch.linalg.svd(centred.detach(), full_matrices=False)
    return (centred @ vectors[:directions].T).square().sum(1)


class SpectralSignatures:
    """The filter."""

    Config = Config
    sends: ClassVar[Sends] = "synthetic"
    differentiable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """z of each client; differentiable in the rows' pixels (`signatures`)."""
        classes = len(setting.classes)
        held, features = uploads.held(classes), embedded(setting, weights, uploads)
        enough = torch.bincount(uploads.labels, minlength=classes) >= PER_DIRECTION * self.config.directions
        looked = enough & (held.sum(0) >= LEAST)
        shares = features.new_zeros(len(features))
        for label in looked.nonzero().flatten().tolist():
            rows = (uploads.labels == label).nonzero().flatten()
            found = signatures(features[rows], self.config.directions)
            mean = found.mean()
            shares = shares.index_put((rows,), found / mean if bool(mean > 0) else found)
        gather = uploads.means if self.config.over_rows == "mean" else uploads.maxima
        cells = gather(shares, classes).masked_fill(~(held & looked), torch.nan)
        return robust_z(largest(cells))

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """By the score."""
        return inspected(self, self.config.threshold, setting, state, uploads)
