"""Records and synthetic images as random networks see them, whitened; the trace of a record in a class mean.

    z_w(x) = W_wᵀ (ψ_w(x) − m_{w,y})        W_w = V Σ^−½,   V the leading principal directions of ψ_w(x) − m_{w,y} over
                                            public records, Σ their covariance along V, shrunk as Ledoit and Wolf do
    k(x, x')   = 1/P Σ_w ⟨z_w(x), z_w(x')⟩                                                   x, x' of one class
    align(x)   = mean_{s ∈ S_y} k(x, s)  =  1/P Σ_w (ψ_w(x) − m_{w,y})ᵀ Σ_w⁻¹ (μ_w(S_y) − m_{w,y})
    distance²  = 1/P Σ_w ‖z_w(x) − z_w(s)‖²

    ψ_w   embedding of the w-th of P networks drawn at random     m_{w,y}   its mean over public records of class y
    S_y   synthetic images of class y                             μ_w       mean embedding

A record is part of the class mean that a set was matched to, so members lie a little more in its direction; whitening
counts every direction by how little records differ in it. Were the exact mean of n members in the place of μ_w(S_y):

    d′ = √(d_eff/n),   AUC = Φ(√(d_eff/(2n))),   d_eff = (E k(x, x))² / E k(x, x')²        x, x' two records

which is the ceiling of `align` by itself: S knows of its members no more than their mean. Few public records lower it
(60 directions, n = 100: AUC .71 predicted, .70 with 3000 of them, .63 with 300), since m_{w,y} is then not known better
than the members' mean. An attack that compares a run with others has no need of m: over complementary rows the mean of
all is that of the whole pool, and what is left of a run's is ½ (members' mean − non-members' mean):

    d′ = √(2 d_eff/n),   AUC = Φ(√(d_eff/n))                                               the ceiling of LiRA's `align`

Source  tracing from means: Homer et al., PLoS Genetics 4, 2008; Dwork, Smith, Steinke, Ullman, Vadhan, "Robust
        Traceability from Trace Amounts", FOCS 2015. Shrinkage: Ledoit, Wolf, J. Multivariate Analysis 88, 2004.
Code    none read; shrinkage by scikit-learn.
Differs all classes share Σ_w; at most `directions` of them, and no more than half of what the public records span.
Cost    P passes of public records, candidates and every set, and P singular value decompositions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.special import ndtr
from torch import Tensor

from attacks.membership_networks import BATCH, Reader, fingerprint
from attacks.membership_randomisation import areas
from fedsim.audit.view import Released
from fedsim.data.images import Images
from fedsim.models.execution import Runner
from fedsim.models.network import Network
from fedsim.types import UserError

SMALLEST = 1e-6
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True)
class Metric:
    """How one network sees: z = ψ W − m_y W."""

    directions: Float64[Tensor, "d r"]
    """W."""
    centres: Float64[Tensor, "k r"]
    """m_y W of every class; a class without public records has NaN."""

    @classmethod
    def fit(cls, vectors: Float64[Tensor, "n d"], labels: Int64[Tensor, "n"], classes: int, most: int) -> Metric:
        """From embedded public records; `most` directions at the most."""
        from sklearn.covariance import ledoit_wolf

        means = torch.stack([vectors[labels == label].mean(0) for label in range(classes)])
        residuals = vectors - means[labels]
        spanned = len(vectors) - len(labels.unique())
        _, values, rows = torch.linalg.svd(residuals, full_matrices=False)
        count = min(most, spanned // 2, int((values > SMALLEST * values[0]).sum()))
        if count < 1 or float(values[0]) == 0:
            raise UserError(
                f"auxiliary records: {len(vectors)} of {len(labels.unique())} classes, of which an embedding tells "
                f"{max(count, 0)} directions; valid: two more than classes, and not all the same; raise data.val"
            )
        leading = rows[:count].T
        covariance, _ = ledoit_wolf((residuals @ leading).numpy(), assume_centered=True)
        variances, vectors_of = torch.linalg.eigh(torch.from_numpy(covariance))
        directions = leading @ (vectors_of / variances.sqrt())
        return cls(directions, means @ directions)

    def __call__(self, vectors: Float64[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> Float64[Tensor, "n r"]:
        """z of embedded images."""
        return vectors @ self.directions - self.centres[labels]


def effective_directions(kernel: Float64[np.ndarray, "n n"]) -> float:
    """d_eff of the k(x, x') of one class; 0 where it has fewer than two records."""
    n = len(kernel)
    if n < 2:
        return 0.0
    diagonal = np.diag(kernel)
    return float(diagonal.mean() ** 2 / ((kernel**2).sum() - (diagonal**2).sum()) * (n * (n - 1)))


def predicted_auc(directions: float, members: float) -> float:
    """Φ(√(d_eff/(2n))); of half as many members where runs are compared with others."""
    return float(ndtr(np.sqrt(directions / (2 * members))))


def areas_of_means(kernel: Float64[np.ndarray, "n n"], members: Bool[np.ndarray, "runs n"]) -> tuple[float, float]:
    """AUC of the exact mean of each run's members, mean over runs: by itself, and less the mean over all runs."""
    scores = members @ kernel / members.sum(1, keepdims=True)
    return float(areas(scores, members).mean()), float(areas(scores - scores.mean(0), members).mean())


@dataclass(frozen=True)
class Embeddings:
    """What P random networks see in candidates and releases."""

    reader: Reader
    networks: int
    """P."""
    directions: int
    """Largest r."""

    @property
    def candidates(self) -> Images:
        """Records in question."""
        return self.reader.view.candidates

    def seen(self, released: Released) -> Float64[np.ndarray, "2 n"]:
        """Of every candidate `align`, and minus the distance to the nearest synthetic image; NaN: none of its class."""

        def compute() -> np.ndarray:
            images = self.reader.images(released)
            labels, own = self.candidates.labels.cpu(), images.labels.cpu()
            aligned, squares = torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), len(own))
            for network, metric, records in self._networks():
                synthetic = metric(self._embed(network, images), own)
                for label in own.unique():
                    rows, columns = labels == label, own == label
                    aligned[rows] += records[rows] @ synthetic[columns].mean(0)
                squares += torch.cdist(records, synthetic).square().float()
            aligned[~torch.isin(labels, own)] = torch.nan
            squares[labels[:, None] != own[None, :]] = torch.inf
            nearest = nearest_of((squares / self.networks).sqrt().double())
            return np.stack([(aligned / self.networks).numpy(), -nearest.numpy()])

        return self.reader.cached("embeddings", compute, released.key, self.reader.config.release, *self._depends)

    def ceiling(self, members: Bool[np.ndarray, "runs n"]) -> dict[str, np.ndarray]:
        """By class present: AUC of the exact mean over runs whose members are known, and what is predicted of it.

        `compared` is less the mean over these runs. Every pair must be among them whole.
        """
        labels, kernel = self.candidates.labels.cpu().numpy(), self._kernel
        names = ("class", "members", "d_eff", "d_prime", "auc", "predicted", "compared_auc", "compared_predicted")
        found: dict[str, list[float]] = {name: [] for name in names}
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            block, inside = kernel[np.ix_(rows, rows)], members[:, rows]
            size, width = float(inside.sum(1).mean()), effective_directions(block)
            alone, compared = areas_of_means(block, inside)
            predicted = predicted_auc(width, size), predicted_auc(width, size / 2)
            row = (float(label), size, width, (width / size) ** 0.5, alone, predicted[0], compared, predicted[1])
            for values, value in zip(found.values(), row, strict=True):
                values.append(value)
        return {f"exact_mean.{name}": np.array(values) for name, values in found.items()}

    @cached_property
    def _kernel(self) -> Float64[np.ndarray, "n n"]:
        """k of all candidates; means something within a class only."""

        def compute() -> np.ndarray:
            total = torch.zeros((len(self.candidates),) * 2, dtype=torch.float64)
            for _, _, records in self._networks():
                total += records @ records.T
            return (total / self.networks).numpy()

        return self.reader.cached("kernel", compute, *self._depends)

    @property
    def _depends(self) -> tuple[object, ...]:
        view = self.reader.view
        return self.networks, self.directions, fingerprint(view.candidates), fingerprint(view.auxiliary)

    def _networks(self) -> Iterator[tuple[Network, Metric, Float64[Tensor, "n r"]]]:
        """Every network with its metric and the candidates as it sees them."""
        labels = self.candidates.labels.cpu()
        width = len(self.reader.view.public.classes)
        for index in range(self.networks):
            network = self._fresh(index)
            stored = self.reader.cached("metric", lambda w=index: self._fit(w), index, *self._depends)
            whole = torch.from_numpy(np.array(stored))
            metric = Metric(whole[:-width], whole[-width:])
            records = self.reader.cached(
                "seen",
                lambda n=network, m=metric: m(self._embed(n, self.candidates), labels).numpy(),
                index,
                *self._depends,
            )
            yield network, metric, torch.from_numpy(np.array(records))

    def _fit(self, index: int) -> Float64[np.ndarray, "dk r"]:
        """Directions and, below them, centres."""
        public, labels = self.reader.view.auxiliary, self.reader.view.auxiliary.labels.cpu()
        missing = sorted(set(self.candidates.labels.tolist()) - set(labels.tolist()))
        if missing:
            raise UserError(
                f"auxiliary records: none of class {missing[0]}; valid: some of every class in question; raise data.val"
            )
        classes = len(self.reader.view.public.classes)
        metric = Metric.fit(self._embed(self._fresh(index), public), labels, classes, self.directions)
        return torch.cat([metric.directions, metric.centres]).numpy()

    def _fresh(self, index: int) -> Network:
        return self.reader.view.public.fresh(self.reader.streams.generator("random network", index)).eval()

    @torch.no_grad()
    def _embed(self, network: Network, images: Images) -> Float64[Tensor, "n d"]:
        public, runner = self.reader.view.public, Runner(network, self.reader.view.public.execution)
        pieces = images.pixels.split(BATCH)
        return torch.cat([runner.embed(public.normalise(piece.to(public.device))).cpu() for piece in pieces]).double()


def nearest_of(distances: Float64[Tensor, "n m"]) -> Float64[Tensor, "n"]:
    """Smallest of each row; NaN where all are infinite."""
    nearest = distances.min(1).values
    return torch.where(nearest.isinf(), torch.nan, nearest)
