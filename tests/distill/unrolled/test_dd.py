"""Dataset distillation: its step against one graph of loops, finite differences, planted bugs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.config import validate
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes
from fedsim.distill.drive import condense
from fedsim.distill.networks import PerturbConfig, Radius
from fedsim.distill.unrolled import adjoint, dd
from fedsim.distill.unrolled.dd import Config, DatasetDistillation, State
from fedsim.models.functional import state
from fedsim.seeding import Streams, stream
from fedsim.training.train import follow
from tests.reference import dd as reference
from tests.reference import dm as problem

SETTINGS = Config(
    ipc=2, iterations=2, epochs=2, rate=0.3, lr_rates=0.5, optimiser="sgd", lr=0.5, momentum=0.0, batch_real=0
)


def config(**changes: Any) -> Config:
    return validate(Config, SETTINGS.model_dump() | changes)


def begun(task: Task, method: DatasetDistillation) -> tuple[Any, State]:
    """Artifacts and first state in float64: images well inside the box, rates that differ from step to step."""
    artifacts = method.prepare(task, stream(0))
    first = method.init(task, artifacts, stream(1))
    inside = 0.2 * first.pixels.double() + 0.3
    raw = first.raw.double() + 0.1 * torch.arange(len(first.raw))
    return artifacts, replace(
        first, pixels=inside, first=inside * 0, second=inside * 0, raw=raw, raw_first=raw * 0, raw_second=raw * 0
    )


def apart(task: Task, settings: Config) -> float:
    """How far one step of the code is from that of the loops: loss, images and ρ, relative."""
    method = DatasetDistillation(settings)
    artifacts, current = begun(task, method)
    starts = artifacts.fixed or method._drawn(task, artifacts.source, stream(2), 0)
    pixels, raw = (value.clone().requires_grad_() for value in (current.pixels, current.raw))
    real, labels = problem.images(task.real.counts.tolist()), task.labels().tolist()
    loss = reference.loss(task.network, starts, real, pixels, labels, (1 + raw.exp()).log(), settings.parts)
    gradients = torch.autograd.grad(loss, [pixels, raw])
    found = method.step(task, artifacts, current, stream(2))["loss"]
    pairs = [
        (found, loss),
        (current.pixels, pixels - settings.lr * gradients[0]),
        (current.raw, raw - settings.lr_rates * gradients[1]),
    ]
    return max(float(((ours - theirs).norm() / theirs.norm()).detach()) for ours, theirs in pairs)


@pytest.mark.parametrize("counts", [(5, 0, 1, 3), (2, 2, 2, 2), (0, 0, 4, 0), (1, 1, 0, 1)])
def test_a_step_is_the_graph_of_loops(counts: tuple[int, ...]) -> None:
    assert apart(problem.task(counts=counts, around=True), SETTINGS) < 1e-9


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1}, {"epochs": 1}, {"epochs": 1, "steps": 1}, {"nets": 2}, {"initialisation": "fixed"},
        {"networks": {"name": "fresh"}}, {"networks": {"name": "perturb", "radius": {"relative": 0.3}}},
        {"networks": "fresh", "initialisation": "fixed", "nets": 2},
    ],
)  # fmt: skip
def test_every_switch_is_that_of_the_loops(changes: dict[str, Any]) -> None:
    around = changes.get("networks") not in ("fresh", {"name": "fresh"})
    assert apart(problem.task(around=around), config(**changes)) < 1e-9


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_step_in_chunks_is_the_whole(chunk: int) -> None:
    assert apart(problem.task(chunk=chunk, around=True), config(steps=1)) < 1e-9


def test_the_gradients_are_those_of_finite_differences() -> None:
    """Of the images and of ρ, both from differences of the loss that the step reports."""
    task, method = problem.task(around=True), DatasetDistillation(config(lr=1.0, lr_rates=1.0))
    artifacts, current = begun(task, method)
    before = current.pixels.clone(), current.raw.clone()
    method.step(task, artifacts, current, stream(2))
    moved = before[0] - current.pixels, before[1] - current.raw
    places = [("pixels", (row, 0, row, 3)) for row in range(5)] + [("raw", (number,)) for number in range(4)]
    for name, place in places:
        ends = []
        for step in (1e-5, -1e-5):
            _, shifted = begun(task, method)
            getattr(shifted, name)[place] += step
            ends.append(float(method.step(task, artifacts, shifted, stream(2))["loss"]))
        difference = (ends[0] - ends[1]) / 2e-5
        assert difference == pytest.approx(float(moved[name == "raw"][place]), rel=1e-4, abs=1e-9)
        assert difference != 0


PRODUCTS, OUTER = adjoint._products, dd.outer_gradient


def treated_as_constant(runner: Any, weights: Any, images: Tensor, labels: Tensor, adjoint: Any) -> Any:
    """TESLA's: every weight vector on the way is a constant."""
    along, by_images, by_weights = PRODUCTS(runner, weights, images, labels, adjoint)
    return along, by_images, {name: 0 * value for name, value in by_weights.items()}


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "weights on the way are constants": (adjoint, "_products", treated_as_constant),
    "the sum of a batch": (
        adjoint, "_products", lambda runner, weights, images, labels, one: PRODUCTS(
            runner, weights, images, labels, {name: len(images) * value for name, value in one.items()}
        ),
    ),
    "the labels of other real images": (
        dd, "outer_gradient", lambda runner, images, *rest: OUTER(runner, images.flip(0), *rest),
    ),
    "softplus is left out of the derivative": (torch, "sigmoid", torch.ones_like),
    "parts in the other order": (
        dd.schedule, "parts", lambda labels, steps: PARTS(labels, steps)[::-1],
    ),
}  # fmt: skip
PARTS = dd.schedule.parts


