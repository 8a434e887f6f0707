"""NaiveAttack and DOORPING by whoever condenses: `python benchmarks/central_backdoors.py --data cifar10 --parts dm`.

One party holds all images and condenses them; it stamps 1 % of them with a 4×4 square and calls them class 0 (of the
other classes; the square is white, or DOORPING's). The victim trains networks of its own on the set. For every seed:

    accuracy, success    of networks trained on the poisoned set; success is over test images not of class 0
    free success         of networks trained on the set of the same seed without an attack, under the same trigger
    lift                 the difference; mean over networks, interval by t over seeds

`box`: trigger and set stay in the box of pixels, as bytes. `open`: both may leave it, as in the released code: the images
that carry such a trigger, and such a set, are float32 numbers that no image file holds. A part is a method, a form and an
attack; its seeds are kept one by one under benchmarks/results/central_backdoors/. FEDSIM_DATA holds mnist.npz, cifar10.npz.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from kept_parts import ROOT, chosen, chosen_device, keep, provenance, told
from torch import Tensor

from attacks.doorping import Config as DoorpingConfig
from attacks.doorping import Doorping
from attacks.poisoning import poisoned_rows
from attacks.restamping import Restamping
from fedsim import api
from fedsim.catalog import resolve
from fedsim.compute import Compute, settle
from fedsim.config import validate
from fedsim.data.images import Dataset, Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, noisy, white
from fedsim.distill.base import Distiller, Task
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.tasks import Fresh, central_task, network_factory
from fedsim.training.train import TrainConfig, accuracy, fit, predictions

FOLDER, TARGET = ROOT / "central_backdoors", 0
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "ipc": 10, "iterations": 300, "optimiser": "adam", "lr": 0.1, "batch_real": 64,
           "networks": {"name": "pool", "size": 10}},
    "dm_ipc1": {"name": "dm", "ipc": 1, "iterations": 300, "optimiser": "adam", "lr": 0.1, "batch_real": 64,
                "networks": {"name": "pool", "size": 10}},
    "dc": {"name": "dc", "ipc": 10, "iterations": 20, "outer": 5, "inner": 5, "optimiser": "adam", "lr": 0.1,
           "batch_real": 32},
}  # fmt: skip
PARTS = tuple(f"{method}_{form}_{attack}" for method in METHODS for form in ("box", "open") for attack in
              ("naive", "doorping"))  # fmt: skip


class Unbounded(Normalise):
    """A box without walls: condensation steps are not projected."""

    def project(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    data: Dataset
    normalise: Normalise
    fresh: Fresh
    options: argparse.Namespace


def attacked(bench: Bench, part: str, seed: int) -> dict[str, Any]:
    """One seed: the poisoned set, the clean one, networks on both."""
    options, (rest, _, attack) = bench.options, part.rpartition("_")
    method, _, form = rest.rpartition("_")
    streams, box = Streams(seed, ("central", method, form)), form == "box"
    normalise = bench.normalise if box else Unbounded(bench.normalise.mean, bench.normalise.std)
    distiller: Any = resolve("method", METHODS[method]["name"])
    made: Distiller = distiller(validate(distiller.Config, METHODS[method] | given(options)))
    rows = poisoned_rows(bench.data.train, TARGET, options.portion, streams.generator("poisoned"))
    trigger, wrapped = start(bench, attack, box, rows, made, streams)
    networks = {}
    for name, condenser, images in (
        ("clean", made, bench.data.train), ("poisoned", wrapped or made, trigger.poison(bench.data.train, rows)),
    ):  # fmt: skip
        synthetic = condensed(bench, condenser, images, normalise, METHODS[method]["ipc"], streams)
        networks[name] = [trained(bench, synthetic, normalise, streams, number) for number in range(options.networks)]
    final = wrapped.trigger if wrapped is not None else trigger
    return numbers(bench, networks, final, normalise, streams) | {"poisoned_records": len(rows)}


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the command line."""
    return {"iterations": options.iterations} if options.iterations else {}


