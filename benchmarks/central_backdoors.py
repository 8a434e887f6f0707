"""NaiveAttack and DOORPING by whoever condenses: `python benchmarks/central_backdoors.py --data cifar10 --parts dc_open`.

One party holds all images and condenses them; it stamps 1 % of them with a 4×4 square and calls them class 0 (those of
the other classes; the square is white, or DOORPING's). The victim trains networks of its own on the set. For every seed:

    accuracy, success    of networks trained on the poisoned set; success is over test images not of class 0
    accuracy_clean       of networks trained on the set of the same seed without an attack
    free_success         of those networks under the same trigger: what the trigger does without any poisoning
    lift                 success − free_success; mean over networks, interval by t over seeds

`box`: trigger and set stay in the box of pixels, as bytes. `open`: both may leave it, as in the released code: images
that carry such a trigger, and such a set, are float32 numbers that no image file holds. `clean`: as `box`, but records of
class 0 are stamped and every record keeps its label. `invisible`: as `box`, but the trigger is added to the whole image
and changes no pixel by more than `--bound` grey levels (NaiveAttack: random signs; DOORPING: attacks/invisible.py). The
clean set of a seed is the same in all but `open`. A part is a method and a form; its seeds are kept one by one under
benchmarks/results/central_backdoors/. FEDSIM_DATA holds mnist.npz, cifar10.npz. Settings (central_settings.py) were
tried with `--split val`, 1,000 training images that nothing is condensed from, and some on test images (what and when:
TRIED in central_words.py): those are the first 4,000 and the last 2,000, which `--skip` and `--test` leave out by default.
What `--split val` prints is not kept.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from central_measures import TARGET, Bench, carried, levels, numbers, trained
from central_settings import (
    EVERY,
    FOLDER,
    PARTS,
    arguments,
    asked,
    bench_of,
    compute,
    distiller_config,
    doorping_config,
    file_name,
    seen_training,
)
from kept_parts import chosen, chosen_device, keep, provenance, run_or_exit
from torch import Tensor

from attacks import invisible
from attacks.doorping import Doorping
from attacks.poisoning import clean_label_rows, poisoned_rows
from attacks.restamping import Restamping
from fedsim.catalog import resolve
from fedsim.compute import settle
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.data.trigger import Trigger, noisy, veil, white
from fedsim.distill.base import Distiller, Task
from fedsim.distill.pixels import start as first_images
from fedsim.distill.real import RealImages
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.tasks import central_task
from fedsim.training.train import fit


class Unbounded(Normalise):
    """A box without walls: condensation steps are not projected."""

    def project(self, images: Tensor) -> Tensor:
        """The images as they are."""
        return images


def attacked(bench: Bench, part: str, seed: int) -> dict[str, Any]:
    """One seed: the clean set, a poisoned one for each attack, networks on all."""
    options, (method, _, form) = bench.options, part.rpartition("_")
    streams = Streams(seed, ("central", method))  # all forms are paired
    normalise = Unbounded(bench.normalise.mean, bench.normalise.std) if form == "open" else bench.normalise
    config: Any = distiller_config(options, part)

    def made() -> Distiller:
        return resolve("method", config.name)(config)

    pick = clean_label_rows if form == "clean" else poisoned_rows
    rows = pick(bench.data.train, TARGET, options.portion, streams.generator("poisoned"))
    clean = condensed(bench, made(), config, bench.data.train, normalise, streams)
    without = {name: trained(bench, name, clean, normalise, streams) for name in bench.victims}
    found: dict[str, Any] = {"poisoned_records": len(rows)}
    for attack in options.attacks:
        trigger = first_trigger(bench, attack, form, streams)
        wrapped = following(bench, part, rows, made(), trigger, streams) if attack == "doorping" else None
        images = trigger.poison(bench.data.train, rows)
        synthetic = condensed(bench, wrapped or made(), config, images, normalise, streams)
        final = wrapped.trigger if wrapped is not None else trigger
        victims = {name: numbers(bench, without[name], trained(bench, name, synthetic, normalise, streams), final,
                                 normalise, streams) for name in bench.victims}  # fmt: skip
        found[attack] = {"levels": levels(final.values[:, final.mask]), "set_levels": levels(synthetic.pixels),
                         "moved": not torch.equal(final.values, trigger.values),
                         "carried": carried(synthetic, final), "victims": victims}  # fmt: skip
    return found


def first_trigger(bench: Bench, attack: str, form: str, streams: Streams) -> Trigger:
    """The trigger that the condensation begins with; NaiveAttack's stays."""
    shape, options = bench.data.image_shape, bench.options
    if attack == "naive":
        quiet = form == "invisible"
        return (
            veil(shape, options.bound, TARGET, streams.generator("veil"))
            if quiet
            else white(shape, options.size, TARGET)
        )
    if form == "invisible":
        first = veil(shape, options.bound, TARGET, streams.generator("trigger"))
    else:
        first = noisy(shape, options.size, TARGET, streams.generator("trigger"))
    return better(bench, form, first, known(bench, streams.at("seen", 0)), options.first_steps)


