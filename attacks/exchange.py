"""How many records a batch of reconstructions identifies, and how many it would if others had been the records.

    identified   a record's matched reconstruction is nearer to it than to its m others, held out of the same class
    null         the same count where every record is replaced by one of its others, drawn anew; the matching is redone
    p            (1 + draws that count as many or more) / (1 + draws)

Reconstructions come in any order and are matched by the assignment of least squared error. That helps chance too: a
batch that knows nothing is right more often than 1 in m + 1, since each record is given the reconstruction that lies
nearest. The draws are matched in the same way, so they have the same help; they have one other fewer to be told from,
which favours them. If the reconstructions knew nothing of the records, these and their others could change places, so
p is valid without a number for chance.

Source  Phipson, Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and Molecular
        Biology 9(1), 2010, for p; the exchange of records is this project's.
Code    none read.
Cost    s² m distances, and an assignment a draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedsim.audit.image_distances import distances
from fedsim.seeding import numpy_stream
from fedsim.types import UserError

DRAWS = 999
"""Of a test: no p is below 0.001."""


@dataclass(frozen=True)
class Exchange:
    """One batch of s reconstructions beside its records."""

    place: Int64[np.ndarray, "s"]
    """Which reconstruction each record was given."""
    identified: Bool[np.ndarray, "s"]
    """Of each record."""
    errors: Float[np.ndarray, "s"]
    """Squared distance of each record from its reconstruction."""
    null: Int64[np.ndarray, "t"]
    """Records identified in each draw."""
    last: Int64[np.ndarray, "s"]
    """Which of its others replaced each record in the last draw."""
    last_place: Int64[np.ndarray, "s"]
    """Which reconstruction each of those was given."""


def exchanged(
    found: Float[Tensor, "s *image"],
    true: Float[Tensor, "s *image"],
    others: Float[Tensor, "s m *image"],
    draws: int,
    rng: np.random.Generator,
) -> Exchange:
    """Match, count, and count again in `draws` draws; pixels in 0..1, what is not finite becomes grey."""
    if others.shape[1] < 2:
        raise UserError("identification of batches: got 1 held-out record of a class; valid: 2 or more")
    seen = torch.nan_to_num(found, nan=0.5, posinf=0.5, neginf=0.5).clamp(0, 1)
    records = np.arange(len(true))
    own = distances(seen, true).square().double().cpu().numpy()
    far = distances(seen, others.flatten(0, 1)).square().double().cpu().numpy().reshape(len(seen), *others.shape[:2])
    place, identified = _matched(own, far.min(2))
    first, nearest = far.argmin(2), far.min(2)
    second = np.partition(far, 1, axis=2)[:, :, 1]
    counts, drawn, given = [], records, place
    for _ in range(draws):
        drawn = rng.integers(others.shape[1], size=len(true))
        given, hits = _matched(far[:, records, drawn], np.where(first == drawn, second, nearest))
        counts.append(int(hits.sum()))
    return Exchange(place, identified, own[place, records], np.array(counts, dtype=np.int64), drawn, given)


def exchanges(
    attack: str,
    found: Float[Tensor, "b s *image"],
    true: Float[Tensor, "b s *image"],
    others: Float[Tensor, "b s m *image"],
) -> list[Exchange]:
    """Batch by batch; the same draws whenever the same attack asks."""  # fmt: skip
    return [
        exchanged(*batch, DRAWS, numpy_stream(0, attack, "exchange", case))
        for case, batch in enumerate(zip(found, true, others, strict=True))
    ]


def p_value(seen: int, null: Int64[np.ndarray, "t"]) -> float:
    """How likely so many are where the reconstructions know nothing of the records."""
    return float((1 + (null >= seen).sum()) / (1 + len(null)))


def _matched(cost: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of costs (reconstruction, record): the reconstruction of each record, and whether it is nearer than `rest`."""
    records, place = linear_sum_assignment(cost.T)
    return place, cost[place, records] < rest[place, records]
