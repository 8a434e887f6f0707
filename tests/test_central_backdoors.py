"""What the benchmark of central backdoors says of a set and of a trigger."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import central_backdoors
import central_measures
import central_settings
from kept_parts import there

from fedsim import api
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import noisy, scrambled, white
from fedsim.models.hidden_convnet import Config
from fedsim.seeding import Streams
from fedsim.tasks import network_factory
from fedsim.training.train import predictions
from fedsim.types import UserError


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
        assert found["counts"][name] == [round(sum(shares) * len(others)), 2 * len(others)]
    right = [int((predictions(net, digits.test, bench.normalise) == digits.test.labels).sum()) for net in networks]
    assert found["counts"]["accuracy"] == [sum(right), 2 * len(digits.test)]
    assert found["control"] == "noise"


def test_what_left_the_box_is_compared_with_its_own_values_elsewhere() -> None:
    square = noisy((2, 8, 8), 3, 0, torch.Generator().manual_seed(0))
    far = replace(square, values=1000 * square.values.float() - 8000)
    found = central_measures.control(far, torch.Generator().manual_seed(1))
    before, after = (one.values[:, far.mask].flatten() for one in (far, found))
    assert torch.equal(before.sort().values, after.sort().values)
    assert not torch.equal(before, after)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.values[:, ~far.mask], far.values[:, ~far.mask])
    inside = central_measures.control(square, torch.Generator().manual_seed(1))
    assert inside.values.dtype == torch.uint8
    assert torch.equal(inside.values, scrambled(square, torch.Generator().manual_seed(1)).values)


def test_only_the_open_form_lets_a_set_leave_the_box() -> None:
    box = Normalise((0.5,), (0.5,))
    far = torch.full((1, 1, 2, 2), 3.0)
    assert box.project(far).max() == pytest.approx(1.0)
    assert torch.equal(central_backdoors.Unbounded(box.mean, box.std).project(far), far)


def test_parts_of_another_kind_are_kept_apart() -> None:
    def name(*given: str) -> str:
        return central_settings.file_name(central_backdoors.arguments(list(given)), "dm_box", 1)

    assert name() == "cifar10_dm_box_s1.json"
    assert name("--victim", "lenet", "alexnet") == "cifar10_dm_box_convnet_hidden_to_lenet_alexnet_s1.json"
    assert name("--iterations", "7", "--data", "mnist") == "mnist_dm_box_7_steps_s1.json"


def options_of(asked: dict[str, Any]) -> argparse.Namespace:
    """The command line that a kept part was made with."""
    options = central_backdoors.arguments([])
    for name in vars(options).keys() & asked.keys():
        setattr(options, name, asked[name])
    return options


def test_kept_parts_are_found_under_their_settings_and_a_stale_one_is_found_out(monkeypatch: Any) -> None:
    paths = sorted(central_settings.FOLDER.glob("*.json"))
    assert len(paths) >= 7
    for path in paths:
        asked = json.loads(path.read_text())["asked"]
        options, seed = options_of(asked), int(path.stem.rpartition("_s")[2])
        assert central_settings.file_name(options, asked["part"], seed) == path.name
        assert there(path, central_settings.asked(options, asked["part"]))
    path = central_settings.FOLDER / "cifar10_dm_open_s0.json"
    options = options_of(json.loads(path.read_text())["asked"])
    monkeypatch.setitem(central_settings.METHODS["dm"], "lr", 0.3)
    with pytest.raises(UserError, match=r"kept under other settings \(method\)"):
        there(path, central_settings.asked(options, "dm_open"))
    monkeypatch.undo()
    monkeypatch.setitem(central_settings.EVERY, "dm", 20)
    with pytest.raises(UserError, match=r"kept under other settings \(every\)"):
        there(path, central_settings.asked(options, "dm_open"))


QUICK = ["--data", "digits", "--width", "3", "--seen", "20", "--seen-epochs", "1", "--epochs", "1", "--networks", "1",
         "--first-steps", "3", "--trigger-steps", "3", "--tolerance", "0", "--portion", "0.1",
         "--device", "cpu"]  # fmt: skip


def small_bench(*more: str) -> central_measures.Bench:
    options = central_backdoors.arguments([*QUICK, *more])
    digits = api.load("digits")
    data = replace(digits, train=digits.train.take(torch.arange(200)), test=digits.test.take(torch.arange(30)))

    def fresh(name: str) -> Any:
        return network_factory(central_settings.architecture(options, name), data, torch.device("cpu"))

    victims = {name: fresh(name) for name in options.victim}
    return central_measures.Bench(data, Normalise(data.mean, data.std), fresh(options.model), victims, options)


PARTS = ["dm_box", "dm_clean", "dm_invisible", "dm_open", "dc_open", "dm_ipc1_box", "dd_box"]


@pytest.mark.parametrize("part", PARTS)
def test_every_form_keeps_its_promise_and_the_trigger_moves_at_one_image_too(part: str, monkeypatch: Any) -> None:
    method, _, form = part.rpartition("_")
    monkeypatch.setitem(central_settings.METHODS[method], "iterations", 3)
    monkeypatch.setitem(central_settings.METHODS["dd"], "epochs", 1)
    monkeypatch.setitem(central_backdoors.EVERY, method, 1)
    bench = small_bench("--bound", "9")
    found = central_backdoors.attacked(bench, part, 0)
    assert not found["naive"]["moved"]
    assert found["doorping"]["moved"]
    low, high = found["doorping"]["levels"]
    least, most = {"invisible": (-9, 9)}.get(form, (0, 255))
    assert (least <= low and high <= most) is (form != "open")
    for attack in ("naive", "doorping"):
        few, many = found[attack]["set_levels"]
        assert (few >= 0 and many <= 255) is (form != "open")
        assert len(found[attack]["carried"]) == {"invisible": 0}.get(form, 1 if method == "dm_ipc1" else 10)
        assert found[attack]["victims"]["convnet_hidden"]["images"] == 27
        shuffled = (attack, form) == ("doorping", "open")
        assert found[attack]["victims"]["convnet_hidden"]["control"] == ("shuffled" if shuffled else "noise")


def test_a_bound_beyond_bytes_is_refused_before_any_work() -> None:
    with pytest.raises(UserError, match="--bound: got 300; valid: 0 to 255 grey levels"):
        central_settings.bench_of(
            central_backdoors.arguments(["--data", "digits", "--bound", "300"]), torch.device("cpu")
        )
