"""Robust z-scores against plain numbers; a conformal threshold keeps its rate; verdicts say who was not judged."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.suspicion import class_deviations, largest, median, robust_z, verdicts
from fedsim.federated.defences import Verdict
from tests.reference import defences as reference

GRAINS = st.integers(-1000, 1000).map(lambda whole: whole / 16)


@settings(max_examples=40)
@given(st.lists(GRAINS, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_z_scores_are_those_of_plain_numbers(values: list[float]) -> None:
    found = robust_z(torch.tensor(values, dtype=torch.float64))
    assert found.tolist() == pytest.approx(reference.z_scores(values), rel=1e-9)


@settings(max_examples=40)
@given(st.lists(GRAINS, min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_z_scores_go_with_the_clients(values: list[float], random) -> None:
    order = random.sample(range(len(values)), len(values))
    plain, shuffled = (robust_z(torch.tensor(one)) for one in (values, [values[at] for at in order]))
    assert torch.allclose(shuffled, plain[order], rtol=1e-4)


def test_clients_that_agree_have_no_z_and_one_that_differs_has_its_largest() -> None:
    assert robust_z(torch.full((5,), 0.1)).tolist() == [0.0] * 5
    assert robust_z(torch.tensor([0.1, 0.1 * (1 + 1e-7), 0.1, 0.1])).tolist() == [0.0] * 4
    found = robust_z(torch.tensor([1.0, 1, 1, 1, 5]))
    assert found.tolist() == pytest.approx([0, 0, 0, 0, 5 / 1.2533], rel=1e-6)


def test_what_is_no_number_stays_out_and_stays() -> None:
    found = robust_z(torch.tensor([1.0, math.nan, 2.0, 3.0]))
    assert found[[0, 2, 3]].tolist() == robust_z(torch.tensor([1.0, 2.0, 3.0])).tolist()
    assert bool(found[1].isnan())
    assert bool(robust_z(torch.full((3,), math.nan)).isnan().all())


def test_z_scores_have_a_gradient() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(robust_z, [values])
    assert float(median(torch.tensor([4.0, 1.0, 3.0]))) == 3


def test_classes_are_compared_where_three_hold_them() -> None:
    cells = torch.tensor([[1.0, 7.0], [2.0, 9.0], [4.0, 0.0], [0.0, 0.0]])
    held = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    found = class_deviations(cells, held)
    assert found[:3, 0].tolist() == pytest.approx([-1 / 1.4826, 0, 2 / 1.4826])
    assert bool(found[:, 1].isnan().all())
    assert bool(found[3].isnan().all())
    worst = largest(found.abs())
    assert worst[:3].tolist() == pytest.approx([1 / 1.4826, 0, 2 / 1.4826])
    assert bool(worst[3].isnan())
    assert bool(class_deviations(cells, torch.zeros_like(held)).isnan().all())


def test_verdicts() -> None:
    assert verdicts([3, 5, 8], torch.tensor([2.0, math.nan, 4.0]), 3.0) == [
        Verdict(3, 2.0, flagged=False),
        Verdict(5, 0.0, flagged=False, judged=False),
        Verdict(8, 4.0, flagged=True),
    ]
