"""What three observers make of planted records: the rungs from the server's model to every noisy sum.

    transcript   every noisy sum, all other records and the vectors of the planted ones: decoded jointly
    set          one client's synthetic sets: the trace of a record in the mean of its class (`align`)
    model        the server's last model: its confidence in the record's label

Whoever sees a rung can make the ones below it, so a claim of the transcript holds for all three. Crafted records are
vectors and no images: of the two lower rungs there is nothing to compare them with.

Source  membership_embeddings.py and membership_networks.py for the two lower rungs; the ladder is a choice made here.
Cost    decoding: one_run_canaries.py; `align`: random networks' passes over the sets and the planted records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from attacks.membership_networks import threat_of
from attacks.membership_statistics import Laboratory, StatisticsConfig
from fedsim.audit.canaries import CanaryRelease
from fedsim.audit.types import Knowledge, Release, ThreatModel
from fedsim.audit.view import AdversaryView
from fedsim.privacy.observed import Look
from fedsim.seeding import Streams

Rung = Literal["transcript", "set", "model"]
RELEASES: dict[Rung, Release] = {
    "transcript": Release.TRANSCRIPT,
    "set": Release.CLIENT_SETS,
    "model": Release.SERVER_MODEL,
}

Decode = Callable[[list[Look], torch.Tensor, float], torch.Tensor]
"""(looks, labels, deviation) → one number per planted record of a client."""

_KNOWS = {Knowledge.ARCHITECTURE, Knowledge.WEIGHTS, Knowledge.HYPERPARAMETERS, Knowledge.CANDIDATES}
OBSERVER = ThreatModel(
    "worst_case_observer", "server", "passive", frozenset({Release.TRANSCRIPT, Release.SERVER_MODEL}),
    frozenset({*_KNOWS, Knowledge.AUXILIARY}),
)  # fmt: skip
"""Who stands on the highest rung."""


def settings(rung: Rung, random_networks: int) -> StatisticsConfig:
    """How a lower rung is measured."""
    if rung == "set":
        return StatisticsConfig(name="rung", statistics=("align",), random_networks=random_networks)
    return StatisticsConfig(name="rung", release="server_model", statistics=("model",))


def threats() -> dict[Rung, ThreatModel]:
    """Who stands on each rung."""
    set_reader = settings("set", 1)
    return {
        "transcript": OBSERVER, "set": threat_of(set_reader, *set_reader.knowledge),
        "model": threat_of(settings("model", 1)),
    }  # fmt: skip


def transcript_scores(view: AdversaryView, held: CanaryRelease, decode: Decode) -> np.ndarray:
    """(m), from what was watched of every client's sums; asked of a run with noise."""
    assert held.deviation is not None, "asked of private runs"
    labels, found = view.candidates.labels.cpu(), np.full(len(held.clients), 0.5)
    for client in np.unique(held.clients):
        mine = np.flatnonzero(held.clients == client)
        found[mine] = decode(held.looks(int(client)), labels[torch.from_numpy(mine)], held.deviation).numpy()
    return found


def lower_scores(
    view: AdversaryView, held: CanaryRelease, random_networks: int, streams: Streams
) -> dict[str, np.ndarray]:
    """`rung.set` and `rung.model` (m); NaN for crafted records, and where nothing of a class was released."""
    m = len(held.kinds)
    found = {name: np.full(m, np.nan) for name in ("rung.set", "rung.model")}
    pictures = held.kinds != "crafted"
    if not pictures.any():
        return found
    rows = np.flatnonzero(pictures)
    seen = Laboratory.of(_among(view, rows), settings("model", 1), streams)
    found["rung.model"][rows] = seen.measure("model", view.released)
    for client in np.unique(held.clients[pictures]):
        mine = np.flatnonzero(pictures & (held.clients == client))
        laboratory = Laboratory.of(_among(view, mine), settings("set", random_networks), streams)
        found["rung.set"][mine] = laboratory.measure("align", view.released.of_client(int(client)))
    return found


def _among(view: AdversaryView, rows: np.ndarray) -> AdversaryView:
    """The view with these of the planted records as candidates; nothing of the others is kept in a cache."""
    taken = view.candidates.take(torch.from_numpy(rows))
    return replace(view, granted={**view.granted, Knowledge.CANDIDATES: taken}, cache=lambda name, compute: compute())
