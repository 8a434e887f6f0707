"""Spectral signatures: the planted direction is found, at the sample's index and with the top singular vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from defenses.spectral_signatures import Config, SpectralSignatures, signatures
from fedsim.federated.upload_rows import embedded, rows_of
from fedsim.seeding import Streams, numpy_stream
from tests.reference import defences as reference

PLANTED = [3, 17, 18, 29, 41, 55]


def planted(label_of_class: int = 0) -> np.ndarray:
    """60 rows of 12 features, six of them moved along one direction."""
    rng = numpy_stream(0, "planted", label_of_class)
    rows = rng.standard_normal((60, 12))
    direction = rng.standard_normal(12)
    rows[PLANTED] += 6 * direction / np.linalg.norm(direction)
    return rows


@pytest.mark.parametrize("label", [0, 7])
def test_the_planted_rows_are_found_whatever_their_class_is_called(label: int) -> None:
    rows = planted(label)
    found = signatures(torch.from_numpy(rows))
    assert sorted(found.argsort(descending=True)[: len(PLANTED)].tolist()) == PLANTED
    assert found.tolist() == pytest.approx(reference.signatures(rows), rel=1e-6, abs=1e-9)


def test_neither_known_mistake_is_made() -> None:
    """With class ids for indices six of six are wrong, and i-th vectors miss the planted rows."""
    rows = planted()
    wrong = reference.with_class_ids_and_ith_vectors(rows, label=7)
    assert {place for place, _ in wrong} == {7}
    scores = np.array([score for _, score in wrong])
    assert sorted(np.argsort(-scores)[: len(PLANTED)].tolist()) != PLANTED
    assert not np.allclose(scores, signatures(torch.from_numpy(rows)).numpy())


def test_scores_add_up_to_the_top_singular_values_squared() -> None:
    rows = torch.from_numpy(planted())
    sizes = torch.linalg.svdvals(rows - rows.mean(0)).square()
    for directions in (1, 2, 5):
        assert float(signatures(rows, directions).sum()) == pytest.approx(float(sizes[:directions].sum()))
    moved = rows + 5.0
    assert torch.allclose(signatures(moved), signatures(rows))


def test_the_gradient_of_their_sum_is_exact() -> None:
    rows = torch.from_numpy(planted()).requires_grad_()
    (found,) = torch.autograd.grad(signatures(rows).sum(), rows)
    step = 1e-5
    for row, column in ((3, 0), (10, 5), (55, 11)):
        values = []
        for sign in (1, -1):
            moved = rows.detach().clone()
            moved[row, column] += sign * step
            values.append(float(signatures(moved).sum()))
        assert float(found[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("over_rows", ["mean", "max"])
def test_a_client_with_poison_in_one_class_has_the_highest_score(over_rows) -> None:
    uploads = reference.uploads(9)
    uploads[5] = reference.poisoned(uploads[5])
    here = reference.setting()
    defence = SpectralSignatures(Config(over_rows=over_rows))
    found = defence.inspect(here, reference.before(here), uploads, Streams(0))
    assert max(found, key=lambda one: one.score).client == 15
    if over_rows == "mean":
        assert [one.client for one in found if one.flagged] == [15]


def test_the_score_is_z_of_the_largest_share_of_a_class() -> None:
    here, uploads = reference.setting(), reference.uploads(5, (3, 0, 2, 1))
    before, rows = reference.before(here), rows_of(here, uploads)
    features = embedded(here, before.weights, rows).double().numpy()
    worst = [0.0] * 5
    for label in (0, 2, 3):
        own = np.flatnonzero(rows.labels.numpy() == label)
        tau = reference.signatures(features[own])
        share = np.array(tau) / np.mean(tau)
        for client in range(5):
            worst[client] = max(worst[client], float(share[rows.owners.numpy()[own] == client].mean()))
    found = SpectralSignatures(Config()).score(here, before.weights, rows)
    assert found.tolist() == pytest.approx(reference.z_scores(worst), rel=1e-3, abs=1e-3)


def test_too_few_rows_are_said_and_not_judged() -> None:
    here = reference.setting()
    few = reference.uploads(8, (1, 0, 0, 0))
    for directions, judged in ((2, True), (3, False)):
        found = SpectralSignatures(Config(directions=directions)).inspect(here, reference.before(here), few, Streams(0))
        assert {one.judged for one in found} == {judged}
        assert judged or {(one.score, one.flagged) for one in found} == {(0.0, False)}
    two = SpectralSignatures(Config()).inspect(here, reference.before(here), reference.uploads(2), Streams(0))
    assert {one.judged for one in two} == {False}


def test_an_attacker_can_follow_the_score_down() -> None:
    here, uploads = reference.setting(), reference.uploads(9)
    uploads[0] = reference.poisoned(uploads[0])
    before, rows, defence = reference.before(here), rows_of(here, uploads), SpectralSignatures(Config())
    own = rows.inputs[rows.owners == 0].requires_grad_()

    def score(images: torch.Tensor) -> torch.Tensor:
        inputs = torch.cat([images, rows.inputs[rows.owners != 0]])
        return defence.score(here, before.weights, replace(rows, inputs=inputs))[0]

    first = score(own)
    (gradient,) = torch.autograd.grad(first, own)
    assert float(score(own.detach() - 0.2 * gradient / gradient.abs().max()).detach()) < float(first.detach())
