"""Gradient methods of a private owner: their equations, what they reduce to, what they pay, and bugs that are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.augment import augment
from fedsim.data.images import Images
from fedsim.distill.drive import condense
from fedsim.distill.gradient import dsa, meta_knowledge, private_gradients
from fedsim.distill.private_steps import releases
from fedsim.privacy.mechanism import Mechanism
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as problem
from tests.reference import private_gradients as reference
from tests.reference.private_gradients import CLEAR, charges, silent, task
from tests.reference.private_methods import METHODS, ROUNDING, apart, first_release, leaks, method, neighbours

FEWER = [pytest.param(name, marks=pytest.mark.slow if name == "dc mse" else ()) for name in METHODS]
"""Another distance goes the same way: what is not of the equation is asked of it in the slow tests."""


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_equation(tmp_path, name):
    assert apart(tmp_path, name) < 1e-9


# --- reductions ---


@pytest.mark.parametrize("name", FEWER)
def test_without_noise_and_clipping_it_is_the_method_on_whole_classes(tmp_path, name):
    counts = (7, 4, 5, 9)
    private = task(tmp_path, CLEAR, counts=counts, noise=reference.seeded)
    found, _ = condense(method(name), private, 4, Streams(0))
    one = method(name)
    expected, _ = condense(type(one.method)(one.config), problem.task(counts=counts, around=True), 4, Streams(0))
    assert int((found.images.int() - expected.images.int()).abs().max()) <= 1
    assert torch.equal(found.labels, expected.labels)


# --- what is paid ---


@pytest.mark.parametrize("name", FEWER)
def test_every_step_is_one_release_and_the_settings_say_how_many(tmp_path, name):
    here = task(tmp_path, noise=reference.seeded)
    condense(method(name), here, 4, Streams(0))
    assert charges(here) == releases(METHODS[name]) == 4
    condense(method(name), here, 4, Streams(0))  # the same questions
    assert charges(here) == 4
    condense(method(name), here, 4, Streams(1))  # others
    assert charges(here) == 8


@pytest.mark.parametrize("name", FEWER)
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


@pytest.mark.parametrize("name", FEWER)
def test_neighbours_are_no_farther_apart_than_stated(tmp_path, name):
    assert 0.5 < max(neighbours(tmp_path, name)) <= ROUNDING


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
    assert any(distance > ROUNDING for distance in neighbours(tmp_path, name))


def test_weights_normalised_over_the_batch_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(meta_knowledge, "dynamic_weights", normalised)
    assert apart(tmp_path / "equation", "meta_knowledge") > 1e-3
    assert leaks(tmp_path, "meta_knowledge")


@pytest.mark.parametrize("name", FEWER)
def test_a_record_says_nothing_of_what_another_adds(tmp_path, name):
    assert not leaks(tmp_path, name)


def test_a_weight_is_inside_the_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(meta_knowledge, "dynamic_weights", beyond)
    assert max(neighbours(tmp_path, "meta_knowledge")) <= ROUNDING


@pytest.mark.parametrize("name", ["dc", "meta_knowledge"])
def test_a_sensitivity_without_the_count_is_noticed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Mechanism, "sensitivity", property(lambda self: self.clip))
    assert any(distance > ROUNDING for distance in neighbours(tmp_path, name, 12))


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


@pytest.mark.parametrize("name", FEWER)
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
        with pytest.raises(UserError, match="gives out noisy sums only"):
            condense(type(one.method)(one.config), replace(task(tmp_path), budget=torch.tensor([2] * 4)), 1, Streams(0))
