"""Weights of images: their scale, what they do to a loss, how they travel through sets and unions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedsim.data.cutmix import Config as CutMixConfig
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.data.weights import mean_one, problem, weighted
from fedsim.models.functional import flatten, state
from fedsim.seeding import stream
from fedsim.training.train import TrainConfig, fit, seen
from fedsim.types import UserError
from tests.reference import dm as problems

WEIGHTS = torch.tensor([3.0, 1.0, 5.0])
SET = SyntheticSet(
    torch.arange(108, dtype=torch.uint8).view(3, 1, 6, 6), torch.tensor([0, 2, 2]), tuple("abcd"), (0.3,), (0.4,),
    weights=WEIGHTS,
)  # fmt: skip
TRAIN = TrainConfig(epochs=3, batch_size=4)


def test_their_mean_is_one_and_their_ratios_stay():
    assert mean_one(WEIGHTS).tolist() == pytest.approx([1.0, 1 / 3, 5 / 3])
    assert mean_one(torch.full((7,), 0.3)).tolist() == [1.0] * 7


@pytest.mark.parametrize("soft", [False, True])
def test_a_weighted_target_weighs_the_cross_entropy(soft):
    logits, labels = torch.randn(3, 4, generator=stream(0)), torch.tensor([0, 2, 2])
    targets = torch.softmax(torch.randn(3, 4, generator=stream(1)), 1) if soft else labels
    found = F.cross_entropy(logits, weighted(targets, WEIGHTS, 4), reduction="sum")
    each = [float(F.cross_entropy(logits[i : i + 1], targets[i : i + 1])) for i in range(3)]
    assert float(found) == pytest.approx(sum(w * loss for w, loss in zip(WEIGHTS.tolist(), each, strict=True)))


def test_mixed_images_mix_their_weights():
    batch = Images(SET.images, SET.labels, weights=mean_one(WEIGHTS))
    config = TrainConfig(cutmix=CutMixConfig(probability=1.0))
    _, targets = seen(problems.convnet(), batch, problems.NORMALISE, config, stream(3))
    _, plain = seen(problems.convnet(), replace(batch, weights=None), problems.NORMALISE, config, stream(3))
    assert targets.shape == plain.shape == (3, 4)
    assert float(targets.sum()) == pytest.approx(3.0)  # the mixing is a permutation, so the mean weight stays
    assert not torch.allclose(targets, plain)


def trained(weights: torch.Tensor | None, images: Images) -> torch.Tensor:
    network = problems.convnet(width=8)
    fit(network, replace(images, weights=weights), problems.NORMALISE, TRAIN, stream(1))
    return flatten(state(network))


def test_weights_of_one_are_no_weights():
    images = problems.images((5, 4, 3, 6))
    assert torch.equal(trained(torch.ones(18), images), trained(None, images))


def test_a_weight_is_that_many_copies():
    """One full batch: an image of weight 2 pulls like two of it."""
    images = problems.images((2, 1, 1, 0))
    doubled = images.take(torch.tensor([0, 0, 1, 2, 3]))
    config = TrainConfig(epochs=4, batch_size=8)
    ends = []
    for some in (replace(images, weights=mean_one(torch.tensor([2.0, 1, 1, 1]))), doubled):
        network = problems.convnet(width=8)
        fit(network, some, problems.NORMALISE, config, stream(1))
        ends.append(flatten(state(network)))
    assert torch.allclose(ends[0], ends[1], atol=1e-8)


def test_they_are_kept_in_a_set_and_its_file(tmp_path):
    SET.save(tmp_path / "set.safetensors")
    found = SyntheticSet.load(tmp_path / "set.safetensors")
    assert found.weights is not None
    assert torch.equal(found.weights, WEIGHTS)
    used = found.as_images()
    assert used.weights is not None
    assert used.weights.tolist() == pytest.approx([1.0, 1 / 3, 5 / 3])
    plain = replace(SET, weights=None)
    assert "weights" not in plain.tensors()
    assert plain.as_images().weights is None


def test_a_damaged_file_is_refused(tmp_path):
    object.__setattr__(broken := replace(SET), "weights", torch.tensor([1.0, -1.0, 2.0]))
    broken.save(tmp_path / "set.safetensors")
    with pytest.raises(UserError, match="is damaged: weights begin at -1, valid are more than 0"):
        SyntheticSet.load(tmp_path / "set.safetensors")


def test_a_union_puts_all_on_one_scale():
    found = union([SET, replace(SET, weights=torch.tensor([10.0, 20.0, 21.0]))]).weights
    assert found is not None
    assert found.tolist() == pytest.approx([value / 10 for value in (3, 1, 5, 10, 20, 21)])
    with pytest.raises(UserError, match="1 of 2 sets have weights; valid: all or none"):
        union([SET, replace(SET, weights=None)])


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        (WEIGHTS, None),
        (None, None),
        (WEIGHTS[:2], r"weights are torch.float32(2,), not float32(3,)"),
        (WEIGHTS.double(), "weights are torch.float64(3,), not float32(3,)"),
        (torch.tensor([1.0, math.nan, math.inf]), "2 weights are not finite"),
        (torch.tensor([1.0, 0.0, 1.0]), "weights begin at 0, valid are more than 0"),
        (torch.tensor([1.0, 9.5, 1.0]), "weights reach 9.5, the agreed bound is 9"),
    ],
)
def test_what_is_wrong_with_received_weights_is_said(weights, line):
    assert problem(weights, 3, 9.0) == line
