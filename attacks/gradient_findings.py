"""Attacks on gradients and updates as part of an audit: from a view to a reconstruction, from arrays to findings.

    identification   the true record is strictly nearer to the reconstruction than m held-out ones of its class
    mse < 0.001      per image, pixels in 0..1, not clamped
    label accuracy   share of the records of a batch whose label was found, whatever the order
    prior only       identification of a record from the reconstruction of another case: what the attack finds of any
                     record, and so no leak of this one

Reconstructions of a batch come in any order: they are matched to the true images by the assignment of least squared
error, which flatters those of several records a little; identification has the same advantage for chance, none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.gradient_matching import Observed, Reconstruction
from attacks.labels import multiset_accuracy
from fedsim.audit.image_distances import WINDOW, identified, match, mean_squared_error, psnr, ssim
from fedsim.audit.statistics.power import detectable_proportion
from fedsim.audit.statistics.proportions import binomial_p_value, clopper_pearson
from fedsim.audit.types import Finding, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView

CLOSE = 1e-3
"""Mean squared error below which an image counts as found, as in the papers."""


def observed(view: AdversaryView) -> Observed:
    """What the attacker of a gradient holds."""
    release, public = view.released.gradients(), view.public
    network = public.with_weights(release.params).eval()
    return Observed(
        network, release.params, dict(release.gradients), public.image_shape, len(public.classes), public.normalise,
        release.records,
    )  # fmt: skip


def scores_of(found: Reconstruction) -> Scores:
    """The arrays of a reconstruction."""
    return {
        "images": found.images.float().cpu().numpy(),
        "labels": found.labels.cpu().numpy(),
        "gradient_loss": found.gradient_loss.double().cpu().numpy(),
        "iterations": found.iterations.cpu().numpy(),
    }


def findings_of(
    attack: str, threat: ThreatModel, scores: Scores, truth: Truth, release: Release = Release.GRADIENT
) -> list[Finding]:
    """Identification, which is the confirmatory one, with what the prior alone identifies; images and labels found.

    Without held-out records (`others` of no candidates) there is no identification.
    """
    made, batches = torch.from_numpy(scores["images"]), torch.from_numpy(truth["images"]).float() / 255
    images, true = _matched(made, batches)
    errors, n = mean_squared_error(images, true), len(images)
    labels = [torch.from_numpy(one["labels"]) for one in (scores, truth)]
    shares = multiset_accuracy(labels[0], labels[1], int(max(one.max() for one in labels)) + 1)
    right = round(float(shares.sum()) * labels[0].shape[1])
    common: dict[str, Any] = {"attack": attack, "threat": threat.name, "release": release}
    found = [
        Finding(
            f"{attack}.{release}.mse_below_0.001", metric="mse_below_0.001", null=None,
            estimate=clopper_pearson(int((errors < CLOSE).sum()), n), details=_quality(images, true, errors), **common,
        ),
        Finding(
            f"{attack}.{release}.label_accuracy", metric="label_accuracy", null=None,
            estimate=clopper_pearson(right, n), **common,
        ),
    ]  # fmt: skip
    others = torch.from_numpy(truth["others"]).flatten(0, 1).float() / 255
    return [*_identification(made, batches, others, common), *found] if others.shape[1] else found


def _identification(made: Tensor, batches: Tensor, others: Tensor, common: dict[str, Any]) -> list[Finding]:
    """Of the records from their own cases, and from the next one's."""
    images, true = _matched(made, batches)
    most, name = others.shape[1], f"{common['attack']}.{common['release']}"
    chance, n, found = 1 / (most + 1), len(images), int(identified(images, true, others).sum())
    least = detectable_proportion(n, chance)
    details = {"among": most + 1, **_quality(images, true, mean_squared_error(images, true))}
    findings = [
        Finding(
            f"{name}.identification", metric="identification", estimate=clopper_pearson(found, n), null=chance,
            p=binomial_p_value(found, n, chance), minimum_detectable=least, confirmatory=True,
            note=f"{found} of {n} records among {most + 1} of their class", details=details, **common,
        )
    ]  # fmt: skip
    if len(made) < 2:
        return findings
    swapped = int(identified(*_matched(made.roll(1, 0), batches), others).sum())
    note = f"{swapped} of {n} records from the reconstruction of another case: what the attack's prior alone identifies"
    prior = Finding(
        f"{name}.identification_prior_only", metric="identification_prior_only", estimate=clopper_pearson(swapped, n),
        null=chance, note=note, details={"among": most + 1}, **common,
    )  # fmt: skip
    return [*findings, prior]


def _matched(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """(n s, c, h, w) each, image by image; what is not finite becomes grey, which identifies nothing."""
    found = torch.nan_to_num(found, nan=0.5, posinf=0.5, neginf=0.5)
    ordered = []
    for images, batch in zip(found, true, strict=True):
        places = match(images, batch)
        ordered.append(images[torch.argsort(places)])
    return torch.cat(ordered), true.flatten(0, 1)


def _quality(images: Tensor, true: Tensor, errors: Tensor) -> dict[str, float]:
    side = min(true.shape[-2:])
    window = WINDOW if side >= WINDOW else side - 1 + side % 2
    finite: Any = psnr(images, true).clamp(max=100)
    return {
        "median_mse": float(errors.median()),
        "median_psnr": float(finite.median()),
        "median_ssim": float(ssim(images, true, window).median()),
        "ssim_window": window,
    }


def first(scores: Sequence[Scores], truths: Sequence[Truth]) -> tuple[Scores, Truth]:
    """An attack on gradients has one target."""
    assert len(scores) == len(truths) == 1, "the runner makes one target of all gradients"
    return scores[0], {name: np.asarray(one) for name, one in truths[0].items()}
