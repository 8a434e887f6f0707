"""The watched door releases what the run's own door does, and stores what was watched; what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.one_run_canaries import coins, decoded
from fedsim.data.canaries import Planted, disguised
from fedsim.data.images import Images
from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism, contributions
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.observed import LOOKS, ObservedOwner, directions, said, stored_looks
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference import private_dm as private

COUNTS, NETWORKS, CANARIES = (20, 20, 20), 2, 12
NOISE = Streams(0).at("noise")


def noise(question: str) -> SeededNoise:
    return SeededNoise(NOISE.generator(question))


def dealt(kind):
    """Records of the reference problem, a dozen of them canaries of one kind, and coins."""
    held = loops.images(COUNTS)
    canaries = disguised(kind, held.take(torch.arange(0, 60, 5)), 3, stream(1))
    rest = held.take(torch.tensor([row for row in range(60) if row % 5]))
    return Planted(rest, canaries, coins(CANARIES, stream(2)), torch.full((CANARIES,), kind == "crafted"))


def watched(folder, kind, sigma=1e-3):
    """A prepared run of the reference problem; its owner, and what was dealt to it."""
    planted = dealt(kind)
    mechanism, ledger = Mechanism(clip=2.0, kappa=0.5, sigma=sigma), Ledger(folder, 1e-5, "add_remove")
    owner = ObservedOwner(
        planted, 3, loops.NORMALISE, torch.device("cpu"), mechanism, noise, ledger, Streams(4), folder / LOOKS
    )
    task = replace(private.task(folder / "unused", COUNTS), real=owner)
    PrivateMatching(private.config(NETWORKS), private.terms()).prepare(task, stream(3))
    return owner, planted


@pytest.mark.parametrize("kind", ["natural", "mislabelled", "ood_noise"])
def test_it_releases_what_the_run_releases_of_the_same_records(tmp_path, kind):
    owner, planted = watched(tmp_path / "watched", kind)
    rest, canaries, included = planted.rest, planted.canaries, planted.included
    held = Images(
        torch.cat([rest.pixels, canaries.pixels[included]]), torch.cat([rest.labels, canaries.labels[included]])
    )
    plain = PrivateImages(
        held,
        3,
        loops.NORMALISE,
        torch.device("cpu"),
        owner.mechanism,
        noise,
        Ledger(tmp_path / "b", 1e-5, "add_remove"),
    )
    released = []
    own = plain.release
    plain.release = lambda *a, **k: released.append(own(*a, **k)) or released[-1]  # type: ignore[method-assign]
    task = replace(private.task(tmp_path / "unused2", COUNTS), real=plain)
    PrivateMatching(private.config(NETWORKS), private.terms()).prepare(task, stream(3))
    assert len(released) == len(owner.looks) == NETWORKS == owner.ledger.made
    for one, seen in zip(released, owner.looks, strict=True):
        assert torch.equal(one.values, seen.values)
        total = seen.rest.index_add(0, canaries.labels[included], seen.rows[included])
        assert (one.values - total).abs().max() < 0.05  # noise of deviation .002; the last bits of a forward pass


@pytest.mark.parametrize("kind", ["crafted", "mislabelled", "ood_noise"])
def test_the_coins_are_read_through_real_networks_where_there_is_hardly_noise(tmp_path, kind):
    owner, planted = watched(tmp_path, kind, 1e-6)
    scores = decoded(owner.looks, planted.canaries.labels, owner.mechanism.deviation)
    assert torch.equal(scores > 0.5, planted.included)
    kept = decoded(stored_looks(tmp_path), planted.canaries.labels, owner.mechanism.deviation)
    torch.testing.assert_close(kept, scores)  # files come in another order


def test_crafted_vectors_are_clipped_counted_and_charged_like_any_other(tmp_path):
    owner, planted = watched(tmp_path, "crafted", 0.5)
    assert 0 < int(planted.included.sum()) < CANARIES
    for seen in owner.looks:
        assert seen.rows.norm(dim=1).numpy() == pytest.approx(owner.mechanism.sensitivity, rel=1e-6)
        assert (seen.rows[:, -1] - 0.5).abs().max() < 1e-6
    assert not torch.equal(owner.looks[0].rows, owner.looks[1].rows)  # other directions under every network
    assert owner.ledger.made == NETWORKS


def test_directions_are_at_right_angles_while_there_is_room():
    avoided = torch.randn((2, 9), generator=stream(0), dtype=torch.float64)
    rows = directions(7, avoided, stream(1))
    assert (rows @ rows.T - torch.eye(7, dtype=torch.float64)).abs().max() < 1e-12
    assert (rows @ avoided.T).abs().max() < 1e-12
    assert directions(8, avoided, stream(1)).norm(dim=1).numpy() == pytest.approx(1.0)


def test_an_image_says_its_vector_in_any_batch():
    names = torch.randn((3, 1, 2, 2), generator=stream(0))
    vectors = torch.randn((3, 4), generator=stream(1), dtype=torch.float64)
    changed = said(lambda images, _: images.flatten(1), names, vectors)
    other = torch.ones((1, 1, 2, 2))
    found = changed(torch.cat([names[2:], other, names[:1]]), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(found, torch.stack([vectors[2], torch.ones(4).double(), vectors[0]]))
    with pytest.raises(UserError, match=r"two of the same bytes"):
        said(lambda images, _: images.flatten(1), torch.cat([names, names[:1]]), torch.cat([vectors, vectors[:1]]))


def test_what_cannot_be_audited_is_refused(tmp_path):
    how = (3, loops.NORMALISE, torch.device("cpu"))
    ledger = Ledger(tmp_path, 1e-5, "add_remove")
    with pytest.raises(UserError, match=r"^privacy\.rate: got 0\.5"):
        ObservedOwner(dealt("crafted"), *how, Mechanism(1.0, 1.0, 1.0, rate=0.5), noise, ledger, Streams(0))
    owner = ObservedOwner(dealt("crafted"), *how, Mechanism(1.0, 1.0, 1.0), noise, ledger, Streams(0))
    with pytest.raises(UserError, match=r"^audit\.planted: canaries are decoded from class sums"):
        owner.release_pooled()


def test_rows_are_those_of_the_mechanism(tmp_path):
    owner, _ = watched(tmp_path, "ood_noise")
    (first, _) = owner.looks
    units = first.rows / owner.mechanism.grid
    assert torch.equal(units, units.round())
    assert (first.rows[:, :-1].norm(dim=1) <= owner.mechanism.clip).all()
    assert contributions(torch.zeros((1, 3)), torch.zeros(3), owner.mechanism)[0, -1] == units[0, -1]
