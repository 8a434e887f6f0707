"""What benchmarks/central_backdoors.py is told: methods, forms, the command line, and all that a kept part remembers."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import packed_images
import torch
from central_measures import TARGET, Bench, victim_training
from kept_parts import ROOT, settings

from attacks.doorping import Config as DoorpingConfig
from fedsim.catalog import resolve
from fedsim.compute import Compute
from fedsim.config import Section, validate
from fedsim.data.transforms import Normalise
from fedsim.seeding import Streams
from fedsim.tasks import Fresh, network_factory
from fedsim.training.train import TrainConfig
from fedsim.types import UserError

FOLDER, HELD = ROOT / "central_backdoors", 1000
METHODS: dict[str, dict[str, Any]] = {
    "dc": {"name": "dc", "ipc": 10, "iterations": 20, "outer": 10, "inner": 5, "batch_train": 10, "batch_real": 32,
           "optimiser": "adam", "lr": 0.1, "lr_net": 0.01, "init": "real"},
    "dm": {"name": "dm", "ipc": 10, "iterations": 120, "optimiser": "adam", "lr": 0.25, "batch_real": 32, "init": "real"},
    "dm_ipc1": {"name": "dm", "ipc": 1, "iterations": 120, "optimiser": "adam", "lr": 0.25, "batch_real": 32,
                "init": "real"},
    "dd": {"name": "dd", "ipc": 10, "iterations": 40, "epochs": 3, "optimiser": "adam", "lr": 0.1, "batch_real": 32,
           "init": "real"},
}  # fmt: skip
EVERY = {"dc": 1, "dm": 40, "dm_ipc1": 40, "dd": 10}
"""Steps of the condensation between two optimisations of the trigger: `dc` after every outer step, as released."""
FORMS = {"box": "in the box", "open": "out of it", "clean": "clean labels", "invisible": "invisible"}
"""Only `open` leaves the box."""
ATTACKS = ("naive", "doorping")
PARTS = tuple(f"{method}_{form}" for method in METHODS for form in FORMS)
COMPUTE = {"chunk": 0, "compile": False, "channels_last": False, "ensemble": "loop"}
UNASKED = {"parts", "seeds", "device", "bound"}
"""Options that change no number, or only those of some parts."""


def method_settings(options: argparse.Namespace, part: str) -> dict[str, Any]:
    """Of the condensation that a part is of."""
    method, _, _ = part.rpartition("_")
    return METHODS[method] | ({"iterations": options.iterations} if options.iterations else {})


def distiller_config(options: argparse.Namespace, part: str) -> Section:
    """The same, with defaults."""
    wanted = method_settings(options, part)
    return validate(resolve("method", wanted["name"]).Config, wanted)


def doorping_config(options: argparse.Namespace, steps: int) -> DoorpingConfig:
    """Of one optimisation of the trigger."""
    return DoorpingConfig(clients=(0,), target=TARGET, iterations=steps, tolerance=options.tolerance)


def seen_training(options: argparse.Namespace) -> TrainConfig:
    """Of the attacker's own network."""
    return TrainConfig(epochs=options.seen_epochs, lr=0.01, batch_size=20)


def architecture(options: argparse.Namespace, name: str) -> Section:
    """A model as this benchmark builds it."""
    depth = {"depth": 2 if options.data == "digits" else 3, "width": options.width}
    return validate(resolve("model", name).Config, {"name": name} | (depth if name.startswith("convnet") else {}))


def asked(options: argparse.Namespace, part: str) -> dict[str, Any]:
    """Every setting that changes the numbers of a part, so that a stale one is found."""
    method, _, form = part.rpartition("_")
    found = {key: value for key, value in vars(options).items() if key not in UNASKED}
    trigger = settings(doorping_config(options, 0))
    return found | ({"bound": options.bound} if form == "invisible" else {}) | {
        "part": part, "target": TARGET, "held": HELD, "every": EVERY[method], "compute": COMPUTE,
        "method": settings(distiller_config(options, part)),
        "trigger": {name: trigger[name] for name in ("units", "alpha", "lr", "offset")},
        "seen_train": settings(seen_training(options)), "train": settings(victim_training(options)),
        "models": {name: settings(architecture(options, name)) for name in (options.model, *options.victim)},
    }  # fmt: skip


