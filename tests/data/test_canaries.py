"""Planted records: in slots of the split, dealt in turn, in by a coin each; nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.canaries import Canaries, disguised, plant, planted, replaced, with_canaries
from fedsim.data.images import Images
from fedsim.data.partition import IID, IIDConfig
from fedsim.data.split import AuditConfig, PlantedConfig, Split, draw_split
from fedsim.seeding import stream
from fedsim.types import UserError

NUMBER, CLASSES = 240, 4
ASKED = PlantedConfig(crafted=30, mislabelled=12, ood_noise=8)


def source() -> Images:
    pixels = torch.randint(0, 256, (NUMBER, 1, 3, 3), generator=stream(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(NUMBER) % CLASSES)


def drawn(seed: int = 0, asked: PlantedConfig = ASKED) -> tuple[Split, Canaries]:
    audit = AuditConfig(canaries=60, planted=asked)
    split = draw_split(source().labels.numpy(), CLASSES, 0.1, audit, IID(IIDConfig(clients=3)), seed)
    return split, plant(split, source(), asked, CLASSES, seed)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_those_whose_coin_says_so_move_to_their_client_and_nothing_else_does(seed: int) -> None:
    split, canaries = drawn(seed)
    moved = with_canaries(split, canaries)
    for client in range(3):
        new = np.setdiff1d(moved.client[client], split.client[client])
        assert np.array_equal(new, canaries.positions[canaries.included & (canaries.clients == client)])
        assert not len(np.setdiff1d(split.client[client], moved.client[client]))
    everything = np.concatenate([moved.train, moved.val, moved.holdout, moved.canaries, moved.withheld])
    assert np.array_equal(np.sort(everything), np.arange(NUMBER))
    assert set(canaries.positions) <= set(split.canaries)
    assert len(np.unique(canaries.positions)) == ASKED.total


def test_coins_are_fair_and_know_nothing_of_kind_client_or_class() -> None:
    every = [drawn(seed)[1] for seed in range(200)]
    thrown = np.stack([one.included for one in every])
    assert abs(thrown.mean() - 0.5) < 4 * 0.5 / np.sqrt(thrown.size)
    for of in ("kinds", "clients"):
        values = np.stack([getattr(one, of) for one in every])
        for value in np.unique(values):
            here = thrown[values == value]
            assert abs(here.mean() - 0.5) < 4 * 0.5 / np.sqrt(here.size)
    assert np.array_equal(np.bincount(every[0].clients), [17, 17, 16])  # 10 + 4 + 3 or 2 of each kind
    assert {kind: int((every[0].kinds == kind).sum()) for kind in np.unique(every[0].kinds)} == ASKED.counts


def test_the_train_split_has_them_in_their_slots_and_a_client_its_own_apart() -> None:
    split, canaries = drawn()
    images, moved = replaced(source(), canaries), with_canaries(split, canaries)
    where = torch.from_numpy(canaries.positions)
    assert torch.equal(images.pixels[where], canaries.images.pixels)
    assert torch.equal(images.labels[where], canaries.images.labels)
    others = torch.from_numpy(np.setdiff1d(np.arange(NUMBER), canaries.positions))
    assert torch.equal(images.pixels[others], source().pixels[others])
    held = images.take(torch.from_numpy(moved.client[1]))
    own = planted(held, moved.client[1], canaries.of(1))
    assert len(own.rest) + int(own.included.sum()) == len(held)
    assert torch.equal(own.rest.pixels, source().take(torch.from_numpy(split.client[1])).pixels)
    assert int(own.crafted.sum()) == 10
    assert len(own.canaries) == len(own.included) == int((canaries.clients == 1).sum())


def test_kinds_are_what_they_are_called() -> None:
    records = source().take(torch.arange(40))
    assert disguised("natural", records, CLASSES, stream(5)) is records
    moved = disguised("mislabelled", records, CLASSES, stream(5))
    assert torch.equal(moved.pixels, records.pixels)
    assert (moved.labels != records.labels).all()
    assert ((moved.labels >= 0) & (moved.labels < CLASSES)).all()
    for kind in ("ood_noise", "crafted"):
        uniform = disguised(kind, records, CLASSES, stream(5))
        assert torch.equal(uniform.labels, records.labels)
        assert uniform.pixels.float().mean() == pytest.approx(127.5, abs=15)
        assert len({one.numpy().tobytes() for one in uniform.pixels}) == 40


@pytest.mark.parametrize("asked", [PlantedConfig(), PlantedConfig(natural=61)])
def test_more_records_than_slots_are_refused(asked: PlantedConfig) -> None:
    with pytest.raises((UserError, ValueError), match=r"at least one, at most as many as audit\.canaries"):
        AuditConfig(canaries=60, planted=asked)
