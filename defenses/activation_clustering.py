"""Activation clustering: embeddings of a clean class are one cloud; of a poisoned one two, the poison's small.

    for each class c:  P = first principal components of its rows ψ(x);  two clusters of P by 2-means
    suspicious         the smaller cluster has less than 35 % of the rows;  s = mean silhouette of the rows
    score_k = max over c of  s_c · (share of client k's rows of class c in the smaller cluster), 0 where not suspicious

    silhouette of a row  (b − a) / max(a, b): a, b mean distance to its own and to the other cluster; near 1 where
                         the clusters are far apart, near 0 where one cloud was cut in two

Source  Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, "Detecting Backdoor Attacks on Deep Neural
        Networks by Activation Clustering", SafeAI 2019, arXiv 1811.03728 (2018), Algorithm 1, section 4.
Code    none read; 35 % and a silhouette of 0.1 are the defaults of the Adversarial Robustness Toolbox. With three
        components one cloud of tens of rows, cut in two, has more than 0.1, so the threshold here is 0.3.
Differs principal components, not independent ones, and 3, not 10: a class has tens of rows, and every component kept
        takes 3 of them; a class with fewer rows, or fewer than three clients, is not looked at, and a client without
        such a class is not judged. 2-means starts from the sign of the first component, so nothing is drawn.
        Uploads are judged, not rows, by a network that has learned earlier rounds, not these rows.
Cost    one pass of all rows; per class an SVD and its rows' distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from defenses.rows import inspected
from defenses.suspicion import LEAST, largest
from fedsim.config import Section
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.defences import Sends, Verdict
from fedsim.federated.upload_rows import Rows, embedded
from fedsim.seeding import Streams
from fedsim.types import Params

PER_COMPONENT = 3
"""Rows of a class for each component that is kept of them."""
STEPS = 100
"""Steps of 2-means at most; it stops when no row changes sides."""


class Config(Section):
    """Settings of activation clustering."""

    name: Literal["activation_clustering"] = "activation_clustering"
    components: int = Field(default=3, ge=1)
    """Principal components that are kept; published: 10, of thousands of rows."""
    relative_size: float = Field(default=0.35, gt=0, le=0.5)
    """Share of a class's rows below which its smaller cluster is suspicious."""
    threshold: float = Field(default=0.3, gt=0, lt=1)
    """Score beyond which an upload is left out: the silhouette where all its rows of a class are in the smaller
    cluster; calibrate it on clean rounds (`fedsim.training.calibration.threshold`)."""


def principal(features: Float[Tensor, "n d"], components: int) -> Float[Tensor, "n e"]:
    """Coordinates of the rows along their first principal components, e = min(components, n, d).

    Differentiable with the components held fixed.
    """
    centred = features - features.mean(0)
    # a gradient through the vectors is infinite where two singular values agree, as those that are 0 do
    _, _, vectors = torch.linalg.svd(centred.detach(), full_matrices=False)
    return centred @ vectors[:components].T


def two_means(points: Float[Tensor, "n e"]) -> Bool[Tensor, "n"]:
    """Which of two clusters each point is in, True for the smaller; all False where the points are not two.

    Lloyd's steps from the two halves by the sign of the first coordinate, which has mean 0.
    """
    points = points.detach()
    second = points[:, 0] > 0
    for _ in range(STEPS):
        if bool(second.all()) or not bool(second.any()):
            return torch.zeros_like(second)
        centres = torch.stack([points[~second].mean(0), points[second].mean(0)])
        moved = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) == 1
        if torch.equal(moved, second):
            break
        second = moved
    return second if 2 * int(second.sum()) <= len(second) else ~second


def silhouette(points: Float[Tensor, "n e"], second: Bool[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean over the points of (b − a) / max(a, b), −1..1; a point alone in its cluster counts 0, as do equal points."""
    if bool(second.all()) or not bool(second.any()):
        return points.new_zeros(())
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    to = torch.stack([distances[:, ~second].sum(1), distances[:, second].sum(1)], 1)
    sizes = torch.stack([(~second).sum(), second.sum()])
    own, place = second.long(), torch.arange(len(points), device=points.device)
    inside = to[place, own] / (sizes[own] - 1).clamp(min=1)
    outside = to[place, 1 - own] / sizes[1 - own]
    wide = torch.maximum(inside, outside)
    values = torch.where(wide > 0, (outside - inside) / wide.clamp(min=torch.finfo(wide.dtype).tiny), 0)
    return torch.where(sizes[own] > 1, values, 0).mean()


def suspicious(
    features: Float[Tensor, "n d"], components: int, relative_size: float
) -> tuple[Bool[Tensor, "n"], Float[Tensor, ""]]:
    """Rows of one class in its smaller cluster and the silhouette; none and 0 where that cluster is not small.

    The silhouette is differentiable, with the clusters held fixed.
    """
    points = principal(features, components)
    smaller = two_means(points)
    if int(smaller.sum()) >= relative_size * len(smaller):
        return torch.zeros_like(smaller), points.new_zeros(())
    return smaller, silhouette(points, smaller).clamp(min=0)


class ActivationClustering:
    """The filter."""

    Config = Config
    sends: ClassVar[Sends] = "synthetic"
    differentiable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """The score of each client; differentiable in the rows' pixels, clusters and components held fixed."""
        classes = len(setting.classes)
        held, features = uploads.held(classes), embedded(setting, weights, uploads)
        enough = torch.bincount(uploads.labels, minlength=classes) >= PER_COMPONENT * self.config.components
        looked = enough & (held.sum(0) >= LEAST)
        values = features.new_zeros(len(features))
        for label in looked.nonzero().flatten().tolist():
            rows = (uploads.labels == label).nonzero().flatten()
            smaller, apart = suspicious(features[rows], self.config.components, self.config.relative_size)
            values = values.index_put((rows,), smaller * apart)
        return largest(uploads.means(values, classes).masked_fill(~(held & looked), torch.nan))

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """By the score."""
        return inspected(self, self.config.threshold, setting, state, uploads)
