"""Leave-one-client-out: the score against the same written out, and who has most influence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defenses.influence import Config, Influence, change, class_logits
from fedsim.federated.base import Upload, network_with
from fedsim.federated.upload_rows import rows_of
from fedsim.seeding import Streams
from tests.reference import defences as reference

SHORT = Config(steps=3)


def test_class_means_and_their_largest_change() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    labels = torch.tensor([2, 2, 0])
    means, which = class_logits(logits, labels, 4)
    assert (means.tolist(), which.tolist()) == ([[5, 0], [2, 3]], [0, 2])
    other = torch.tensor([[1.0, 2.0], [0.0, 4.0], [5.0, 1.0]])
    assert float(change(logits, other, labels, 4)) == 1.5


def literal(uploads: list[Upload]) -> list[float]:
    here = reference.setting()
    before = reference.before(here)

    def trained(kept: list[Upload]) -> torch.nn.Module:
        network = network_with(here, before.weights)
        images = here.normalise(torch.cat([reference.images_of(one) for one in kept]))
        labels = torch.cat([one.synthetic.labels for one in kept if one.synthetic is not None])
        speed = [torch.zeros_like(weight) for weight in network.parameters()]
        for _ in range(SHORT.steps):
            loss = F.cross_entropy(network(images), labels)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            speed = [SHORT.momentum * v + g for v, g in zip(speed, gradients, strict=True)]
            with torch.no_grad():
                for weight, way in zip(network.parameters(), speed, strict=True):
                    weight.sub_(SHORT.lr * way)
        return network

    union, found = trained(uploads), []
    for one in uploads:
        others = [other for other in uploads if other is not one]
        images = here.normalise(torch.cat([reference.images_of(other) for other in others]))
        labels = torch.cat([other.synthetic.labels for other in others if other.synthetic is not None])
        apart = (union(images) - trained(others)(images)).detach()
        found.append(max(float(apart[labels == label].mean(0).abs().max()) for label in labels.unique().tolist()))
    return reference.z_scores(found)


def test_the_score_is_what_leaving_out_does() -> None:
    here, uploads = reference.setting(), reference.uploads(4)
    rows = rows_of(here, uploads)
    found = Influence(SHORT).score(here, reference.before(here).weights, rows)
    assert found.tolist() == pytest.approx(literal(uploads), rel=1e-2, abs=1e-2)
    chunked = Influence(SHORT).score(
        reference.federation.setting(width=8, chunk=5), reference.before(here).weights, rows
    )
    assert chunked.tolist() == pytest.approx(found.tolist(), rel=1e-2, abs=1e-2)


def test_a_client_that_calls_one_class_another_has_most_influence() -> None:
    here, uploads = reference.setting(), reference.uploads(7)
    uploads[5] = reference.poisoned(uploads[5])
    found = Influence(Config(steps=10)).inspect(here, reference.before(here), uploads, Streams(0))
    assert max(found, key=lambda one: one.score).client == 15
    assert found[5].flagged


def test_two_clients_are_not_judged_nor_one_that_sent_nothing() -> None:
    here = reference.setting()
    two = Influence(SHORT).inspect(here, reference.before(here), reference.uploads(2), Streams(0))
    assert [one.judged for one in two] == [False, False]
    some = [*reference.uploads(3), reference.upload(3, (0, 0, 0, 0))]
    found = Influence(SHORT).inspect(here, reference.before(here), some, Streams(0))
    assert [one.judged for one in found] == [True, True, True, False]
