"""Reconstructions that know the records identify them; those that know nothing do so as often as the draws do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attacks.exchange import exchanged, p_value
from fedsim.audit.image_distances import match
from fedsim.seeding import numpy_stream, stream

SHAPE = (1, 4, 4)


def drawn(seed: int, records: int = 6, others: int = 9) -> tuple[Tensor, Tensor]:
    """Records and others of the same distribution."""
    images = torch.rand(records, others + 1, *SHAPE, generator=stream(seed))
    return images[:, 0], images[:, 1:]


def test_records_in_another_order_are_all_identified_and_named():
    true, others = drawn(1)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    seen = exchanged(true[order] + 0.01, true, others, 50, numpy_stream(0, "draws"))
    assert seen.identified.all()
    assert order[torch.from_numpy(seen.place)].tolist() == list(range(6))
    assert torch.equal(torch.argsort(match(true[order], true)), torch.from_numpy(seen.place))
    np.testing.assert_allclose(seen.errors, 16 * 0.01**2, rtol=0.3)  # those at the edge of the box are clamped
    assert p_value(6, seen.null) == (1 + (seen.null >= 6).sum()) / 51 < 0.1


def test_each_draw_is_the_count_of_a_literal_exchange():
    true, others = drawn(2)
    found = torch.rand(6, *SHAPE, generator=stream(9))
    seen = exchanged(found, true, others, 1, numpy_stream(0, "draws"))
    count = 0
    stand_in = torch.stack([others[record, seen.last[record]] for record in range(6)])
    given = torch.argsort(match(found, stand_in))
    assert given.tolist() == seen.last_place.tolist()
    for record in range(6):
        image = found[given[record]]
        rest = [others[record, index] for index in range(9) if index != seen.last[record]]
        own = float((image - stand_in[record]).square().sum())
        count += all(own < float((image - other).square().sum()) for other in rest)
    assert seen.null.tolist() == [count]


def test_p_is_valid_where_the_reconstructions_know_nothing():
    found = torch.rand(6, *SHAPE, generator=stream(4))
    tests = [exchanged(found, *drawn(100 + seed), 19, numpy_stream(seed, "draws")) for seed in range(100)]
    p = np.array([p_value(int(one.identified.sum()), one.null) for one in tests])
    assert (p <= 0.05).mean() < 0.14  # 100 trials: 5 % and four deviations
    chance = np.mean([one.identified.mean() for one in tests])
    assert chance > 0.15  # matching helps: 1 in 10 is not what knowing nothing gives


def test_what_is_not_finite_is_grey():
    true, others = drawn(3)
    found = torch.full_like(true, float("nan"))
    grey = exchanged(torch.full_like(true, 0.5), true, others, 5, numpy_stream(0, "draws"))
    seen = exchanged(found, true, others, 5, numpy_stream(0, "draws"))
    assert seen.identified.tolist() == grey.identified.tolist()
    np.testing.assert_array_equal(seen.errors, grey.errors)
