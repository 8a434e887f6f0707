"""Upload checks: the statistics against plain numbers; a bad upload is found, one with other classes is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from defenses.upload_checks import Config, UploadChecks, excess, statistics
from fedsim.federated.upload_rows import rows_of
from fedsim.seeding import Streams
from tests.reference import defences as reference


def scores(uploads: list) -> torch.Tensor:
    here = reference.setting()
    return UploadChecks(Config()).score(here, {}, rows_of(here, uploads))


def test_statistics_are_those_of_plain_numbers() -> None:
    pixels = torch.rand((3, 2, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, image in zip(statistics(pixels).tolist(), pixels.numpy(), strict=True):
        assert found == pytest.approx(reference.statistics(image), rel=1e-6)
    assert torch.autograd.gradcheck(statistics, [pixels[:1].requires_grad_()])


def test_the_score_is_the_largest_deviation_over_classes_and_statistics() -> None:
    uploads = reference.uploads(4, (2, 0, 1, 1))
    worst = [0.0] * 4
    for which in range(3):
        cells = {
            label: [
                sum(reference.statistics(image.numpy() / 255)[which] for image in images[rows]) / int(rows.sum())
                for images, rows in ((reference.images_of(one), one.synthetic.labels == label) for one in uploads)
            ]
            for label in (0, 2, 3)
        }
        apart = {label: [value - float(reference.median(row)) for value in row] for label, row in cells.items()}
        scale = 1.4826 * float(reference.median([abs(value) for row in apart.values() for value in row]))
        worst = [max([best, *(abs(row[at]) / scale for row in apart.values())]) for at, best in enumerate(worst)]
    assert scores(uploads).tolist() == pytest.approx(worst, rel=1e-3)


@pytest.mark.parametrize("kind", ["noise", "constant", "bright"])
def test_a_bad_upload_has_the_highest_score_and_is_flagged(kind: str) -> None:
    uploads = reference.uploads()
    images = reference.images_of(uploads[3])
    rng = torch.Generator().manual_seed(0)
    bad = {
        "noise": torch.randint(0, 256, images.shape, generator=rng).to(torch.uint8),
        "constant": torch.full_like(images, 120),
        "bright": (images.int() + 80).clamp(max=255).to(torch.uint8),
    }[kind]
    uploads[3] = reference.changed(uploads[3], bad)
    here = reference.setting()
    found = UploadChecks(Config()).inspect(here, reference.before(here), uploads, Streams(0))
    assert [one.client for one in found if one.flagged] == [13]
    assert max(found, key=lambda one: one.score).client == 13


def test_holding_other_classes_is_no_anomaly_and_a_class_of_ones_own_is_not_judged() -> None:
    skewed = [reference.upload(at, (4, 4, 0, 0) if at < 4 else (0, 0, 4, 4)) for at in range(8)]
    assert float(scores(skewed).max()) < 6
    alone = [reference.upload(at, (4, 0, 0, 0)) for at in range(3)] + [reference.upload(3, (0, 4, 0, 0))]
    here = reference.setting()
    found = UploadChecks(Config()).inspect(here, reference.before(here), alone, Streams(0))
    assert [one.judged for one in found] == [True, True, True, False]


def test_a_set_that_outnumbers_its_records_is_flagged_but_not_where_their_number_is_private() -> None:
    here, uploads = reference.setting(), reference.uploads(4)
    uploads[2] = replace(uploads[2], examples=12)
    checks = UploadChecks(Config(threshold=30.0))
    found = checks.inspect(here, reference.before(here), uploads, Streams(0))
    assert [(one.client, one.score) for one in found if one.flagged] == [(12, 30.0 + 4)]
    assert (excess(3, 3), excess(5, 3)) == (0, 2)
    private = replace(here, privacy=cast(Any, object()))
    assert not any(one.flagged for one in checks.inspect(private, reference.before(here), uploads, Streams(0)))


def test_an_attacker_can_follow_the_score_down() -> None:
    """A step against the gradient of its own pixels lowers its score."""
    here, uploads = reference.setting(), reference.uploads()
    uploads[0] = reference.changed(
        uploads[0], (reference.images_of(uploads[0]).int() + 60).clamp(max=255).to(torch.uint8)
    )
    rows = rows_of(here, uploads)
    own = rows.inputs[rows.owners == 0].requires_grad_()

    def score(images: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([images, rows.inputs[rows.owners != 0]])
        return UploadChecks(Config()).score(here, {}, replace(rows, inputs=inputs))[0]

    first = score(own)
    (gradient,) = torch.autograd.grad(first, own)
    assert float(gradient.abs().max()) > 0
    assert float(score(own.detach() - 0.5 * gradient / gradient.abs().max()).detach()) < float(first.detach())