@pytest.mark.parametrize("bug", MUTANTS)
def test_planted_bugs_are_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, mutant = MUTANTS[bug]
    monkeypatch.setattr(where, name, mutant)
    assert apart(problem.task(around=True), SETTINGS) > 1e-4


def test_an_empty_part_leaves_its_rate_where_it_is() -> None:
    task, method = problem.task(counts=(1, 1, 0, 1), around=True), DatasetDistillation(SETTINGS)
    artifacts, current = begun(task, method)
    before = current.raw.clone()
    method.step(task, artifacts, current, stream(2))
    assert (current.raw != before).tolist() == [True, False, True, False]


def test_a_fixed_start_is_the_same_at_every_step_and_a_random_one_is_not() -> None:
    def losses(**changes: Any) -> list[float]:
        task, method = problem.task(), DatasetDistillation(config(**changes))
        artifacts = method.prepare(task, stream(0))
        return [float(method.step(task, artifacts, begun(task, method)[1], stream(9, n))["loss"]) for n in range(2)]

    fixed, random = losses(initialisation="fixed"), losses()
    assert fixed[0] == fixed[1]
    assert random[0] != random[1]


def test_steps_lower_the_loss_and_the_set_replays_them() -> None:
    """On one network: what a step reports is what training by the set's images and rates reaches, bytes apart."""
    settings = config(optimiser="adam", lr=0.05, lr_rates=0.05, iterations=15)
    task = problem.task(around=True)
    found, history = condense(DatasetDistillation(settings), task, 15, Streams(0), log_every=1)
    losses = [values["loss"] for _, values in history]
    assert losses[-1] < losses[0]
    assert found.rates is not None
    assert found.rates.shape == (2, 2)
    network, real = problem.convnet(), problem.images()
    follow(network, found.as_images(), problem.NORMALISE)
    reached = F.cross_entropy(network(problem.NORMALISE(real.pixels)), real.labels)
    assert float(reached.detach()) == pytest.approx(losses[-1], rel=0.1)


def test_rates_start_where_they_should_and_halve_their_steps() -> None:
    task, method = problem.task(around=True), DatasetDistillation(config(rate=0.02))
    first = method.init(task, method.prepare(task, stream(0)), stream(1))
    assert F.softplus(first.raw).tolist() == pytest.approx([0.02] * 4, rel=1e-5)
    whole, half = (DatasetDistillation(config(milestones=milestones)) for milestones in ([], [0.5]))
    moves = []
    for one in (whole, half):
        artifacts, current = begun(task, one)
        before = [value.clone() for value in (current.pixels, current.raw)]
        current.steps.fill_(1)  # half of two iterations are done
        one.step(task, artifacts, current, stream(2))
        moves.append([before[0] - current.pixels, before[1] - current.raw])
    for full, halved in zip(*moves, strict=True):
        assert torch.allclose(full, 2 * halved, atol=1e-12)


def test_passes_count_the_way_forward_and_the_way_back() -> None:
    counts = torch.tensor([5, 0, 1, 3])
    assert DatasetDistillation(SETTINGS).passes(counts) == Passes(training=2 * (9 + 4 * 2 * 5))
    assert DatasetDistillation(config(nets=3, batch_real=1)).passes(counts) == Passes(training=2 * 3 * (3 + 4 * 2 * 5))


def test_networks_around_the_server_are_drawn_around_it() -> None:
    task = problem.task(around=True)
    method = DatasetDistillation(SETTINGS.model_copy(update={"networks": PerturbConfig(radius=Radius(absolute=1e-12))}))
    drawn = method._drawn(task, None, stream(2), 0)[0]
    assert all(torch.allclose(drawn[name], value) for name, value in state(problem.convnet()).items())
