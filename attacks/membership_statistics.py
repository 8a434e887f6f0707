"""One number per candidate and run: large where the run's release looks as if the candidate had been a member.

    model            mean over K networks trained on the release of φ = z_y − logsumexp(z_{≠y}); of released models φ
    nn_pixels        − min over synthetic images s of class y of ‖x − s‖, pixels in 0..1
    nn_embedding     the same in what P random networks see, whitened (membership_embeddings.py)
    align            the trace of x in the mean of the synthetic images of class y (there as well)

Each is computed once per run and kept under the run's key. A candidate of whose class nothing was released has NaN in
all but the first.

Source  model: Carlini et al., S&P 2022, arXiv 2112.03570, the logit-scaled confidence.
Cost    networks: membership_networks.py and membership_embeddings.py; nn_pixels one pass of records and images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64
from pydantic import Field, model_validator

from attacks.membership_embeddings import Embeddings, nearest_of
from attacks.membership_networks import MODELS, MembershipConfig, Reader, fingerprint
from fedsim.audit.types import Knowledge
from fedsim.audit.view import AdversaryView, Released, Shadow
from fedsim.seeding import Streams
from fedsim.types import UserError

Statistic = Literal["model", "nn_pixels", "nn_embedding", "align"]
EMBEDDED = ("align", "nn_embedding")
"""Statistics that random networks and public records are needed for, in the order of `Embeddings.seen`."""
LEAST_SHADOWS = 4
"""Two runs with and two without every record: fewer have no variance."""


class StatisticsConfig(MembershipConfig):
    """Settings of an attack that measures releases in several ways."""

    statistics: tuple[Statistic, ...] = Field(default=("model", "nn_pixels", "align"), strict=False, min_length=1)
    """What is measured of every candidate; released models have no images, so `model` alone."""
    random_networks: int = Field(default=64, ge=1)
    """P: random networks behind `align` and `nn_embedding`."""
    directions: int = Field(default=128, ge=1)
    """Principal directions of an embedding that are kept at the most."""

    @model_validator(mode="after")
    def _measurable(self) -> StatisticsConfig:
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError(f"statistics: got {', '.join(self.statistics)}; valid: each one once")
        if self.release in MODELS and self.statistics != ("model",):
            raise ValueError(
                f"statistics: got {', '.join(self.statistics)} with release: {self.release}; valid: [model], a model "
                "has no images to compare with"
            )
        return self

    @property
    def knowledge(self) -> tuple[Knowledge, ...]:
        """What is needed beside the release, candidates and shadows."""
        return (Knowledge.AUXILIARY,) if set(self.statistics) & set(EMBEDDED) else ()


@dataclass(frozen=True)
class Laboratory:
    """Every statistic of one run after another."""

    reader: Reader
    embeddings: Embeddings

    @classmethod
    def of(cls, view: AdversaryView, config: StatisticsConfig, streams: Streams) -> Laboratory:
        """What `config` asks for, on what `view` grants."""
        reader = Reader.of(view, config, streams)
        return cls(reader, Embeddings(reader, config.random_networks, config.directions))

    def measure(self, statistic: Statistic, released: Released) -> Float64[np.ndarray, "n"]:
        """The statistic of every candidate."""
        if statistic == "model":
            return self.reader.confidences(released, self.reader.view.candidates).mean(0)
        if statistic == "nn_pixels":
            return nearest_pixels(self.reader, released)
        return self.embeddings.seen(released)[EMBEDDED.index(statistic)]


def nearest_pixels(reader: Reader, released: Released) -> Float64[np.ndarray, "n"]:
    """Minus the distance to the nearest synthetic image of the class, ‖ · ‖ over pixels in 0..1."""

    def compute() -> np.ndarray:
        images, records = reader.images(released), reader.view.candidates
        synthetic, real = (one.pixels.cpu().flatten(1).double() / 255 for one in (images, records))
        distances = torch.cdist(real, synthetic, compute_mode="donot_use_mm_for_euclid_dist")
        other = records.labels.cpu()[:, None] != images.labels.cpu()[None, :]
        return -nearest_of(distances.masked_fill(other, torch.inf)).numpy()

    where = released.key, reader.config.release, fingerprint(reader.view.candidates)
    return reader.cached("nearest-pixels", compute, *where)


def memberships(shadows: Sequence[Shadow], candidates: int) -> Bool[np.ndarray, "runs n"]:
    """Rows of the shadows. `UserError` where a record is in more of them than another: counts would tell the target.

    Every record is in half of all rows. With the complement of the target left in, a record would be in one row less
    than half exactly where the target holds it.
    """
    if len(shadows) < LEAST_SHADOWS:
        raise UserError(
            f"shadow runs: got {len(shadows)} beside the target and its complement; valid: at least {LEAST_SHADOWS}, "
            "that is audit rows of at least 6"
        )
    rows = np.stack([shadow.members for shadow in shadows])
    if rows.shape[1] != candidates:
        raise UserError(f"shadow rows: got {rows.shape[1]} records for {candidates} candidates; valid: one for each")
    counts = rows.sum(0)
    if not (2 * counts == len(rows)).all():
        raise UserError(
            f"shadow rows: a record is in {counts.min()} to {counts.max()} of {len(rows)}; valid: each in half; "
            "leave out the target and its complement, and keep all other pairs"
        )
    return rows


def best_threshold(scores: Float64[np.ndarray, "n"], members: Bool[np.ndarray, "n"]) -> float:
    """τ with the largest TPR − FPR of `score > τ`, midway to the next score above; for scores other than the target's.

    Below all scores where calling all of them members is no worse; of equally good ones the lowest.
    """
    levels, which = np.unique(scores, return_inverse=True)
    inside = np.bincount(which, members, minlength=len(levels)) / members.sum()
    outside = np.bincount(which, ~members, minlength=len(levels)) / (~members).sum()
    lost = np.concatenate([[0.0], np.cumsum(outside - inside)])  # at or below each level: FPR given up − TPR given up
    place = int(np.argmax(np.round(lost, 12)))
    if place == 0:
        return float(levels[0]) - 1
    return float(levels[-1]) if place == len(levels) else float((levels[place - 1] + levels[place]) / 2)
