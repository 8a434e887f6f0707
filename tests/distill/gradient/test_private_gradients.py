"""Gradient methods of a private owner: their equations, what they reduce to, what they pay, and bugs that are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.data.images import Images
from fedsim.distill.base import Task
from fedsim.distill.drive import condense
from fedsim.distill.gradient import dc, dsa, idc, meta_knowledge, private_gradients
from fedsim.distill.gradient.private_gradients import PrivateGradients
from fedsim.distill.networks import PerturbConfig, Radius
from fedsim.privacy import mechanism as sums
from fedsim.privacy import pooled
from fedsim.privacy.mechanism import Mechanism
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dc as loops
from tests.reference import dm as problem
from tests.reference import meta_knowledge as meta
from tests.reference import private_gradients as reference
from tests.reference.private_gradients import CLEAR, COUNTS, MECHANISM, charges, doubled, silent, task

LEAST = 2.0
AROUND = PerturbConfig(radius=Radius(absolute=1.0))
SHARED: dict[str, Any] = {"ipc": 2, "batch_real": 0, "lr": 0.2, "momentum": 0.0, "optimiser": "sgd", "networks": AROUND}
LOOP: dict[str, Any] = SHARED | {"outer": 2, "inner": 1, "lr_net": 0.1, "iterations": 4}
ONE = DSAConfig(strategy=("crop", "flip"))
METHODS: dict[str, Any] = {
    "dc": dc.Config(**LOOP),
    "dc mse": dc.Config(**LOOP, metric="mse"),
    "dsa": dsa.Config(**LOOP, augment=ONE),
    "idc": idc.Config(**LOOP, train_on="synthetic", formation=1, augment=None, cutmix=0.0),
    "meta_knowledge": meta_knowledge.Config(**SHARED, iterations=4, inner_steps=2, inner_lr=0.3, restart=2),
}
DISTANCES = {"dc": loops.cosine, "dc mse": loops.squared, "dsa": loops.cosine, "idc": loops.squared}


def method(name: str, **changes: Any) -> PrivateGradients:
    return PrivateGradients(METHODS[name].model_copy(update=changes), LEAST)


def begun(here: Task, one: PrivateGradients) -> Any:
    one.prepare(here, stream(0))
    return doubled(one.init(here, None, stream(1)))


# --- the equations ---


def matched(
    here: Task, name: str, params: Any, pixels: Tensor, draws: Tensor | None, images: Images, mechanism: Mechanism
) -> Tensor:
    """Σ_c D of loops, the real side clipped record by record."""
    labels, distance = here.labels(), DISTANCES[name]

    def look(images: Tensor, label: int) -> Tensor:
        if draws is None:
            return images
        return augment(images, torch.zeros(len(images), dtype=torch.int64), draws[label : label + 1], ONE)

    def gradient(images: Tensor, label: int) -> dict[str, Tensor]:
        found = loops.gradient(here.network, params, look(images, label), torch.full((len(images),), label))
        dimensions = {"dc mse": (1, 2, 3, 4), "idc": (4,)}.get(name, (2, 4))
        return {key: value for key, value in found.items() if value.ndim in dimensions}

    def row(image: Tensor, label: int) -> Tensor:
        return torch.cat([one.detach().flatten() for one in gradient(image[None], label).values()])

    found, counts = reference.class_sums(images, here.num_classes, row, mechanism)
    total = torch.zeros((), dtype=torch.float64)
    for label, (one, count) in enumerate(zip(found, counts, strict=True)):
        ours = gradient(pixels[labels == label], label)
        mean = one / max(count, LEAST)
        flat = mean if isinstance(mean, Tensor) else torch.zeros(sum(own.numel() for own in ours.values())).double()
        parts = flat.split([own.numel() for own in ours.values()])
        theirs = {key: part.view(ours[key].shape) for key, part in zip(ours, parts, strict=True)}
        total = total + distance(ours, theirs)
    return total


def apart(folder: Path, name: str) -> float:
    """How far the images are after a step from where the loops put them, over the length of the step."""
    data = problem.images(COUNTS)
    mechanism = between(folder / "norms", name, data)
    here, one = task(folder, mechanism, real=data), method(name)
    state = begun(here, one)
    before, rng = state.pixels.clone().requires_grad_(), stream(2)
    if name == "meta_knowledge":
        params = one.method._network(here, None, rng, 0)
        moved = weighted(here, params, before, data, one.config, mechanism)
    else:
        draws = Streams(int(torch.randint(2**62, (), generator=rng)))
        views = one.method.views(here, draws.generator("views"))
        params = one.method.source.draw(here, None, rng, 0).params
        moved = torch.autograd.grad(matched(here, name, params, before, views, data, mechanism), before)[0]
    one.step(here, None, state, stream(2))
    expected = here.normalise.project(before.detach() - one.config.lr * moved)
    return float((state.pixels - expected).norm() / (one.config.lr * moved).norm())


def weighted(
    here: Task, params: Any, pixels: Tensor, images: Images, config: meta_knowledge.Config, mechanism: Mechanism
) -> Tensor:
    """∂⟨w′, g⟩/∂S of loops, φ_i ∇ℓ(w′; x_i) clipped record by record."""
    after = meta.trained(here.network, params, pixels, here.labels(), config.inner_lr, config.inner_steps)
    names = [name for name, _ in here.network.named_parameters()]
    fixed = {name: value.detach() for name, value in after.items()}

    def row(image: Tensor, label: int) -> Tensor:
        own = fixed | {name: fixed[name].clone().requires_grad_() for name in names}
        phi = meta.phi(float(meta.record_loss(here.network, params, image, label).detach()), config.tau)
        each = torch.autograd.grad(meta.record_loss(here.network, own, image, label), [own[name] for name in names])
        return phi * torch.cat([one.flatten() for one in each])

    found, counts = reference.class_sums(images, here.num_classes, row, mechanism)
    total = torch.stack([one for one in found if isinstance(one, Tensor)]).sum(0) / max(sum(counts), LEAST)
    parts = total.split([after[name].numel() for name in names])
    pairs = ((after[name], part.view(after[name].shape)) for name, part in zip(names, parts, strict=True))
    inner = torch.stack([(ours * theirs).sum() for ours, theirs in pairs]).sum()
    return torch.autograd.grad(inner, pixels)[0]


def between(folder: Path, name: str, images: Images) -> Mechanism:
    """Clips to the middle norm of the records, so that some are beyond the ball and some within it."""
    norms = added(folder, name, MECHANISM, images).norm(dim=1)
    return Mechanism(float(norms.median()), kappa=0.25, sigma=0.5)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_equation(tmp_path, name):
    assert apart(tmp_path, name) < 1e-9


# --- reductions ---


@pytest.mark.parametrize("name", METHODS)
def test_without_noise_and_clipping_it_is_the_method_on_whole_classes(tmp_path, name):
    counts = (7, 4, 5, 9)
    private = task(tmp_path, CLEAR, counts=counts, noise=reference.seeded)
    found, _ = condense(method(name), private, 4, Streams(0))
    one = method(name)
    expected, _ = condense(type(one.method)(one.config), problem.task(counts=counts, around=True), 4, Streams(0))
    assert int((found.images.int() - expected.images.int()).abs().max()) <= 1
    assert torch.equal(found.labels, expected.labels)


# --- what is paid ---


@pytest.mark.parametrize("name", METHODS)
def test_every_step_is_one_release_and_the_settings_say_how_many(tmp_path, name):
    from fedsim.distill.private_steps import releases

    here = task(tmp_path, noise=reference.seeded)
    condense(method(name), here, 4, Streams(0))
    assert charges(here) == releases(METHODS[name]) == 4
    condense(method(name), here, 4, Streams(0))  # the same questions
    assert charges(here) == 4
    condense(method(name), here, 4, Streams(1))  # others
    assert charges(here) == 8


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_condensation_ends_the_same_and_pays_nothing_more(tmp_path, name):
    """Killed after a step whose release is stored and whose state is not: the step is asked again, for nothing."""
    whole, _ = condense(method(name), task(tmp_path / "a", noise=reference.seeded), 4, Streams(0))

    class KilledError(Exception):
        pass

    def kill(iteration: int, _: Any) -> None:
        if iteration == 3:
            raise KilledError

    killed, store = task(tmp_path / "b", noise=reference.seeded), tmp_path / "store"
    with pytest.raises(KilledError):
        condense(method(name), killed, 4, Streams(0), store=store, checkpoint_every=0, log_every=1, log=kill)
    assert charges(killed) == 3
    again = task(tmp_path / "b", noise=reference.seeded)
    resumed, _ = condense(method(name), again, 4, Streams(0), store=store)
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.labels, whole.labels)
    assert charges(again) == 4


def test_chunks_change_no_more_than_roundings(tmp_path):
    whole, pieces = (
        condense(method("meta_knowledge"), task(tmp_path / str(chunk), chunk=chunk), 2, Streams(0))[0].images.int()
        for chunk in (0, 2)
    )
    assert int((whole - pieces).abs().max()) <= 1


def test_classes_that_are_not_held_are_left_out_of_the_set(tmp_path):
    for name in METHODS:
        here = task(tmp_path / name, CLEAR, counts=(7, 0, 5, 1))
        found, _ = condense(method(name), here, 2, Streams(0))
        assert found.labels.tolist() == [0, 0, 2, 2]


def test_learned_labels_are_cut_with_their_images(tmp_path):
    here = task(tmp_path, CLEAR, counts=(7, 0, 5, 1))
    found, _ = condense(method("dc", labels="learned"), here, 2, Streams(0))
    assert found.soft is not None
    assert found.soft.shape == (4, 4)


# --- the sensitivity of what really leaves ---


def farthest(folder: Path, name: str, trials: int = 12) -> float:
    """The largest distance of the first releases of neighbouring clients under no noise, over the stated bound."""
    most = 0.0
    for trial in range(trials):
        rng = stream(trial)
        images = problem.images((3, 1, 0, 2), seed=trial)
        index = int(torch.randint(len(images.labels), (), generator=rng))
        keep = torch.arange(len(images.labels)) != index
        other, labels = images.pixels.clone(), images.labels.clone()
        other[index], labels[index] = 255 - other[index], (labels[index] + 1) % 4
        versions = [images, Images(images.pixels[keep], images.labels[keep]), Images(other, labels)]
        found = []
        for version, data in enumerate(versions):
            here, one = task(folder / f"{trial}-{version}", real=data), method(name)
            found.append(first_release(here, one))
        allowed = MECHANISM.sensitivity
        ratios = [float((found[0] - found[1]).norm()) / allowed, float((found[0] - found[2]).norm()) / (2 * allowed)]
        most = max(most, *ratios)
    return most


def first_release(here: Task, one: PrivateGradients) -> Tensor:
    from fedsim.runs import load_tensors

    one.step(here, None, begun(here, one), stream(2))
    (path,) = here.real.ledger._folder.glob("released/*")  # pyright: ignore[reportAttributeAccessIssue]
    return load_tensors(path)[0]["values"]


ROUNDING = 1 + 1e-6
"""Neighbours' passes differ in size, so that rows may differ in their last bits, and by a step of the grid."""


