"""Attacks on gradients and updates as part of an audit: from a view to a reconstruction, from arrays to findings.

    identification   the true record is strictly nearer to the reconstruction than m held-out ones of its class
    mse < 0.001      per image, pixels in 0..1, not clamped
    label accuracy   share of the records of a batch whose label was found, whatever the order
    prior only       identification of a record from the reconstruction of another case: what the attack finds of any
                     record, and so no leak of this one
    nearer_to_member of gradients on distilled data: share nearer to the client's records than to held-out ones

Reconstructions of a batch come in any order: they are matched to the true images by the assignment of least squared
error, which helps chance too; identification of batches is therefore held against exchanged records (exchange.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.exchange import exchanges, p_value
from attacks.gradient_matching import Observed, Reconstruction
from attacks.labels import multiset_accuracy
from attacks.record_distances import between
from fedsim.audit.image_distances import fitting_window, identified, match, mean_squared_error, psnr, ssim
from fedsim.audit.statistics.permutation import nearest_gap, permutation_test
from fedsim.audit.statistics.power import detectable_proportion
from fedsim.audit.statistics.proportions import binomial_p_value, clopper_pearson
from fedsim.audit.types import Finding, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.seeding import numpy_stream

CLOSE = 1e-3
"""Mean squared error below which an image counts as found, as in the papers."""


def observed(view: AdversaryView) -> Observed:
    """What the attacker of a gradient holds."""
    release, public = view.released.gradients(), view.public
    network = public.with_weights(release.params).eval()
    return Observed(
        network, release.params, dict(release.gradients), public.image_shape, len(public.classes), public.normalise,
        release.records, view.tell,
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
        *(of_distilled(images, labels[1].flatten(), truth, common, attack) if "pool" in truth else ()),
    ]  # fmt: skip
    others = torch.from_numpy(truth["others"]).float() / 255
    if not others.shape[2]:
        return found
    return [*_identification(made, batches, others, common, distilled="pool" in truth), *found]


def _identification(
    made: Tensor, batches: Tensor, others: Tensor, common: dict[str, Any], *, distilled: bool
) -> list[Finding]:
    """Of the records from their own cases, and from the one's before.

    A distilled image is told from records by what it looks like, whatever was read off its gradient: chance is no null
    then, there is no test, and naming it is no leak of a record.
    """
    images, true = _matched(made, batches)
    most, name, flat = others.shape[2], f"{common['attack']}.{common['release']}", others.flatten(0, 1)
    chance, n, found = 1 / (most + 1), len(images), int(identified(images, true, flat).sum())
    p = binomial_p_value(found, n, chance)
    if batches.shape[1] > 1:  # matching helps chance too, as much as where others take the records' places
        cases = exchanges(common["attack"], made, batches, others)
        null = np.sum([case.null for case in cases], axis=0)
        found = sum(int(case.identified.sum()) for case in cases)
        p, chance = p_value(found, null), max(chance, float(null.mean()) / n)
    least = detectable_proportion(n, chance)
    details = {"among": most + 1, **_quality(images, true, mean_squared_error(images, true))}
    findings = [
        Finding(
            f"{name}.identification", metric="identification", estimate=clopper_pearson(found, n),
            null=None if distilled else chance, p=None if distilled else p,
            minimum_detectable=None if distilled else least, confirmatory=not distilled,
            note=f"{found} of {n} records among {most + 1} of their class", details=details, **common,
        )
    ]  # fmt: skip
    if len(made) < 2:
        return findings
    swapped = int(identified(*_matched(made.roll(1, 0), batches), flat).sum())
    note = f"{swapped} of {n} records from the reconstruction of another case: what the attack's prior alone identifies"
    prior = Finding(
        f"{name}.identification_prior_only", metric="identification_prior_only", estimate=clopper_pearson(swapped, n),
        null=None if distilled else chance, note=note, details={"among": most + 1}, **common,
    )  # fmt: skip
    return [*findings, prior]


def of_distilled(images: Tensor, labels: Tensor, truth: Truth, common: dict[str, Any], attack: str) -> list[Finding]:
    """Images (n, c, h, w) from gradients on distilled data against the client's records and as many held-out ones.

    `nearer_to_member` is the share whose nearest record of the class is the client's, ½ without a leak; the p-value is
    that of the gap of nearest distances, membership permuted within classes. Beside it the same of the true images.
    """
    members, classes = truth["pool_members"].astype(bool), truth["pool_labels"]
    pool, apart = torch.from_numpy(truth["pool"]), labels.numpy()[:, None] != classes[None, :]
    rng = numpy_stream(0, "gradients", "distilled")

    def told(shown: Tensor) -> tuple[int, float, float]:
        pixels = (255 * shown.clamp(0, 1)).round().to(torch.uint8)
        away = np.where(apart, np.inf, between(pixels, pool, "standardised").numpy())
        found = permutation_test(nearest_gap(away), members, classes, rng)
        return int(members[away.argmin(1)].sum()), found.p, found.value

    near, p, gap = told(images)
    itself = dict(zip(("nearer_to_member", "p", "gap"), told(_flat(truth["images"])), strict=True))
    note = f"{near} of {len(images)} images; of the distilled images themselves {itself['nearer_to_member']}"
    return [
        Finding(
            f"{attack}.gradient.nearer_to_member", metric="nearer_to_member", null=0.5, p=p, note=note,
            estimate=clopper_pearson(near, len(images)), confirmatory=True,
            details={"gap": gap, "distilled_images": itself}, **common,
        )
    ]  # fmt: skip


def _flat(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).flatten(0, 1).float() / 255


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
    window = fitting_window(side)
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