def better(bench: Bench, form: str, now: Trigger, network: Network, steps: int) -> Trigger:
    """The trigger after one optimisation on a network."""
    config, train = doorping_config(bench.options, steps), bench.data.train
    if now.bound is not None:
        return invisible.improved(now, network, bench.normalise, train, config)
    return Doorping(config).improved(now, network, bench.normalise, train, box=form != "open")


def following(bench: Bench, part: str, rows: Tensor, made: Distiller, first: Trigger, streams: Streams) -> Restamping:
    """The condensation around a trigger that is optimised again while it runs, at any number of images per class."""
    outer, (method, _, form) = getattr(made, "outer", None), part.rpartition("_")

    def update(now: Trigger, task: Task, turn: int) -> Trigger:
        steps = bench.options.trigger_steps
        if outer is None:
            return better(bench, form, now, known(bench, streams.at("seen", turn)), steps)
        if turn % outer == 0:  # as released: not after the last outer step of a network
            return now
        return better(bench, form, now, copy.deepcopy(task.network).eval().requires_grad_(False), steps)

    return Restamping(made, bench.data.train, rows, first, EVERY[method], update)


def known(bench: Bench, streams: Streams) -> Network:
    """A network of the attacker's, trained on a few clean records. In a newly initialised one units hardly move: the goal
    α a₀ is within the tolerance of the start, and nothing happens."""
    network, labels = bench.fresh(streams.generator("init")), bench.data.train.labels
    order = torch.randperm(len(labels), generator=streams.generator("records"))
    few = bench.data.train.take(order[: bench.options.seen])
    fit(network, few, bench.normalise, seen_training(bench.options), streams.generator("train"))
    return network.eval().requires_grad_(False)


def condensed(
    bench: Bench, made: Distiller, config: Any, images: Images, normalise: Normalise, streams: Streams
) -> Images:
    """The set, as the network input's grey levels: float32, in the box or not. All start from the same clean records."""
    task = central_task(images, bench.data, normalise, bench.fresh, config.ipc, settle(compute(bench.options)), streams)
    artifacts = made.prepare(task, streams.generator("prepare"))
    state: Any = made.init(task, artifacts, streams.generator("init"))
    unstamped = replace(task, real=RealImages(bench.data.train, task.num_classes, normalise, task.device))
    state.pixels.copy_(first_images(unstamped, config.init, streams.generator("first")))
    for step in range(config.iterations):
        made.step(task, artifacts, state, streams.generator("step", step))
    rates = made.result(task, state).rates  # and the trigger is as it is at the end
    if not isinstance(normalise, Unbounded):
        return Images(normalise.quantise(state.pixels.detach()), task.labels(), rates=rates)
    return Images(normalise.pixels(state.pixels.detach()) * 255, task.labels(), rates=rates)


def main() -> None:
    """The chosen parts, seed by seed."""
    options = arguments()
    torch.set_num_threads(1)
    device = chosen_device(options.device)
    options.device = str(device)
    bench, source = bench_of(options, device), provenance(device)
    for part in chosen(PARTS, options.parts):
        for seed in range(options.seeds):
            if options.split == "val":
                found = attacked(bench, part, seed)
            else:
                found = keep(FOLDER / file_name(options, part, seed), source, asked(options, part),
                             lambda part=part, seed=seed: attacked(bench, part, seed))  # fmt: skip
            for attack in options.attacks:
                print(part, seed, attack, found[attack], flush=True)


if __name__ == "__main__":
    run_or_exit(main)
