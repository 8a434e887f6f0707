"""k-Means: Lloyd's rounds against the loop over points, its first centres, and the images at the ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.config import validate
from fedsim.distill.coresets import k_means
from fedsim.distill.coresets.k_means import Config, KMeans, first_centres, lloyd, nearest
from fedsim.distill.coresets.selection import all_images
from fedsim.distill.drive import condense
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import coresets as slow
from tests.reference import dm as reference

FEW = settings(max_examples=25, deadline=None)
CLASSES = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
"""Images, features, seed."""


def features(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=stream(seed), dtype=torch.float64)


def agrees(keep: str = "nearest") -> bool:
    """Whether the method ends where the loops end from the same first centres, class by class."""
    task = reference.task(counts=(7, 0, 1, 5), ipc=3)
    config = Config.model_validate({"ipc": 3, "features": "pixels", "keep": keep})
    synthetic, _ = condense(KMeans(config), task, 1, Streams(0))
    images, rng, expected = all_images(task, Streams(0).generator("prepare")), Streams(0).generator("init"), []
    for label in (0, 2, 3):
        own = images.pixels[images.labels == label]
        points = reference.NORMALISE(own).flatten(1).double()
        centres = slow.lloyd(points, first_centres(points, min(3, len(own)), rng), 100)
        kept = own[slow.nearest(points, centres)]
        middles = reference.NORMALISE.quantise(centres.float().view(-1, 1, 6, 6))
        expected.append(kept if keep == "nearest" else middles)
    return torch.equal(synthetic.images, torch.cat(expected))


@pytest.mark.parametrize("keep", ["nearest", "centre"])
def test_the_set_is_that_of_the_loops(keep: str) -> None:
    assert agrees(keep)


def one_round(points: Tensor, centres: Tensor, rounds: int) -> Tensor:
    return centres


def sums(sums: Tensor, counts: Tensor) -> Tensor:
    return sums / counts.sum()


def the_farthest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(centres, points).argmax(1)


@pytest.mark.parametrize(("name", "mutant"), [("lloyd", one_round), ("class_means", sums), ("nearest", the_farthest)])
def test_planted_bugs_are_caught(name: str, mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k_means, name, mutant)
    assert not (agrees() and agrees("centre"))


@FEW
@given(CLASSES, st.data())
def test_any_features_are_clustered_as_in_the_loop(shape: tuple[int, int, int], data: st.DataObject) -> None:
    rows = features(*shape)
    centres = first_centres(rows, data.draw(st.integers(1, len(rows))), stream(shape[2], "centres"))
    rounds = data.draw(st.integers(1, 20))
    found = lloyd(rows, centres, rounds)
    torch.testing.assert_close(found, slow.lloyd(rows, centres, rounds), rtol=1e-9, atol=1e-9)
    taken: list[int] = []
    for centre, row in zip(found, nearest(rows, found).tolist(), strict=True):
        away = (rows - centre).norm(dim=1)
        away[taken] = torch.inf
        assert away[row] <= away.min() + 1e-9  # the centre of two rows is as far from one as from the other
        taken.append(row)


@FEW
@given(CLASSES, st.data())
def test_rounds_never_raise_the_sum_of_squares(shape: tuple[int, int, int], data: st.DataObject) -> None:
    rows = features(*shape)
    centres = first_centres(rows, data.draw(st.integers(1, len(rows))), stream(shape[2], "centres"))
    costs = [float(torch.cdist(rows, lloyd(rows, centres, rounds)).amin(1).square().sum()) for rounds in range(1, 6)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(costs))


def test_first_centres_are_drawn_by_squared_distance() -> None:
    """After a row of the left pair, each of the two rows at 3 and 6 has a share of about 9 and 36 in 45."""
    rows = torch.tensor([[0.0], [1e-9], [3.0], [6.0]], dtype=torch.float64)
    drawn = [first_centres(rows, 2, stream(seed)).flatten().tolist() for seed in range(600)]
    seconds = [second for first, second in drawn if first < 1]
    assert abs(sum(second == 6 for second in seconds) / len(seconds) - 36 / 45) < 0.08
    assert abs(sum(first < 1 for first, _ in drawn) / len(drawn) - 1 / 2) < 0.08


def test_first_centres_are_distinct_rows_even_of_duplicates() -> None:
    rows = torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    assert sorted(first_centres(rows, 4, stream(0)).flatten().tolist()) == [0.0, 1.0, 1.0, 1.0]
    assert sorted(nearest(rows, lloyd(rows, first_centres(rows, 4, stream(0)), 9)).tolist()) == [0, 1, 2, 3]


def test_centres_of_embeddings_are_refused() -> None:
    with pytest.raises(UserError, match="keep: centre needs features: pixels") as caught:
        validate(Config, {"keep": "centre"})
    assert "\n" not in str(caught.value)
