"""Learned step sizes: which images a step sees, and what a file says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.rates import parts, problem
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.types import UserError
from tests.reference import dd as reference

RATES = torch.tensor([[0.5, 0.25], [0.125, 0.0]])
SET = SyntheticSet(
    torch.arange(3 * 36, dtype=torch.uint8).view(3, 1, 6, 6), torch.tensor([0, 1, 1]), ("a", "b"), (0.5,), (0.5,),
    rates=RATES,
)  # fmt: skip


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=12), steps=st.integers(1, 4))
def test_parts_are_those_of_a_count_by_hand(labels: list[int], steps: int) -> None:
    found = parts(torch.tensor(labels), steps)
    assert [rows.tolist() for rows in found] == [reference.part(labels, step, steps) for step in range(steps)]
    assert sorted(row for rows in found for row in rows.tolist()) == list(range(len(labels)))


def test_a_file_holds_them(tmp_path: Path) -> None:
    SET.save(tmp_path / "set.safetensors")
    found = SyntheticSet.load(tmp_path / "set.safetensors")
    assert found.rates is not None
    assert torch.equal(found.rates, RATES)
    assert found.encode() == SET.encode() != replace(SET, rates=None).encode()
    SET.save_npz(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as arrays:
        assert arrays["rates"].tolist() == RATES.tolist()


def test_they_are_stored_and_counted_but_not_sent() -> None:
    assert "rates" not in SET.tensors()
    assert SET.bits() == replace(SET, rates=None).bits() + 32 * 4


def test_they_belong_to_all_images_in_their_order() -> None:
    images = SET.as_images()
    assert images.rates is RATES
    assert images.to(torch.device("cpu")).rates is RATES
    assert images.take(torch.tensor([1, 0, 2])).rates is None
    assert union([SET, SET]).rates is None


@pytest.mark.parametrize(
    ("rates", "formation", "line"),
    [
        (RATES.double(), 1, r"step sizes are torch.float64\(2, 2\), not float32\(epochs, steps\)"),
        (RATES.flatten(), 1, r"not float32\(epochs, steps\)"),
        (RATES[:0], 1, r"not float32\(epochs, steps\)"),
        (-RATES, 1, "step sizes begin at -0.5, valid are finite numbers from 0"),
        (RATES / 0, 1, "step sizes begin at nan, valid are finite numbers from 0"),
        (RATES, 2, "step sizes are of whole images, and these are of formation 2"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(rates: torch.Tensor, formation: int, line: str, tmp_path: Path) -> None:
    object.__setattr__(damaged := replace(SET, formation=formation), "rates", rates)
    damaged.save(tmp_path / "set.safetensors")
    with pytest.raises(UserError, match=line) as refusal:
        SyntheticSet.load(tmp_path / "set.safetensors")
    assert "\n" not in str(refusal.value)
    assert problem(None, formation) is None
