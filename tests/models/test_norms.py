from __future__ import annotations

import pytest
import torch

from fedsim.models.norms import norm_layer
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference.architectures import instance


@pytest.fixture
def maps():
    return torch.randn(5, 8, 3, 4, generator=stream(0, "maps"), dtype=torch.float64)


def test_none_is_the_identity(maps):
    assert norm_layer("none", 8, (3, 4))(maps) is maps


def test_instance_norm_equals_its_equation_per_image_and_channel(maps):
    layer = norm_layer("instance", 8, (3, 4)).double()
    torch.testing.assert_close(layer(maps), instance(maps, *layer.parameters()))


@pytest.mark.parametrize(
    ("norm", "split", "spans"),
    [
        ("group", (5, 4, 2, 3, 4), (2, 3, 4)),
        ("batch", (5, 8, 1, 3, 4), (0, 3, 4)),
        ("layer", (5, 1, 8, 3, 4), (2, 3, 4)),
    ],
)
def test_each_norm_centres_and_scales_what_it_spans(maps, norm, split, spans):
    normed = norm_layer(norm, 8, (3, 4)).double()(maps).reshape(split)
    torch.testing.assert_close(normed.mean(spans), torch.zeros_like(normed.mean(spans)), atol=1e-7, rtol=0)
    torch.testing.assert_close(
        normed.var(spans, unbiased=False), torch.ones_like(normed.mean(spans)), atol=1e-3, rtol=0
    )


def test_group_norm_of_odd_width_is_a_user_error():
    with pytest.raises(UserError, match="6 channels into 4 groups"):
        norm_layer("group", 6, (3, 4))
