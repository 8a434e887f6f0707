"""Distribution Matching by each record's part of the gradient: its equation, what it reduces to, and what it pays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.data.images import Images
from fedsim.distill.distribution import private_pixels
from fedsim.distill.distribution.dm import Config, DistributionMatching
from fedsim.distill.distribution.private_pixels import PrivatePixels
from fedsim.distill.drive import condense
from fedsim.distill.networks import PerturbConfig, Radius
from fedsim.privacy.mechanism import Mechanism
from fedsim.runs import load_tensors
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as problem
from tests.reference import private_gradients as reference
from tests.reference.private_gradients import CLEAR, COUNTS, charges, doubled, seeded, task

LEAST = 2.0
TIGHT = Mechanism(clip=0.3, kappa=0.25, sigma=0.5)
ONE = DSAConfig(strategy=("crop", "flip"))


def method(**changes: Any) -> PrivatePixels:
    base: dict[str, Any] = {
        "ipc": 2, "batch_real": 0, "lr": 0.2, "momentum": 0.0, "iterations": 3, "match": ("embedding", "logits"),
        "networks": PerturbConfig(radius=Radius(absolute=1.0)),
    }  # fmt: skip
    return PrivatePixels(Config(**(base | changes)), LEAST)


def gradient(here: Any, one: PrivatePixels, pixels: Tensor, images: Images, mechanism: Mechanism) -> Tensor:
    """Σ of clipped −2 Jᵀ(ψ(x) − s̄) over max(n, n_min), J row by row, record by record."""
    drawn = one.dm.source.draw(here, None, stream(2), 0)
    look, labels = problem.looking(here.network, drawn.params, one.config.match), here.labels()

    def vector(image: Tensor, label: int) -> Tensor:
        if one.config.augment is not None and drawn.augmentation is not None:
            draws = drawn.augmentation[label : label + 1]
            image = augment(image[None], torch.zeros(1, dtype=torch.int64), draws, one.config.augment)[0]
        return torch.cat(look(image[None]), 1)[0]

    def row(image: Tensor, label: int) -> Tensor:
        own = pixels[labels == label].clone().requires_grad_()
        mean = problem.mean([vector(each, label) for each in own])
        apart, total = vector(image, label).detach() - mean.detach(), torch.zeros_like(own)
        for place, value in enumerate(apart.tolist()):
            total -= 2 * value * torch.autograd.grad(mean[place], own, retain_graph=True)[0]
        return total.flatten()

    sums, counts = reference.class_sums(images, here.num_classes, row, mechanism)
    parts = [one / max(count, LEAST) for one, count in zip(sums, counts, strict=True)]
    rows = [one if isinstance(one, Tensor) else torch.zeros(2 * pixels[0].numel()).double() for one in parts]
    return torch.cat(rows).view(pixels.shape)


def apart(folder: Path, mechanism: Mechanism = TIGHT, **changes: Any) -> float:
    here, one, images = task(folder, mechanism), method(**changes), problem.images(COUNTS)
    state = doubled(one.init(here, None, stream(1)))
    before = state.pixels.clone()
    expected = gradient(here, one, before, images, mechanism)
    one.step(here, None, state, stream(2))
    found = here.normalise.project(before - 0.2 * expected)
    return float((state.pixels - found).norm() / (0.2 * expected).norm())


@pytest.mark.parametrize("changes", [{}, {"match": ("embedding",)}, {"augment": ONE}])
@pytest.mark.parametrize("clip", [0.3, 1e3])
def test_a_step_is_the_equation(tmp_path, changes, clip):
    assert apart(tmp_path, Mechanism(clip=clip, kappa=0.25, sigma=0.5), **changes) < (1e-9 if clip < 1 else 1e-6)


@pytest.mark.parametrize("augmented", [None, ONE])
def test_without_noise_and_clipping_it_is_distribution_matching(tmp_path, augmented):
    counts, one = (7, 4, 5, 9), method(augment=augmented)
    found, _ = condense(one, task(tmp_path, CLEAR, counts=counts, noise=seeded), 3, Streams(0))
    open_task = problem.task(counts=counts, around=True)
    expected, _ = condense(DistributionMatching(one.config), open_task, 3, Streams(0))
    assert int((found.images.int() - expected.images.int()).abs().max()) <= 1


def test_every_step_is_a_release_and_a_kill_costs_nothing(tmp_path):
    whole, _ = condense(method(), task(tmp_path / "a", noise=seeded), 3, Streams(0))

    class KilledError(Exception):
        pass

    def kill(iteration: int, _: Any) -> None:
        if iteration == 2:
            raise KilledError

    killed, store = task(tmp_path / "b", noise=seeded), tmp_path / "store"
    with pytest.raises(KilledError):
        condense(method(), killed, 3, Streams(0), store=store, checkpoint_every=0, log_every=1, log=kill)
    assert charges(killed) == 2
    again = task(tmp_path / "b", noise=seeded)
    resumed, _ = condense(method(), again, 3, Streams(0), store=store)
    assert torch.equal(resumed.images, whole.images)
    assert charges(again) == 3


def test_neighbours_are_no_farther_apart_than_stated(tmp_path):
    assert 0.5 < max(neighbours(tmp_path)) <= 1 + 1e-6


def neighbours(folder: Path) -> Iterator[float]:
    """Distances of the first releases of neighbouring clients under no noise, over the stated bound."""
    for trial in range(6):
        images = problem.images((3, 1, 0, 2), seed=trial)
        index = int(torch.randint(len(images.labels), (), generator=stream(trial)))
        keep = torch.arange(len(images.labels)) != index
        other = images.pixels.clone()
        other[index] = 255 - other[index]
        sets = [images, Images(images.pixels[keep], images.labels[keep]), Images(other, images.labels)]
        found = [released(folder / f"{trial}-{version}", data) for version, data in enumerate(sets)]
        yield float((found[0] - found[1]).norm()) / TIGHT.sensitivity
        yield float((found[0] - found[2]).norm()) / (2 * TIGHT.sensitivity)


def released(folder: Path, images: Images) -> Tensor:
    here, one = task(folder, TIGHT, real=images), method()
    one.step(here, None, doubled(one.init(here, None, stream(1))), stream(2))
    (path,) = folder.glob("released/*")
    return load_tensors(path)[0]["values"]


def test_clipping_after_averaging_is_noticed(tmp_path, monkeypatch):
    own = PrivatePixels.rows

    def averaged(self: PrivatePixels, *words: Any) -> Any:
        rows = own(self, *words)
        return lambda images, labels: rows(images, labels).mean(0, keepdim=True).expand(len(labels), -1)

    monkeypatch.setattr(PrivatePixels, "rows", averaged)
    assert apart(tmp_path / "equation") > 1e-3
    assert any(distance > 1 + 1e-6 for distance in neighbours(tmp_path))


def test_classes_that_are_not_held_are_left_out_of_the_set(tmp_path):
    found, _ = condense(method(), task(tmp_path, CLEAR, counts=(7, 0, 5, 1)), 2, Streams(0))
    assert found.labels.tolist() == [0, 0, 2, 2]


def test_the_name_of_a_release_holds_the_images_it_was_asked_at(tmp_path, monkeypatch):
    """J moves with S: the same network and step at other images is another sum."""
    asked = []
    own = private_pixels.question
    monkeypatch.setattr(private_pixels, "question", lambda *words: asked.append(own(*words)) or asked[-1])
    here, one = task(tmp_path), method()
    for shift in (0.0, 0.01):
        state = doubled(one.init(here, None, stream(1)))
        state.pixels += shift
        one.step(here, None, state, stream(2))
    assert asked[0] != asked[1]


def test_batch_norm_is_refused_before_anything_is_charged(tmp_path):
    here = task(tmp_path, network=problem.convnet("batch"))  # T6
    with pytest.raises(UserError, match=r"model.norm: got batch"):
        condense(method(), here, 1, Streams(0))
    assert charges(here) == 0


def test_open_images_are_refused():
    with pytest.raises(UserError, match="got a client's open images"):
        method().prepare(problem.task(), stream(0))
