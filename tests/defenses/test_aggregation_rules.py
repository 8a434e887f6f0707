"""Robust rules by hand, against plain numbers, and what must hold for any vectors."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.aggregation_rules import (
    Rule,
    chosen_by_krum,
    clip_factors,
    combine,
    krum_scores,
    median,
    needed,
    trimmed_mean,
)
from fedsim.seeding import numpy_stream
from fedsim.types import UserError
from tests.reference import defences as reference

RULES: tuple[Rule, ...] = get_args(Rule)
NUMBERS = st.integers(-64, 64).map(lambda whole: whole / 4)


def several(smallest: int = 5, largest: int = 8) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=smallest, max_size=largest)


def combined(vectors: Tensor, rule: Rule, shares: Tensor | None = None, f: int = 1, keep: int | None = None) -> Tensor:
    equal = torch.full((len(vectors),), 1 / len(vectors), dtype=vectors.dtype)
    return combine(vectors, equal if shares is None else shares, rule, f, keep, 1.0)[0]


LINE = torch.tensor([[0.0], [1.0], [3.0], [4.0], [100.0]], dtype=torch.float64)


def test_krum_by_hand() -> None:
    """K = 5, f = 1: each has its 2 nearest others. 1: 0 and 3, 1 + 4 = 5; 3: 4 and 1, 1 + 4 = 5; 0: 1 + 9; 4: 1 + 9."""
    assert krum_scores(LINE, 1).tolist() == [10, 5, 5, 10, 96**2 + 97**2]
    assert combined(LINE, "krum").tolist() == [1.0]  # of equal scores the first
    assert combined(LINE, "multi_krum").tolist() == [2.0]  # 0, 1, 3, 4
    assert combined(LINE, "multi_krum", keep=2).tolist() == [2.0]  # 1, 3
    assert chosen_by_krum(LINE, 1, 2).tolist() == [0, 0.5, 0.5, 0, 0]


def test_the_others_by_hand() -> None:
    assert trimmed_mean(LINE, 1).tolist() == pytest.approx([8 / 3])
    assert trimmed_mean(LINE, 2).tolist() == [3.0]
    assert median(LINE).tolist() == [3.0]
    assert median(LINE[:4]).tolist() == [2.0]
    vectors = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0], [6.0, 8.0], [0.0, 5.0]])
    assert clip_factors(vectors, 1.0).tolist() == [1, 1, 1, 0.5, 1]
    assert clip_factors(vectors, 0.5).tolist() == [0.5, 1, 1, 0.25, 0.5]
    weighed = combined(LINE, "mean", torch.tensor([0.5, 0.5, 0, 0, 0], dtype=torch.float64))
    assert weighed.tolist() == [0.5]


@settings(max_examples=40)
@given(several(), st.integers(0, 1))
def test_they_are_those_of_plain_numbers(vectors: list[list[float]], f: int) -> None:
    wide = torch.tensor(vectors, dtype=torch.float64)
    assert krum_scores(wide, f).tolist() == pytest.approx(reference.krum_scores(vectors, f))
    assert trimmed_mean(wide, f).tolist() == pytest.approx(reference.trimmed_mean(vectors, f), abs=1e-9)
    assert median(wide).tolist() == pytest.approx([float(reference.median(one)) for one in zip(*vectors, strict=True)])


@settings(max_examples=40)
@given(several(), st.randoms(use_true_random=False), st.sampled_from(RULES))
def test_a_rule_does_not_know_who_is_who(vectors: list[list[float]], random, rule: Rule) -> None:
    wide = torch.tensor(vectors, dtype=torch.float64)
    order = random.sample(range(len(vectors)), len(vectors))
    assert torch.equal(krum_scores(wide[order], 1), krum_scores(wide, 1)[order])
    if "krum" in rule and len(set(krum_scores(wide, 1).tolist())) < len(vectors):
        return  # which of equal ones is taken is a matter of their order
    assert torch.allclose(combined(wide[order], rule), combined(wide, rule), atol=1e-9)


@settings(max_examples=40)
@given(st.lists(NUMBERS, min_size=3, max_size=3), st.integers(5, 8), st.sampled_from(RULES))
def test_equal_vectors_give_themselves(vector: list[float], clients: int, rule: Rule) -> None:
    alike = torch.tensor([vector] * clients, dtype=torch.float64)
    assert torch.allclose(combined(alike, rule), alike[0], atol=1e-9)


@settings(max_examples=40)
@given(several(5, 6))
def test_without_liars_trimmed_mean_and_multi_krum_are_the_mean(vectors: list[list[float]]) -> None:
    wide = torch.tensor(vectors, dtype=torch.float64)
    for rule in ("trimmed_mean", "multi_krum"):
        assert torch.allclose(combined(wide, rule, f=0), wide.mean(0), atol=1e-9)


@settings(max_examples=40)
@given(several(4, 7), st.sampled_from([1e6, 1e20, 3e38]), st.integers(0, 7), st.sampled_from([-1.0, 1.0]))
def test_one_vector_however_large_changes_nothing_that_matters(
    vectors: list[list[float]], size: float, where: int, sign: float
) -> None:
    """Krum takes an honest one, whatever the liar's size; median and trimmed mean stay among the honest ones."""
    honest = torch.tensor(vectors, dtype=torch.float32)
    liar = torch.full((1, 3), sign * size)
    place = where % (len(honest) + 1)
    both = torch.cat([honest[:place], liar, honest[place:]])
    chosen = combined(both, "krum")
    assert any(torch.equal(chosen, one) for one in honest)
    assert float(chosen_by_krum(both, 1, len(both) - 1)[place]) == 0
    for rule in ("median", "trimmed_mean"):
        found = combined(both, rule)
        assert bool(((found >= honest.amin(0) - 1e-4) & (found <= honest.amax(0) + 1e-4)).all())
    largest = float(honest.norm(dim=1).max())
    if size <= 1e6:
        assert float(combined(both, "norm_clip").norm()) <= largest + 1e-3


