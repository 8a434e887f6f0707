"""Gradient pruning: which entries stay, how many, and each case by itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.gradient_pruning import Config, pruned, pruned_release
from fedsim.audit.gradients import GradientRelease
from fedsim.types import UserError

VALUES = st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=20)


def test_by_hand() -> None:
    gradient = torch.tensor([[1.0, -4.0], [3.0, -2.0]])
    assert pruned(gradient, 0.5).tolist() == [[0, -4], [3, 0]]
    assert pruned(gradient, 0.51).tolist() == [[0, -4], [3, -2]]
    assert torch.equal(pruned(gradient, 1.0), gradient)
    assert pruned(torch.tensor([2.0, -2.0, 2.0]), 0.3).tolist() == [2, 0, 0]


@settings(max_examples=40)
@given(VALUES, st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]))
def test_the_largest_stay_as_they_are(values: list[float], share: float) -> None:
    gradient = torch.tensor(values)
    found = pruned(gradient, share)
    kept = math.ceil(share * len(values) - 1e-9)
    expected = sorted((abs(value) for value in values), reverse=True)[:kept]
    assert sorted(found.abs().tolist(), reverse=True)[:kept] == expected
    assert all(new in (0, old) for new, old in zip(found.tolist(), values, strict=True))


def test_a_release_is_pruned_case_by_case_and_tensor_by_tensor() -> None:
    gradients = {"a": torch.tensor([[1.0, 2.0], [40.0, 30.0]]), "b": torch.tensor([[[-5.0, 0.5]], [[0.1, 0.2]]])}
    release = GradientRelease({"a": torch.zeros(2)}, gradients, 3)
    found = pruned_release(release, Config(share=0.5))
    assert found.gradients["a"].tolist() == [[0, 2], [40, 0]]
    assert found.gradients["b"][:, 0].tolist() == [[-5, 0], [0, pytest.approx(0.2)]]
    assert (found.records, found.params) == (3, release.params)
    assert gradients["a"].tolist() == [[1, 2], [40, 30]]


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UserError, match="share: got"):
        pruned(torch.zeros(2), share)
