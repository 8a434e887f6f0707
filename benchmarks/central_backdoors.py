"""NaiveAttack and DOORPING by whoever condenses: `python benchmarks/central_backdoors.py --data cifar10 --parts dc_open`.

One party holds all images and condenses them; it stamps 1 % of them with a 4×4 square and calls them class 0 (those of
the other classes; the square is white, or DOORPING's). The victim trains networks of its own on the set. For every seed:

    accuracy, success    of networks trained on the poisoned set; success is over test images not of class 0
    accuracy_clean       of networks trained on the set of the same seed without an attack
    free_success         of those networks under the same trigger: what the trigger does without any poisoning
    lift                 success − free_success; mean over networks, interval by t over seeds

`box`: trigger and set stay in the box of pixels, as bytes. `open`: both may leave it, as in the released code: images
that carry such a trigger, and such a set, are float32 numbers that no image file holds. A part is a method and a form; its
seeds are kept one by one under benchmarks/results/central_backdoors/. FEDSIM_DATA holds mnist.npz, cifar10.npz. Settings
are chosen with `--split val`, 1,000 training images that nothing is condensed from; what it prints is not kept.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from typing import Any

import packed_images
import torch
from central_measures import TARGET, Bench, carried, levels, numbers, trained
from kept_parts import ROOT, chosen, chosen_device, keep, provenance, told
from torch import Tensor

from attacks.doorping import Config as DoorpingConfig
from attacks.doorping import Doorping
from attacks.poisoning import poisoned_rows
from attacks.restamping import Restamping
from fedsim.catalog import resolve
from fedsim.compute import Compute, settle
from fedsim.config import validate
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, noisy, white
from fedsim.distill.base import Distiller, Task
from fedsim.distill.pixels import start as first_images
from fedsim.distill.real import RealImages
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.tasks import Fresh, central_task, network_factory
from fedsim.training.train import TrainConfig, fit

FOLDER, HELD = ROOT / "central_backdoors", 1000
METHODS: dict[str, dict[str, Any]] = {
    "dc": {"name": "dc", "ipc": 10, "iterations": 20, "outer": 10, "inner": 5, "batch_train": 10, "batch_real": 32,
           "optimiser": "adam", "lr": 0.1, "lr_net": 0.01, "init": "real"},
    "dm": {"name": "dm", "ipc": 10, "iterations": 120, "optimiser": "adam", "lr": 0.25, "batch_real": 32, "init": "real"},
    "dm_ipc1": {"name": "dm", "ipc": 1, "iterations": 120, "optimiser": "adam", "lr": 0.25, "batch_real": 32,
                "init": "real"},
}  # fmt: skip
EVERY = {"dc": 1, "dm": 40}
"""Steps of the condensation between two optimisations of the trigger: `dc` after every outer step, as released."""
ATTACKS = ("naive", "doorping")
PARTS = tuple(f"{method}_{form}" for method in METHODS for form in ("box", "open"))


class Unbounded(Normalise):
    """A box without walls: condensation steps are not projected."""

    def project(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images


def attacked(bench: Bench, part: str, seed: int) -> dict[str, Any]:
    """One seed: the clean set, a poisoned one for each attack, networks on all."""
    options, (method, _, form) = bench.options, part.rpartition("_")
    streams, box = Streams(seed, ("central", method)), form == "box"  # box and open are paired
    normalise = bench.normalise if box else Unbounded(bench.normalise.mean, bench.normalise.std)
    settings = METHODS[method] | ({"iterations": options.iterations} if options.iterations else {})
    distiller: Any = resolve("method", settings["name"])

    def made() -> Distiller:
        return distiller(validate(distiller.Config, settings))

    rows = poisoned_rows(bench.data.train, TARGET, options.portion, streams.generator("poisoned"))
    clean = condensed(bench, made(), bench.data.train, normalise, settings, streams)
    without = {name: trained(bench, name, clean, normalise, streams) for name in bench.victims}
    found: dict[str, Any] = {"poisoned_records": len(rows)}
    for attack in options.attacks:
        trigger, wrapped = start(bench, attack, box, rows, made(), streams)
        images = trigger.poison(bench.data.train, rows)
        synthetic = condensed(bench, wrapped or made(), images, normalise, settings, streams)
        final = wrapped.trigger if wrapped is not None else trigger
        victims = {name: numbers(bench, without[name], trained(bench, name, synthetic, normalise, streams), final,
                                 normalise, streams) for name in bench.victims}  # fmt: skip
        found[attack] = {"levels": levels(final.values[:, final.mask]), "set_levels": levels(synthetic.pixels),
                         "carried": carried(synthetic, final), "victims": victims}  # fmt: skip
    return found


def start(
    bench: Bench, attack: str, box: bool, rows: Tensor, made: Distiller, streams: Streams
) -> tuple[Trigger, Restamping | None]:
    """The first trigger, and the condensation around it where it moves."""
    shape, options = bench.data.image_shape, bench.options
    if attack == "naive":
        return white(shape, options.size, TARGET), None
    outer = getattr(made, "outer", None)

    def better(now: Trigger, network: Network, steps: int) -> Trigger:
        config = DoorpingConfig(clients=(0,), iterations=steps, tolerance=options.tolerance)
        return Doorping(config).improved(now, network, bench.normalise, bench.data.train, box=box)

    def update(now: Trigger, task: Task, turn: int) -> Trigger:
        if outer is None:
            return better(now, known(bench, streams.at("seen", turn)), options.trigger_steps)
        if turn % outer == 0:  # as released: not after the last outer step of a network
            return now
        return better(now, copy.deepcopy(task.network).eval().requires_grad_(False), options.trigger_steps)

    first = noisy(shape, options.size, TARGET, streams.generator("trigger"))
    first = better(first, known(bench, streams.at("seen", 0)), options.first_steps)
    return first, Restamping(made, bench.data.train, rows, first, EVERY["dm" if outer is None else "dc"], update)


def known(bench: Bench, streams: Streams) -> Network:
    """A network of the attacker's, trained on a few clean records. In a newly initialised one units hardly move: the goal
    α a₀ is within the tolerance of the start, and nothing happens."""
    network, labels = bench.fresh(streams.generator("init")), bench.data.train.labels
    order = torch.randperm(len(labels), generator=streams.generator("records"))
    config = TrainConfig(epochs=bench.options.seen_epochs, lr=0.01, batch_size=20)
    fit(
        network, bench.data.train.take(order[: bench.options.seen]), bench.normalise, config, streams.generator("train")
    )
    return network.eval().requires_grad_(False)


def condensed(
    bench: Bench, made: Distiller, images: Images, normalise: Normalise, settings: dict[str, Any], streams: Streams
) -> Images:
    """The set, as the network input's grey levels: float32, in the box or not. All start from the same clean records."""
    compute = settle(Compute(device=bench.options.device, chunk=0, compile=False, channels_last=False, ensemble="loop"))
    task = central_task(images, bench.data, normalise, bench.fresh, settings["ipc"], compute, streams)
    artifacts = made.prepare(task, streams.generator("prepare"))
    state: Any = made.init(task, artifacts, streams.generator("init"))
    unstamped = replace(task, real=RealImages(bench.data.train, task.num_classes, normalise, task.device))
    state.pixels.copy_(first_images(unstamped, settings["init"], streams.generator("first")))
    for step in range(settings["iterations"]):
        made.step(task, artifacts, state, streams.generator("step", step))
    made.result(task, state)  # the trigger as it is at the end
    if not isinstance(normalise, Unbounded):
        return Images(normalise.quantise(state.pixels.detach()), task.labels())
    return Images(normalise.pixels(state.pixels.detach()) * 255, task.labels())


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or what is given in its place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist", "cifar10"), default="cifar10")
    parser.add_argument("--parts", nargs="+", default=None, help=f"beginnings of {', '.join(PARTS)}")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="what is measured on")
    parser.add_argument("--model", default="convnet_hidden", help="architecture that the condensation sees")
    parser.add_argument("--victim", nargs="+", default=["convnet_hidden"], help="architectures trained on the sets")
    parser.add_argument("--width", type=int, default=16, help="of convnet and convnet_hidden")
    parser.add_argument("--records", type=int, default=5000, help="training images, the first of a shuffle")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--skip", type=int, default=4000, help="the first test images, on which settings were tried")
    parser.add_argument("--size", type=int, default=4, help="pixels a side of the trigger")
    parser.add_argument("--portion", type=float, default=0.01, help="share of the records that are poisoned")
    parser.add_argument("--first-steps", type=int, default=2000, help="Adam's steps on the first trigger")
    parser.add_argument("--trigger-steps", type=int, default=20, help="and on those that follow, each time")
    parser.add_argument("--tolerance", type=float, default=0.5, help="squared distance to the goal at which they end")
    parser.add_argument(
        "--seen", type=int, default=500, help="records of the network that the first trigger is made on"
    )
    parser.add_argument("--seen-epochs", type=int, default=10, help="and its epochs")
    parser.add_argument("--iterations", type=int, default=0, help="of the condensation; 0: as METHODS says")
    parser.add_argument("--networks", type=int, default=2, help="victims of each set")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=10, help="images of a victim's step")
    parser.add_argument("--lr", type=float, default=0.02, help="a victim's step size; chosen on real images of val")
    return parser.parse_args(given)