def test_what_counts_for_nothing_may_be_infinite() -> None:
    vectors = torch.tensor([[0.0], [1.0], [2.0], [3.0], [torch.inf]])
    assert combined(vectors, "krum").isfinite().all()


@pytest.mark.parametrize(
    ("rule", "clients", "f", "least"),
    [("krum", 4, 1, 5), ("multi_krum", 6, 2, 7), ("trimmed_mean", 2, 1, 3), ("krum", 2, 0, 3)],
)
def test_too_few_clients(rule: Rule, clients: int, f: int, least: int) -> None:
    assert needed(rule, f) == least
    with pytest.raises(UserError, match=rf"{rule} with malicious={f} got {clients} uploads; valid: at least {least}"):
        combined(torch.zeros((clients, 2)), rule, f=f)


def test_more_cannot_be_kept_than_there_are() -> None:
    with pytest.raises(UserError, match=r"keep: got 6 of 5 uploads; valid: 1 to 5"):
        combined(LINE, "multi_krum", keep=6)


@pytest.mark.parametrize(("clients", "f", "count"), [(5, 1, 1), (8, 2, 6), (9, 3, 4)])
def test_who_is_chosen_and_what_is_trimmed_are_flowers(clients: int, f: int, count: int) -> None:
    rng = numpy_stream(0, "flower", clients)
    vectors = rng.standard_normal((clients, 6))
    vectors[:f] += 3
    replies = [RecordDict({"weights": ArrayRecord([one])}) for one in vectors]
    theirs = select_multikrum(replies, f, count)
    chosen = {place for place, one in enumerate(replies) if any(one is other for other in theirs)}
    ours = chosen_by_krum(torch.from_numpy(vectors), f, count)
    assert set(ours.nonzero().flatten().tolist()) == chosen
    assert ours.sum() == pytest.approx(1)
    trimmed = trim_mean(vectors, (f + 0.5) / clients)
    assert trimmed_mean(torch.from_numpy(vectors), f).tolist() == pytest.approx(trimmed.tolist())
