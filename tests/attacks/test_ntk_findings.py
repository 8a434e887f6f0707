"""What is found is counted against the draws, and counts for nothing where a run was not lazy."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.ntk_reconstruction import Config, NTKReconstruction
from fedsim.audit.card import judged
from fedsim.audit.types import Finding, Scores, Status, Truth

CASES, RECORDS, OTHERS = 2, 4, 19


def arrays(known: bool, residual: float = 0.05) -> tuple[Scores, Truth]:
    """Reconstructions that are the records in reverse order, or know nothing of them."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(256, size=(CASES, RECORDS, OTHERS + 2, 1, 4, 4), dtype=np.uint8)
    labels = rng.integers(3, size=(CASES, RECORDS))
    found = pixels[:, ::-1, 0 if known else -1].astype(np.float32) / 255
    scores = {"images": np.ascontiguousarray(found), "labels": np.ascontiguousarray(labels[:, ::-1])}
    truth = {"images": np.ascontiguousarray(pixels[:, :, 0]), "others": np.ascontiguousarray(pixels[:, :, 1:-1])}
    return scores, truth | {"labels": labels, "residual": np.array([0.01, residual])}


def evaluated(scores: Scores, truth: Truth) -> list[Finding]:
    """As an audit does."""
    return judged(NTKReconstruction(Config()).evaluate([scores], [truth]), [])


def named(findings: list[Finding]) -> list[Finding]:
    """Those of identification, images and labels."""
    by_metric = {one.metric: one for one in findings}
    return [by_metric[name] for name in ("identification", "mse_below_0.001", "label_accuracy")]


def test_records_that_are_identified_are_a_leak():
    identification, images, labels = named(evaluated(*arrays(True)))
    assert identification.status is Status.LEAK
    assert identification.estimate is not None
    assert (identification.estimate.value, identification.estimate.n, identification.p) == (1, 8, 0.001)
    assert identification.details["residual"] == 0.05
    assert [one.estimate and one.estimate.value for one in (images, labels)] == [1, 1]


def test_reconstructions_that_know_nothing_are_not():
    identification, images, _ = named(evaluated(*arrays(False)))
    assert identification.status is Status.NOT_DETECTED
    assert identification.p is not None
    assert identification.p > 0.05
    assert images.estimate is not None
    assert images.estimate.value == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_was_not_lazy_is_inconclusive_and_says_what_was_seen(known: bool):
    scores, truth = arrays(known, residual=0.21)
    found = evaluated(scores, truth)
    assert {one.status for one in found} == {Status.INCONCLUSIVE}
    assert found[0].estimate is not None
    assert found[0].note.startswith(f"{round(found[0].estimate.value * 8)} of 8 records")
    assert (found[0].estimate.value == 1) == known
    assert "residual 0.21 above 0.2" in found[0].note


def test_the_draws_are_the_same_whenever_they_are_asked_for():
    stored = arrays(True)
    assert evaluated(*stored) == evaluated(*stored)