def file_name(options: argparse.Namespace, part: str, seed: int) -> str:
    """Of a kept part: which architecture was condensed with and which others were trained, steps where told."""
    usual = [options.model] == options.victim == ["convnet_hidden"]
    between = "" if usual else f"_{options.model}_to_{'_'.join(options.victim)}"
    steps = f"_{options.iterations}_steps" if options.iterations else ""
    return f"{options.data}_{part}{between}{steps}_s{seed}.json"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or what is given in its place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", choices=("digits", "mnist", "cifar10"), default="cifar10")
    add("--parts", nargs="+", default=None, help=f"beginnings of {', '.join(PARTS)}")
    add("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    add("--seeds", type=int, default=3)
    add("--device", default="auto")
    add("--split", choices=("val", "test"), default="test", help="what is measured on")
    add("--model", default="convnet_hidden", help="architecture that the condensation sees")
    add("--victim", nargs="+", default=["convnet_hidden"], help="architectures trained on the sets")
    add("--width", type=int, default=16, help="of convnet and convnet_hidden")
    add("--records", type=int, default=5000, help="training images, the first of a shuffle")
    add("--test", type=int, default=2000, help="test images")
    add("--skip", type=int, default=4000, help="the first test images, on which settings were tried")
    add("--size", type=int, default=4, help="pixels a side of the trigger")
    add("--bound", type=int, default=16, help="grey levels that an invisible trigger may change a pixel by")
    add("--portion", type=float, default=0.01, help="share of the records that are poisoned")
    add("--first-steps", type=int, default=2000, help="Adam's steps on the first trigger")
    add("--trigger-steps", type=int, default=20, help="and on those that follow, each time")
    add("--tolerance", type=float, default=0.5, help="squared distance to the goal at which they end")
    add("--seen", type=int, default=500, help="records of the network that the first trigger is made on")
    add("--seen-epochs", type=int, default=10, help="and its epochs")
    add("--iterations", type=int, default=0, help="of the condensation; 0: as METHODS says")
    add("--networks", type=int, default=2, help="victims of each set")
    add("--epochs", type=int, default=40, help="of a victim; 400 at one image per class, which are as many steps")
    add("--batch", type=int, default=10, help="images of a victim's step")
    add("--lr", type=float, default=0.02, help="a victim's step size; chosen on real images of val")
    return parser.parse_args(given)


def bench_of(options: argparse.Namespace, device: torch.device) -> Bench:
    """The data split as asked, and the architectures; `UserError` for a bound that no change of a byte can have."""
    if not 0 <= options.bound <= 255:
        raise UserError(f"--bound: got {options.bound}; valid: 0 to 255 grey levels")
    whole = packed_images.load(options.data, None)
    order = torch.randperm(len(whole.train), generator=Streams(0, ("central", "records")).generator())
    unseen = torch.arange(len(whole.test))[options.skip :][: options.test]
    measured = whole.train.take(order[-HELD:]) if options.split == "val" else whole.test.take(unseen)
    data = replace(whole, train=whole.train.take(order[:-HELD][: options.records]), test=measured)

    def networks(name: str) -> Fresh:
        return network_factory(architecture(options, name), data, device)

    normalise = Normalise(data.mean, data.std)
    return Bench(data, normalise, networks(options.model), {name: networks(name) for name in options.victim}, options)


def compute(options: argparse.Namespace) -> Compute:
    """How the condensation is computed."""
    return Compute(device=options.device, **COMPUTE)
