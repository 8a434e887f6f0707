"""Verdicts of a filter on synthetic images by its scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from defenses.suspicion import verdicts
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.defences import Verdict
from fedsim.federated.upload_rows import Scoring, rows_of


def inspected(
    defence: Scoring, threshold: float, setting: Setting, state: ServerState, uploads: Sequence[Upload]
) -> list[Verdict]:
    """The verdicts of a filter by its scores of the uploads; the uploads are read and not changed."""
    rows = rows_of(setting, uploads)
    with torch.no_grad():
        scores = defence.score(setting, state.weights, rows)
    return verdicts(rows.clients, scores.cpu(), threshold)
