"""The crafted upload: as many images as an honest one may have, those of the target stamped."""

from __future__ import annotations

import pytest
import torch

from attacks.direct import crafted
from fedsim import api
from fedsim.data.trigger import white
from fedsim.seeding import Streams


@pytest.mark.parametrize("stamped", [0, 2, 5])
def test_the_counts_are_an_honest_clients_and_the_target_carries_the_trigger(stamped: int) -> None:
    images = api.load("digits").train.take(torch.arange(200))
    trigger = white((1, 8, 8), 2, 3)
    found = crafted(images, trigger, 5, stamped, 10, Streams(0))
    assert torch.equal(found.counts(10), images.counts(10).clamp(max=5))
    assert torch.equal(found.labels, found.labels.sort().values)
    square = found.pixels[:, 0][:, trigger.mask]
    white_ones = (square == 255).all(1)
    assert int(white_ones.sum()) == stamped
    assert bool((found.labels[white_ones] == 3).all())
    known = {one.numpy().tobytes() for one in images.pixels}
    plain = [one.numpy().tobytes() in known for one in found.pixels]
    assert sum(plain) == len(found) - stamped