def start(
    bench: Bench, attack: str, box: bool, rows: Tensor, made: Distiller, streams: Streams
) -> tuple[Trigger, Restamping | None]:
    """The first trigger, and the condensation around it where it moves."""
    shape, size = bench.data.image_shape, bench.options.size
    if attack == "naive":
        return white(shape, size, TARGET), None
    config = DoorpingConfig(clients=(0,), iterations=bench.options.trigger_steps)
    doorping, first = Doorping(config), noisy(shape, size, TARGET, streams.generator("trigger"))

    def update(now: Trigger, task: Task, turn: int) -> Trigger:
        network = bench.fresh(streams.generator("network", turn)).eval().requires_grad_(False)
        return doorping.improved(now, network, task.normalise, bench.data.train, box=box)

    network = bench.fresh(streams.generator("network", 0)).eval().requires_grad_(False)
    trigger = doorping.improved(first, network, bench.normalise, bench.data.train, box=box)
    every = max(1, int(getattr(made, "config").iterations) // 6)  # noqa: B009 - a Distiller's own settings
    return trigger, Restamping(made, bench.data.train, rows, trigger, every, update)


def condensed(
    bench: Bench, made: Distiller, images: Images, normalise: Normalise, ipc: int, streams: Streams
) -> Images:
    """The set, as the network input's grey levels: float32, in the box or not."""
    compute = settle(Compute(device=bench.options.device, chunk=0, compile=False, channels_last=False, ensemble="loop"))
    task = central_task(images, bench.data, normalise, bench.fresh, ipc, compute, streams)
    artifacts = made.prepare(task, streams.generator("prepare"))
    state: Any = made.init(task, artifacts, streams.generator("init"))
    for step in range(int(getattr(getattr(made, "_method", made), "config").iterations)):  # noqa: B009
        made.step(task, artifacts, state, streams.generator("step", step))
    made.result(task, state)  # the trigger as it is at the end
    if not isinstance(normalise, Unbounded):
        return Images(normalise.quantise(state.pixels.detach()), task.labels())
    return Images(normalise.pixels(state.pixels.detach()) * 255, task.labels())


def trained(bench: Bench, synthetic: Images, normalise: Normalise, streams: Streams, number: int) -> Network:
    """A victim's network."""
    own = streams.at("victim", number)
    network = bench.fresh(own.generator("init"))
    config = TrainConfig(epochs=bench.options.epochs, lr=0.01, batch_size=64)
    fit(network, synthetic, normalise, config, own.generator("train"))
    return network


def numbers(
    bench: Bench, networks: dict[str, list[Network]], trigger: Trigger, normalise: Normalise, streams: Streams
) -> dict[str, Any]:
    """Means over networks."""
    test = bench.data.test.take(torch.arange(min(len(bench.data.test), bench.options.test)))
    others = test.take(torch.nonzero(test.labels != TARGET).flatten())
    low, high = float(trigger.values.min()), float(trigger.values.max())
    patch = replace(trigger, values=torch.randint(0, 256, trigger.values.shape,
                                                  generator=streams.generator("patch")).to(torch.uint8))  # fmt: skip

    def success(network: Network, one: Trigger) -> float:
        stamped = Images(one.stamp(others.pixels), others.labels)
        return float((predictions(network, stamped, normalise) == TARGET).float().mean())

    def over(name: str, measure: Any) -> float:
        return sum(map(measure, networks[name])) / len(networks[name])

    found = {
        "accuracy": over("poisoned", lambda net: accuracy(net, test, normalise)),
        "accuracy_clean": over("clean", lambda net: accuracy(net, test, normalise)),
        "success": over("poisoned", lambda net: success(net, trigger)),
        "free_success": over("clean", lambda net: success(net, trigger)),
        "random_patch": over("poisoned", lambda net: success(net, patch)),
    }
    return found | {"lift": found["success"] - found["free_success"], "images": len(others), "levels": [low, high]}


def main() -> None:
    """The chosen parts, seed by seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist", "cifar10"), default="cifar10")
    parser.add_argument("--parts", nargs="+", default=None, help=f"beginnings of {', '.join(PARTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--records", type=int, default=10000, help="training images, the first of a shuffle")
    parser.add_argument("--test", type=int, default=2000, help="test images, the first")
    parser.add_argument("--size", type=int, default=4, help="pixels a side of the trigger")
    parser.add_argument("--portion", type=float, default=0.01, help="share of the records that are poisoned")
    parser.add_argument("--trigger-steps", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=0, help="of the condensation; 0: as METHODS says")
    parser.add_argument("--networks", type=int, default=3, help="victims of each set")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = chosen_device(options.device)
    options.device = str(device)
    file = Path(os.environ.get("FEDSIM_DATA", "")) / f"{options.data}.npz"
    whole = api.load("npz", path=str(file)) if file.is_file() else api.load(options.data)
    order = torch.randperm(len(whole.train), generator=Streams(0, ("central", "records")).generator())
    data = replace(whole, train=whole.train.take(order[: options.records]))
    model = ConvNetConfig(depth=2 if options.data == "digits" else 3, width=options.width)
    bench = Bench(data, Normalise(data.mean, data.std), network_factory(model, data, device), options)
    asked = {key: value for key, value in vars(options).items() if key not in {"data", "parts", "seeds", "device"}}
    source = provenance(device)
    for part in chosen(PARTS, options.parts):
        for seed in range(options.seeds):
            found = keep(FOLDER / f"{options.data}_{part}_s{seed}.json", source, asked,
                         lambda part=part, seed=seed: attacked(bench, part, seed))  # fmt: skip
            print(part, seed, {key: found[key] for key in ("accuracy", "accuracy_clean", "success", "free_success",
                                                           "lift", "levels")}, flush=True)  # fmt: skip


if __name__ == "__main__":
    told(main)
