"""What the benchmark of central backdoors says of a set and of a trigger."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import central_backdoors
import central_measures

from fedsim import api
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import noisy, white
from fedsim.models.hidden_convnet import Config
from fedsim.seeding import Streams
from fedsim.tasks import network_factory
from fedsim.training.train import predictions


def test_a_stamped_image_carries_the_whole_trigger_and_a_mean_image_nothing() -> None:
    trigger = white((1, 8, 8), 3, 0)
    pixels = torch.full((4, 1, 8, 8), 55, dtype=torch.uint8)
    pixels[0] = trigger.stamp(pixels)[0]
    pixels[2] = torch.where(trigger.mask, 155, pixels[2])  # half of the way from 55 to 255
    synthetic = Images(pixels, torch.tensor([0, 0, 0, 1]))
    assert central_measures.carried(synthetic, trigger) == [1.0, 0.0, 0.5]
    assert central_measures.levels(pixels) == [55.0, 255.0]


def test_what_a_trigger_does_without_poisoning_is_no_lift() -> None:
    """The same networks as poisoned and as clean ones: whatever the trigger does, the lift is nothing."""
    digits = api.load("digits")
    data = replace(digits, test=digits.test.take(torch.arange(100)))
    fresh = network_factory(Config(depth=2, width=4, hidden=8), data, torch.device("cpu"))
    options = central_backdoors.arguments(["--size", "3"])
    bench = central_measures.Bench(data, Normalise(data.mean, data.std), fresh, {}, options)
    streams = Streams(0)
    networks = [fresh(streams.generator("network", number)) for number in range(3)]
    trigger = noisy(data.image_shape, 3, 0, streams.generator("trigger"))
    found = central_measures.numbers(bench, networks, networks, trigger, bench.normalise, streams)
    assert found["lift"] == 0
    assert found["success"] == found["free_success"]
    assert found["images"] == int((data.test.labels != 0).sum())


def test_numbers_are_those_of_stamping_by_hand() -> None:
    """As the kept parts were made, the random patch included."""
    digits = api.load("digits")
    fresh = network_factory(Config(depth=2, width=4, hidden=8), digits, torch.device("cpu"))
    options = central_backdoors.arguments([])
    bench = central_measures.Bench(digits, Normalise(digits.mean, digits.std), fresh, {}, options)
    streams, trigger = Streams(0), white(digits.image_shape, 4, 0)
    networks = [fresh(streams.generator("network", number)) for number in range(2)]
    found = central_measures.numbers(bench, networks, networks, trigger, bench.normalise, streams)
    others = digits.test.take(torch.nonzero(digits.test.labels != 0).flatten())
    for name, one in {"success": trigger, "random_patch": noisy((1, 8, 8), 4, 0, streams.generator("patch"))}.items():
        stamped = Images(torch.where(one.mask, one.values, others.pixels), others.labels)
        shares = [float((predictions(net, stamped, bench.normalise) == 0).float().mean()) for net in networks]
        assert found[name] == sum(shares) / 2


def test_only_the_open_form_lets_a_set_leave_the_box() -> None:
    box = Normalise((0.5,), (0.5,))
    far = torch.full((1, 1, 2, 2), 3.0)
    assert box.project(far).max() == pytest.approx(1.0)
    assert torch.equal(central_backdoors.Unbounded(box.mean, box.std).project(far), far)


def test_victims_of_another_kind_are_kept_apart() -> None:
    assert central_backdoors.between(central_backdoors.arguments([])) == ""
    options = central_backdoors.arguments(["--victim", "lenet", "alexnet"])
    assert central_backdoors.between(options) == "_convnet_hidden_to_lenet_alexnet"