def bench_of(options: argparse.Namespace, device: torch.device) -> Bench:
    """The data split as asked, and the architectures."""
    whole = packed_images.load(options.data, None)
    order = torch.randperm(len(whole.train), generator=Streams(0, ("central", "records")).generator())
    unseen = torch.arange(len(whole.test))[options.skip :][: options.test]
    measured = whole.train.take(order[-HELD:]) if options.split == "val" else whole.test.take(unseen)
    data = replace(whole, train=whole.train.take(order[:-HELD][: options.records]), test=measured)

    def networks(name: str) -> Fresh:
        depth = {"depth": 2 if options.data == "digits" else 3, "width": options.width}
        architecture: Any = resolve("model", name)
        config = validate(architecture.Config, {"name": name} | (depth if name.startswith("convnet") else {}))
        return network_factory(config, data, device)

    normalise = Normalise(data.mean, data.std)
    return Bench(data, normalise, networks(options.model), {name: networks(name) for name in options.victim}, options)


def between(options: argparse.Namespace) -> str:
    """Part of a file's name: which architecture was condensed with, and which others were trained on the set."""
    usual = [options.model] == options.victim == ["convnet_hidden"]
    return "" if usual else f"_{options.model}_to_{'_'.join(options.victim)}"


def main() -> None:
    """The chosen parts, seed by seed."""
    options = arguments()
    torch.set_num_threads(1)
    device = chosen_device(options.device)
    options.device = str(device)
    bench, source = bench_of(options, device), provenance(device)
    asked = {key: value for key, value in vars(options).items() if key not in {"data", "parts", "seeds", "device"}}
    for part in chosen(PARTS, options.parts):
        for seed in range(options.seeds):
            if options.split == "val":
                found = attacked(bench, part, seed)
            else:
                found = keep(FOLDER / f"{options.data}_{part}{between(options)}_s{seed}.json", source, asked,
                             lambda part=part, seed=seed: attacked(bench, part, seed))  # fmt: skip
            for attack in options.attacks:
                print(part, seed, attack, found[attack], flush=True)


if __name__ == "__main__":
    told(main)
