"""A release is computed in full precision, and its noise fits the grid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fedsim.config import validate
from fedsim.privacy.dp_sgd import DPSGD
from fedsim.privacy.features import Config
from fedsim.privacy.mechanism import MOST_SIGMA, Mechanism, release
from fedsim.privacy.noise import SystemNoise
from fedsim.types import UserError
from tests.privacy import test_dp_sgd as training
from tests.privacy.test_owner import CENTRE, owner
from tests.reference import dm as loops


def formats() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def allowed() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = formats()
    products.allow_tf32 = convolutions.allow_tf32 = True
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.usefixtures("allowed")
def test_class_sums_are_released_without_tensor_float_32(tmp_path):
    seen = []

    def embed(pixels: Tensor, labels: Tensor) -> Tensor:
        seen.append(formats())
        return pixels.flatten(1)

    owner(tmp_path).release("round 1", embed, CENTRE, loops.convnet())
    assert set(seen) == {(False, False)}
    assert formats() == (True, True)


@pytest.mark.usefixtures("allowed")
def test_private_training_is_without_tensor_float_32_even_where_it_fails(tmp_path, monkeypatch):
    seen = []

    def failing(*_: object) -> None:
        seen.append(formats())
        raise ValueError

    monkeypatch.setattr(DPSGD, "train", failing)
    with pytest.raises(ValueError, match=r"^$"):
        training.release(tmp_path)
    assert seen == [(False, False)]
    assert formats() == (True, True)


@pytest.mark.parametrize("sigma", [2.0**21, 1e30])
def test_noise_that_does_not_fit_the_grid_is_refused(sigma):
    with pytest.raises(UserError, match=r"^sigma: got .*; valid: at most 1048576"):
        Mechanism(1.0, 0.1, sigma)
    with pytest.raises(UserError, match="sigma: "):
        validate(Config, {"name": "features", "public_bound": 2000, "sigma": sigma})


def test_the_largest_noise_fits_it():
    """Of zero records: sums of normals, which an overflow would cut or turn."""
    found = release([], torch.zeros(4000), 2, Mechanism(1.0, 1e-9, MOST_SIGMA), SystemNoise()).values[:, :-1]
    assert float(found.std()) == pytest.approx(MOST_SIGMA, rel=0.1)
    assert float(found.abs().max()) < 8 * MOST_SIGMA


@pytest.mark.parametrize("clip", [1e300, 1e-300])
def test_a_clip_without_a_grid_is_refused(clip):
    with pytest.raises(UserError, match=r"^clip: got "):
        Mechanism(clip, 0.0, 1.0)
