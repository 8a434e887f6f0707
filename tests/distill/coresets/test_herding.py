"""Herding against the greedy loop over means, and what must hold for any features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.distill.coresets import herding
from fedsim.distill.coresets.herding import Config, Herding, herd
from fedsim.seeding import stream
from tests.reference import coresets as slow

FEW = settings(max_examples=25, deadline=None)
CLASSES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
"""Images, features, seed."""


def features(rows: int, columns: int, seed: int) -> Tensor:
    """Positive like embeddings after a ReLU, with a mean far from 0."""
    return torch.randn(rows, columns, generator=stream(seed), dtype=torch.float64).abs() + 3.0


def agrees() -> bool:
    """Whether the method chooses what the loop chooses, class by class."""
    return slow.chooses_as(Herding(Config(ipc=3, features="pixels")), slow.herding)


def test_the_choice_is_the_papers_loop() -> None:
    assert agrees()


def the_farthest(rows: Tensor, count: int) -> Tensor:
    """As the released code read has it."""
    centred = rows.double() - rows.double().mean(0)
    return centred.square().sum(1).argsort(descending=True)[:count]


def without_what_was_chosen(rows: Tensor, count: int) -> Tensor:
    centred = rows.double() - rows.double().mean(0)
    return centred.square().sum(1).argsort()[:count]


def around_zero(rows: Tensor, count: int) -> Tensor:
    return herd(torch.cat([rows, -rows]), count) % len(rows)


@pytest.mark.parametrize("mutant", [the_farthest, without_what_was_chosen, around_zero])
def test_planted_bugs_are_caught(mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herding, "herd", mutant)
    assert not agrees()


@FEW
@given(CLASSES, st.data())
def test_any_features_are_chosen_as_in_the_loop(shape: tuple[int, int, int], data: st.DataObject) -> None:
    rows = features(*shape)
    count = data.draw(st.integers(1, len(rows)))
    assert herd(rows, count).tolist() == slow.herding(rows, count)


@FEW
@given(CLASSES)
def test_all_of_a_class_is_the_class_and_fewer_are_its_first(shape: tuple[int, int, int]) -> None:
    rows = features(*shape)
    everything = herd(rows, len(rows)).tolist()
    assert sorted(everything) == list(range(len(rows)))
    assert all(herd(rows, count).tolist() == everything[:count] for count in range(1, len(rows)))


@FEW
@given(CLASSES, st.data())
def test_the_order_of_the_images_does_not_matter(shape: tuple[int, int, int], data: st.DataObject) -> None:
    rows = features(*shape)
    assume(len(rows) != 2)  # two lie equally far from their mean: rounding chooses
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    count = data.draw(st.integers(1, len(rows)))
    assert order[herd(rows[order], count)].tolist() == herd(rows, count).tolist()


def test_the_mean_of_the_chosen_beats_that_of_as_many_at_random() -> None:
    rows = features(200, 8, 0)
    chosen = rows[herd(rows, 10)].mean(0)
    off = [
        float((rows[torch.randperm(200, generator=stream(seed))[:10]].mean(0) - rows.mean(0)).norm())
        for seed in range(20)
    ]
    assert float((chosen - rows.mean(0)).norm()) < 0.3 * min(off)


def test_the_first_of_equals() -> None:
    assert herd(torch.zeros(4, 2), 3).tolist() == [0, 1, 2]
