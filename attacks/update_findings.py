"""Findings of a reconstruction from weight changes: records identified against an exchange null, if the runs were lazy.

A change of which more than a fifth lies outside the gradients of its own records was not made by lazy training: what
the attack rests on does not hold, and its findings are INCONCLUSIVE, with the numbers beside. That says nothing for
the records: an attack may well identify them, and the note tells how many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from attacks.exchange import exchanges, p_value
from attacks.labels import multiset_accuracy
from fedsim.audit.statistics.power import detectable_proportion
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.tangent import LAZY
from fedsim.audit.types import Finding, Release, Scores, Status, ThreatModel, Truth

CLOSE = 1e-2
"""Mean squared error below which an image counts as found."""


def findings_of(attack: str, threat: ThreatModel, scores: Scores, truth: Truth) -> list[Finding]:
    """Identification, which is the confirmatory one, images found, labels found, the largest residual in the details.

    `truth` holds `images` (b, s, c, h, w) and `others` (b, s, m, c, h, w) as bytes, `labels` (b, s), `residual` (b).
    """
    true, others = (torch.from_numpy(truth[name]).float() / 255 for name in ("images", "others"))
    cases = exchanges(attack, torch.from_numpy(scores["images"]), true, others)
    n, most = truth["labels"].size, truth["others"].shape[2]
    found = sum(int(case.identified.sum()) for case in cases)
    null = np.sum([case.null for case in cases], axis=0)
    errors = np.concatenate([case.errors for case in cases]) / np.prod(truth["images"].shape[2:])
    labels = [torch.from_numpy(one["labels"]) for one in (scores, truth)]
    shares = multiset_accuracy(labels[0], labels[1], int(max(one.max() for one in labels)) + 1)
    worst, chance = float(np.max(truth["residual"])), max(float(null.mean()) / n, 1 / (most + 1))
    lazy = worst <= LAZY
    note = f"{found} of {n} records among {most + 1} of their class, {null.mean():.1f} where others take their places"
    note += "" if lazy else f"; residual {worst:.2f} above {LAZY}: training was not lazy, the attack's premise fails"
    common: dict[str, Any] = {
        "attack": attack, "threat": threat.name, "release": Release.LOCAL_UPDATE,
        "status": Status.MEASURED if lazy else Status.INCONCLUSIVE,
    }  # fmt: skip
    details = {"among": most + 1, "residual": worst, "median_mse": float(np.median(errors))}
    return [
        Finding(
            f"{attack}.update.identification", metric="identification", estimate=clopper_pearson(found, n),
            null=chance, p=p_value(found, null), minimum_detectable=detectable_proportion(n, chance),
            confirmatory=True, note=note, details=details, **common,
        ),
        Finding(
            f"{attack}.update.mse_below_{CLOSE}", metric=f"mse_below_{CLOSE}", null=None,
            estimate=clopper_pearson(int((errors < CLOSE).sum()), n), **common,
        ),
        Finding(
            f"{attack}.update.label_accuracy", metric="label_accuracy", null=None,
            estimate=clopper_pearson(round(float(shares.sum()) * truth["labels"].shape[1]), n), **common,
        ),
    ]  # fmt: skip
