"""STRIP: the literal entropy, the trigger found under overlays, the false positives of its threshold."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from defenses.strip import Config, draw, entropies, entropy
from fedsim import api
from fedsim.audit.statistics.auc import auc
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.seeding import stream
from fedsim.training.calibration import threshold
from fedsim.types import UserError
from tests.defenses.planted import digits, network, normalise, others, triggered
from tests.reference import backdoor_defenses as literal

PLAIN = Normalise((0.0,), (1.0,))
BLENDED, ADDED = Config(), Config(image=1.0, overlay=1.0)


def real() -> Images:
    return digits().train.take(torch.arange(200))


@cache
def suspicion(seed: int, poisoned: bool, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """−H of clean and of triggered images."""
    parts = (others(160), triggered(others(160, 160)))
    found = [entropies(network(seed, poisoned), one, real(), normalise(), config, stream(seed)) for one in parts]
    return -found[0].numpy(), -found[1].numpy()


@pytest.mark.parametrize("config", [Config(overlays=7), Config(overlays=5, image=1.0, overlay=0.6)])
def test_it_is_the_literal_entropy(config):
    images, overlays = others(4), real().take(torch.arange(9))
    found = entropies(network(0, True), images, overlays, PLAIN, config, stream(3))
    drawn = draw(4, 9, config, stream(3))
    for place in range(4):
        laid = [overlays.pixels[int(row[place])] / 255 for row in drawn]
        expected = literal.strip(network(0, True), images.pixels[place] / 255, laid, config.image, config.overlay)
        assert float(found[place]) == pytest.approx(expected, abs=1e-5)


def test_entropy_is_in_bits():
    assert entropy(torch.zeros(1, 8)).tolist() == pytest.approx([3.0])
    assert entropy(torch.tensor([[1000.0, 0.0, -1000.0]])).tolist() == [0.0]
    third = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)]])
    assert entropy(third).tolist() == pytest.approx([1.5])


@pytest.mark.parametrize(("config", "least"), [(BLENDED, 0.8), (ADDED, 0.97)])
def test_triggered_images_keep_their_class_under_overlays(config, least):
    for seed in range(2):
        clean, bad = suspicion(seed, True, config)
        assert auc(bad, clean) > least
        without = suspicion(seed, False, config)  # the same patch on a network that was never poisoned
        assert auc(bad, clean) > auc(without[1], without[0]) + 0.15


def test_the_threshold_keeps_the_false_positives_and_finds_the_trigger():
    for seed in range(2):
        clean, bad = suspicion(seed, True, ADDED)
        limit = threshold(clean[:80], 0.05)
        assert float(np.mean(clean[80:] > limit)) <= 0.15  # 80 others, of 5 % beside the luck of both halves
        assert float(np.mean(bad > limit)) > 0.9


def test_synthetic_overlays_serve_too():
    """A server has no records: overlays are class means here, the simplest synthetic set."""
    made = api.distill(digits(), "class_means", model={"name": "mlp"}).as_images()
    parts = (others(100), triggered(others(100, 160)))
    clean, bad = (
        -entropies(network(0, True), one, made, normalise(), ADDED, stream(0)).numpy() for one in parts
    )  # fmt: skip
    assert auc(bad, clean) > 0.95


def test_overlays_are_drawn_for_every_image_apart():
    rows = draw(50, 200, Config(overlays=64), stream(0))
    assert rows.shape == (64, 50)
    assert int(rows.min()) >= 0
    assert int(rows.max()) < 200
    assert not torch.equal(rows[:, 0], rows[:, 1])


def test_bad_input_is_told():
    nothing = real().take(torch.arange(0))
    for images, overlays in ((nothing, real()), (others(3), nothing)):
        with pytest.raises(UserError, match="at least one of each"):
            entropies(network(0, False), images, overlays, normalise(), Config(), stream(0))
    for wrong in ({"overlays": 0}, {"image": 0.0}, {"overlay": 1.5}):
        with pytest.raises(ValidationError):
            Config(**wrong)
