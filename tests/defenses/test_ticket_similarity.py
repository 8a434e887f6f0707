"""Ticket similarity: worked scores, clients that change places, a client that differs, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses.ticket_similarity import Config, bits_of, compared, mask_of, ticket_scores, usual
from fedsim.audit.statistics.masks import changed, likeness
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import flatten, state
from fedsim.models.network import Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import Streams, stream
from fedsim.training.tickets import Masks, magnitude_mask, prunable
from fedsim.training.train import TrainConfig, fit
from fedsim.types import UserError
from tests.reference.dm import NORMALISE

CONFIG = Config(train=TrainConfig(epochs=4, lr=0.05, batch_size=8, schedule="constant"), keep=0.3)


def network(norm: Norm = "instance") -> Network:
    return build_network(ConvNet, ConvNetConfig(depth=1, width=8, norm=norm), (1, 6, 6), 2, stream(0))


def upload(seed: int, *, stripes: str = "rows") -> Images:
    """Sixteen images of two classes, whose dark half is above or below, or left or right."""
    labels = torch.arange(16) % 2
    half = (torch.arange(6) < 3).view(6, 1).expand(6, 6)
    half = half if stripes == "rows" else half.T
    pattern = torch.where(labels.view(-1, 1, 1).bool(), half, ~half)
    noise = torch.randint(0, 100, (16, 6, 6), generator=stream(seed))
    return Images((150 * pattern + noise).to(torch.uint8)[:, None], labels)


def bits(word: str) -> dict[str, Tensor]:
    return {"w": torch.tensor([letter == "1" for letter in word])}


def test_scores_by_hand():
    """Chance of two masks that keep half: ⅓. Two equal, one with three of four bits in common, one apart."""
    masks = [bits("11110000"), bits("11110000"), bits("11101000"), bits("00001111")]
    found = compared(masks, "iou", 1.0)
    near, apart = (3 / 5 - 1 / 3) * 1.5, (0 - 1 / 3) * 1.5
    third = (1 / 7 - 1 / 3) * 1.5
    assert found.likeness[0, 1:] == pytest.approx([1, near, apart])
    assert found.likeness[2, 3] == pytest.approx(third)
    assert np.isnan(np.diag(found.likeness)).all()
    assert found.median == pytest.approx([near, near, near, apart])
    assert found.z == pytest.approx([0, 0, 0, -4 / 1.2533], rel=1e-6)  # suspicion.py: no median deviation
    assert found.flagged.tolist() == [False, False, False, True]


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_scores_are_those_of_masks_trained_from_the_start(norm: Norm):
    uploads, net = [upload(seed) for seed in range(3)], network(norm)
    start = state(net)
    found = ticket_scores(network(norm), start, uploads, NORMALISE, CONFIG, Streams(5))
    turned = []
    for one in uploads:
        net.load_state_dict(start)
        before = mask_of(net, CONFIG)
        fit(net, one, NORMALISE, CONFIG.train, Streams(5).generator("train"))
        turned.append(changed(mask_of(net, CONFIG), before))
    expected = likeness(turned[0], turned[1], "iou").corrected
    assert found.likeness[0, 1] == found.likeness[1, 0] == expected


def test_masks_can_be_compared_as_they_are():
    uploads, start = [upload(seed) for seed in range(3)], state(network())
    plain = CONFIG.model_copy(update={"compare": "masks"})
    found = ticket_scores(network(), start, uploads, NORMALISE, plain, Streams(5))
    net = network()
    before = mask_of(net, CONFIG)
    masks = []
    for one in uploads:
        net.load_state_dict(start)
        fit(net, one, NORMALISE, CONFIG.train, Streams(5).generator("train"))
        masks.append(mask_of(net, CONFIG))
    assert found.likeness[2, 1] == likeness(masks[1], masks[2], "iou").corrected
    other = ticket_scores(network(), start, uploads, NORMALISE, CONFIG, Streams(5)).likeness[2, 1]
    assert other == likeness(changed(masks[1], before), changed(masks[2], before), "iou").corrected
    assert other != found.likeness[2, 1]


def test_scores_follow_the_clients():
    uploads = [upload(seed, stripes="columns" if seed == 1 else "rows") for seed in range(5)]
    start, order = state(network()), [3, 1, 0, 4, 2]
    first = ticket_scores(network(), start, uploads, NORMALISE, CONFIG, Streams(5))
    moved = ticket_scores(network(), start, [uploads[place] for place in order], NORMALISE, CONFIG, Streams(5))
    assert moved.z.tolist() == first.z[order].tolist()
    equal = ticket_scores(network(), start, [uploads[0]] * 3, NORMALISE, CONFIG, Streams(5))
    assert equal.median.tolist() == [1, 1, 1]
    assert not equal.flagged.any()


def test_a_client_with_another_task_is_least_like_the_others():
    for seed in range(3):
        uploads = [upload(7 * seed + place, stripes="columns" if place == 2 else "rows") for place in range(6)]
        found = ticket_scores(network(), state(network()), uploads, NORMALISE, CONFIG, Streams(seed))
        assert found.z.argmin() == 2
        assert found.z[2] < -2


def test_a_synthetic_set_counts_as_its_images():
    images = [upload(seed) for seed in range(3)]
    sets = [SyntheticSet(one.pixels, one.labels, ("a", "b"), NORMALISE.mean, NORMALISE.std) for one in images]
    start = state(network())
    left, right = (ticket_scores(network(), start, given, NORMALISE, CONFIG, Streams(2)) for given in (images, sets))
    assert left.z.tolist() == right.z.tolist()


def test_gamma_masks_after_a_training_and_not_before():
    gamma = CONFIG.model_copy(update={"mask": "gamma", "keep": 0.5})
    uploads, net = [upload(seed) for seed in range(3)], network()
    with pytest.raises(UserError, match="as in a new network"):
        ticket_scores(net, state(net), uploads, NORMALISE, gamma, Streams(0))
    fit(net, upload(9), NORMALISE, CONFIG.train, stream(1))
    start = state(net)
    found = ticket_scores(net, start, uploads, NORMALISE, gamma, Streams(0))
    assert found.likeness.shape == (3, 3)
    with pytest.raises(UserError, match="no scale"):
        ticket_scores(network("none"), state(network("none")), uploads, NORMALISE, gamma, Streams(0))


def test_a_client_with_more_images_takes_as_many_steps() -> None:
    """Sixteen images and the same twice over are one task; an epoch is eight images under eight of them."""
    few, steps = upload(0), []
    double = Images(few.pixels.repeat(2, 1, 1, 1), few.labels.repeat(2))
    half = few.take(torch.arange(8))
    assert usual([few, double, half]) == usual([few, double, half, few]) == 16
    for one in (few, double, half):
        net, count = network(), []
        fit(
            net, one, NORMALISE, CONFIG.train, Streams(5).generator("train"), size=16,
            adjust=lambda _, count=count: count.append(1),
        )  # fmt: skip
        steps.append(len(count))
        turned = bits_of(network(), state(network()), one, 16, NORMALISE, CONFIG, Streams(5))
        start = magnitude_mask(state(network()), prunable(net), CONFIG.keep)
        assert turned is not None
        assert all(
            torch.equal(turned[name], value)
            for name, value in changed(magnitude_mask(state(net), prunable(net), CONFIG.keep), start).items()
        )
    assert steps == [8, 8, 8]


def test_an_upload_that_breaks_the_training_is_the_most_suspicious_and_spares_the_others() -> None:
    uploads = [upload(seed) for seed in range(4)]
    breaking = replace(upload(0), weights=torch.full((16,), 1e30))
    found = ticket_scores(network("none"), state(network("none")), [*uploads, breaking], NORMALISE, CONFIG, Streams(5))
    alone = ticket_scores(network("none"), state(network("none")), uploads, NORMALISE, CONFIG, Streams(5))
    assert found.z[:4].tolist() == alone.z.tolist()
    assert found.z[4] == -np.inf
    assert found.flagged[4]
    masks: list[Masks | None] = [bits("1100"), None, bits("1010"), None]
    few = compared(masks, "iou", 3.5)
    assert np.isnan(few.z[[0, 2]]).all()
    assert few.flagged.tolist() == [False, True, False, True]
    assert np.isnan(compared([None] * 3, "iou", 3.5).z).all()


def test_uploads_and_start_are_left_as_they_are():
    uploads, start = [upload(seed) for seed in range(3)], state(network())
    before = flatten(start).clone()
    ticket_scores(network(), start, uploads, NORMALISE, CONFIG, Streams(0))
    assert torch.equal(flatten(start), before)
    assert all(torch.equal(one.pixels, upload(seed).pixels) for seed, one in enumerate(uploads))


def test_wrong_input():
    two, none = [upload(0), upload(1)], Images(upload(0).pixels[:0], upload(0).labels[:0])
    with pytest.raises(UserError, match="got 2 uploads; valid: at least 3"):
        ticket_scores(network(), state(network()), two, NORMALISE, CONFIG, Streams(0))
    with pytest.raises(UserError, match="no image in upload 2"):
        ticket_scores(network(), state(network()), [*two, none], NORMALISE, CONFIG, Streams(0))