@pytest.mark.parametrize("name", METHODS)
def test_neighbours_are_no_farther_apart_than_stated(tmp_path, name):
    assert 0.5 < farthest(tmp_path, name) <= ROUNDING


# --- planted bugs ---


def averaged(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Rows that are the mean of the pass: clipped after averaging, whatever is clipped later (T4)."""
    return lambda *words: own(*words).mean(0, keepdim=True).expand(len(words[-1]), -1)


def normalised(losses: Tensor, tau: float) -> Tensor:
    """φ normalised over the batch (T7)."""
    phi = torch.sigmoid(tau * losses)
    return phi / phi.sum()


def beyond(losses: Tensor, tau: float) -> Tensor:
    """A weight outside of the clip would be one: a factor that only the clip bounds."""
    return torch.sigmoid(tau * losses) * 1e6


@pytest.mark.parametrize("name", ["dc", "meta_knowledge"])
def test_clipping_after_averaging_is_noticed(tmp_path, monkeypatch, name):
    own = private_gradients.record_gradients
    monkeypatch.setattr(private_gradients, "record_gradients", averaged(own))
    assert apart(tmp_path / "equation", name) > 1e-3
    assert farthest(tmp_path, name) > ROUNDING


def test_weights_normalised_over_the_batch_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(meta_knowledge, "dynamic_weights", normalised)
    assert apart(tmp_path / "equation", "meta_knowledge") > 1e-3
    assert leaks(tmp_path, "meta_knowledge")


def added(folder: Path, name: str, mechanism: Mechanism, images: Images) -> Tensor:
    """What the records add in a first step, before it is clipped."""
    seen: list[Tensor] = []

    def noting(own: Callable[..., Tensor], vectors: Tensor, *words: Any) -> Tensor:
        seen.append(vectors)
        return own(vectors, *words)

    with pytest.MonkeyPatch.context() as patch:
        for module in (sums, pooled):
            patch.setattr(module, "contributions", partial(noting, module.contributions))
        first_release(task(folder, mechanism, real=images), method(name))
    return torch.cat(seen)


def leaks(folder: Path, name: str) -> bool:
    """Whether leaving out one record, of class 3, changes what those of class 0 add."""
    images = problem.images((3, 1, 0, 2))
    keep = torch.ones(len(images.labels), dtype=torch.bool)
    keep[int(torch.nonzero(images.labels == 3)[0])] = False
    less = Images(images.pixels[keep], images.labels[keep])
    found = [
        added(folder / f"leak-{version}", name, MECHANISM, data)[data.labels == 0]
        for version, data in enumerate([images, less])
    ]
    return not torch.allclose(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_a_record_says_nothing_of_what_another_adds(tmp_path, name):
    assert not leaks(tmp_path, name)


def test_a_weight_is_inside_the_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(meta_knowledge, "dynamic_weights", beyond)
    assert farthest(tmp_path, "meta_knowledge") <= ROUNDING


@pytest.mark.parametrize("name", ["dc", "meta_knowledge"])
def test_a_sensitivity_without_the_count_is_noticed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Mechanism, "sensitivity", property(lambda self: self.clip))
    assert farthest(tmp_path, name) > ROUNDING


def test_an_augmentation_drawn_in_the_order_of_the_data_is_noticed(tmp_path, monkeypatch):
    def in_order(self: Any, images: Tensor, label: int, views: Tensor) -> Tensor:
        each = torch.arange(len(images))
        draws = views[label : label + 1].repeat(len(images), 1)
        draws[:, 1:] = (draws[:, 1:] + 0.37 * each[:, None]) % 1
        return augment(images, each, draws, self.augment)

    monkeypatch.setattr(dsa.SiameseMatching, "see", in_order)
    images = problem.images((0, 0, 0, 4))
    found = []
    for version, data in enumerate([images, Images(images.pixels[1:], images.labels[1:])]):
        here = task(tmp_path / str(version), Mechanism(clip=0.05, kappa=1e-3, sigma=0.5), real=data)
        found.append(first_release(here, method("dsa")))
    assert float((found[0] - found[1]).norm()) > 0.05 * 1.01


def test_a_question_that_forgets_the_network_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(private_gradients, "question", lambda *words: "the same")
    here = task(tmp_path, noise=silent)
    condense(method("dc"), here, 4, Streams(0))
    assert charges(here) != 4


@pytest.mark.parametrize("name", METHODS)
def test_batch_norm_is_refused_before_anything_is_charged(tmp_path, name):
    here = task(tmp_path, network=problem.convnet("batch"))  # T6
    with pytest.raises(UserError, match="batch norm"):
        condense(method(name), here, 1, Streams(0))
    assert charges(here) == 0


def test_open_images_are_refused():
    with pytest.raises(UserError, match="got a client's open images"):
        method("dc").prepare(problem.task(), stream(0))


def test_the_open_way_meets_a_closed_door(tmp_path):
    for name in METHODS:
        one = method(name, batch_real=3)
        with pytest.raises(UserError, match="gives out noisy class sums only"):
            condense(type(one.method)(one.config), replace(task(tmp_path), budget=torch.tensor([2] * 4)), 1, Streams(0))
