"""A network with its noisy sums: centre, subspace, question; projected vectors keep the sensitivity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.data.images import Images
from fedsim.distill import noisy_networks
from fedsim.distill.base import Task
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.distill.distribution.private_dm import State as PrivateState
from fedsim.distill.noisy_networks import NoisyNetwork, projected
from fedsim.distill.subspace import basis
from fedsim.models.functional import unflatten
from fedsim.privacy.mechanism import Mechanism, NoisySum, release
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference.mechanism import CENTRE, CLASSES, WIDTH, Records, farthest_neighbours, neighbours
from tests.reference.private_dm import LEAST, config, loss, task, terms

SUBSPACE = {"subspace": "random", "dimension": 3}


def made(here: Task, **privacy: Any) -> tuple[PrivateMatching, list[NoisyNetwork], PrivateState]:
    one = PrivateMatching(config(size=1), terms(**privacy))
    networks = one.prepare(here, stream(0))
    return one, networks, one.init(here, networks, stream(1))


@pytest.mark.parametrize("clip", [0.1, 50.0])
def test_a_step_in_a_subspace_is_the_equation(tmp_path, clip):
    here = task(tmp_path, mechanism=Mechanism(clip, 1.0, 0.5))
    one, networks, state = made(here, **SUBSPACE)
    before, labels, network = state.pixels.clone().requires_grad_(), here.labels(), networks[0]
    params = unflatten(network.flat, here.network.state_dict())
    whole = loops.looking(here.network, params, ("embedding", "logits"))
    columns = network.basis
    assert columns is not None
    assert columns.shape == (len(network.centre), 3)

    def look(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ((torch.cat(whole(image), 1) - network.centre) @ columns.double(),)

    kept = [float(count) >= LEAST for count in state.counts]
    expected = loss(before, labels, look, torch.zeros(3), network.target, kept, clip)
    (gradient,) = torch.autograd.grad(expected, before)
    one.step(here, networks, state, stream(2))
    assert torch.allclose(state.pixels, here.normalise.project(before.detach() - 0.1 * gradient), atol=1e-5)


def test_little_noise_releases_the_projected_class_means(tmp_path):
    counts = (7, 4, 5, 9)
    here = task(tmp_path, counts, mechanism=Mechanism(1e3, 1e2, 1e-7))
    _, (network,), _ = made(here, **SUBSPACE)
    params = unflatten(network.flat, here.network.state_dict())
    look, images = loops.looking(here.network, params, ("embedding", "logits")), loops.images(counts)
    columns = network.basis
    assert columns is not None
    for label in range(4):
        rows = torch.cat(look(loops.NORMALISE(images.pixels[images.labels == label]).double()), 1) - network.centre
        assert torch.allclose(network.target[label].double(), rows.mean(0) @ columns.double(), atol=1e-3)


def by_projection(records: Records, mechanism: Mechanism, noise: SeededNoise) -> NoisySum:
    """Two of four directions, as a client releases them."""
    project = projected(lambda vectors, labels: vectors, CENTRE, basis(2, WIDTH, stream(7)))
    pieces = [(project(records.vectors, records.labels), records.labels)] if len(records.labels) else []
    return release(pieces, torch.zeros(2), CLASSES, mechanism, noise)


def test_neighbours_in_a_subspace_are_no_farther_apart_than_stated():
    added, replaced = farthest_neighbours(by_projection, 150)
    assert 0.99 < added <= 1.0
    assert 0.5 < replaced <= 1.0


def test_projecting_after_clipping_with_columns_that_are_not_orthonormal_is_noticed():
    def late(records: Records, mechanism: Mechanism, noise: SeededNoise) -> NoisySum:
        whole = release(
            [(records.vectors, records.labels)] if len(records.labels) else [], CENTRE, CLASSES, mechanism, noise
        )
        stretched = torch.full((WIDTH, 2), 1.0, dtype=torch.float64)
        values = torch.cat([whole.values[:, :-1] @ stretched, whole.values[:, -1:]], 1)
        return NoisySum(values, whole.kappa, whole.rate, whole.simulated)

    assert any(added > 1.0 for added, _ in neighbours(late, 300))


def questions(tmp_path: Any, name: str, previous: Images | None = None, **privacy: Any) -> set[str]:
    here = replace(task(tmp_path / name), previous=previous)
    made(here, **privacy)
    assert isinstance(here.real, PrivateImages)
    return {one.key for one in here.real.ledger.charges}


def test_another_subspace_is_another_question(tmp_path):
    plain = questions(tmp_path, "a")
    random = questions(tmp_path, "b", **SUBSPACE)
    assert plain != random == questions(tmp_path, "c", **SUBSPACE)
    noise = questions(tmp_path, "d", subspace="previous", dimension=3)
    sent = questions(tmp_path, "e", loops.images((2, 2, 2, 2), seed=5), subspace="previous", dimension=3)
    assert len(plain | random | noise | sent) == 4


def test_directions_of_what_was_uploaded_hold_more_of_it_than_random_ones(tmp_path):
    sent = loops.images((5, 5, 5, 5), seed=5)
    shares = []
    for name, how in (("a", "previous"), ("b", "random")):
        here = replace(task(tmp_path / name), previous=sent)
        one, (network,), _ = made(here, subspace=how, dimension=3)
        params = unflatten(network.flat, here.network.state_dict())
        with torch.no_grad():
            rows = one.seeing.vectors(here, params, None)(here.normalise(sent.pixels), sent.labels) - network.centre
        columns = network.basis
        assert columns is not None
        shares.append(float((rows @ columns.to(rows.dtype)).square().sum() / rows.square().sum()))
    assert shares[0] > 1.5 * shares[1]


def test_too_many_directions_are_refused_before_anything_is_charged(tmp_path):
    here = task(tmp_path)
    with pytest.raises(UserError, match=r"privacy.dimension: got 500; vectors have \d+ coordinates; valid: 1 to"):
        made(here, subspace="random", dimension=500)
    assert isinstance(here.real, PrivateImages)
    assert here.real.ledger.charges == []


def test_the_centre_does_not_look_at_records(tmp_path):
    centres = [made(task(tmp_path / str(n), (n, 1, 1, 1)))[1][0].centre for n in (1, 9)]
    assert torch.equal(centres[0], centres[1])
    assert noisy_networks.PUBLIC == 64
