"""Dataset Condensation: two steps against the paper's loops over classes, images and output units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.config import validate
from fedsim.distill import class_gradients
from fedsim.distill.base import Task
from fedsim.distill.drive import condense
from fedsim.distill.gradient import dc
from fedsim.distill.gradient.dc import Config, GradientMatching, State
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.execution import Execution, Runner, has_bfloat16
from fedsim.models.network import build_network
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dc as reference
from tests.reference import dm as problem
from tests.reference.dc import config, start

DISTANCES = {"cosine": reference.cosine, "mse": reference.squared}


def expected_step(task: Task, settings: Config, current: State) -> tuple[float, Tensor, Tensor]:
    """Loss per class, images and weights of a first step and the training after it, by the reference's loops."""
    rng = stream(2)
    torch.randint(2**62, (), generator=rng)  # the seed of the views
    params = GradientMatching(settings).source.draw(task, None, rng, 0).params
    pixels = current.pixels.clone().requires_grad_()
    real = problem.images(task.real.counts.tolist())
    distance = DISTANCES[settings.metric]
    loss = reference.loss(task.network, params, real, pixels, task.labels(), distance)
    (gradient,) = torch.autograd.grad(loss, pixels)
    velocity = settings.momentum * current.first + gradient
    moved = (current.pixels - settings.lr * velocity).clamp(-0.75, 1.75)
    after = reference.trained(task.network, params, moved, task.labels(), settings.inner or 0, settings.lr_net)
    return float(loss.detach()) / len(task.present), moved, torch.cat([after[name].flatten() for name in sorted(after)])


def agrees(task: Task, settings: Config) -> bool:
    """Whether one step of the code is one step of the loops."""
    method = GradientMatching(settings)
    current = start(task, method)
    loss, pixels, weights = expected_step(task, settings, current)
    metrics = method.step(task, None, current, stream(2))
    return (
        float(metrics["loss"]) == pytest.approx(loss, rel=1e-9)
        and torch.allclose(current.pixels, pixels, rtol=0, atol=1e-6)
        and torch.allclose(current.weights, weights, rtol=0, atol=1e-7)
    )


@pytest.mark.parametrize("counts", [(5, 0, 1, 3), (2, 2, 2, 2), (0, 0, 4, 0), (1, 7, 0, 2)])
@pytest.mark.parametrize("batching", ["loop", "vmap"])
def test_a_step_is_the_papers_loop(counts: tuple[int, ...], batching: Any) -> None:
    assert agrees(problem.task(counts=counts, around=True), config(class_batching=batching))


def test_a_step_on_squared_distances_is_the_loop() -> None:
    assert agrees(problem.task(around=True), config(metric="mse"))


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_a_step_in_chunks_is_the_papers_loop(chunk: int) -> None:
    assert agrees(problem.task(chunk=chunk, around=True), config())


def test_vmap_is_the_loop_in_double_precision() -> None:
    ends = []
    for batching in ("loop", "vmap"):
        task = problem.task(around=True)
        method = GradientMatching(config(class_batching=batching))
        state = start(task, method)
        weights = torch.randn(state.weights.shape, dtype=torch.float64, generator=stream(4))
        dc.put(task.runner, weights)
        (gradient,), losses = method._match(task, replace(state, pixels=state.pixels.double()), Streams(0), stream(3))
        ends.append(torch.cat([gradient.flatten(), losses]))
    assert float((ends[0] - ends[1]).norm() / ends[0].norm()) < 1e-9


def one_minus_less(ours: Tensor, theirs: Tensor) -> Tensor:
    return -(ours * theirs).sum(1).div(ours.norm(dim=1) * theirs.norm(dim=1) + dc.EPSILON).sum()


def over_the_whole_layer(ours: Tensor, theirs: Tensor) -> Tensor:
    return 1 - (ours * theirs).sum() / (ours.norm() * theirs.norm() + dc.EPSILON)


def without_epsilon(ours: Tensor, theirs: Tensor) -> Tensor:
    return (1 - torch.nn.functional.cosine_similarity(ours, theirs, dim=1)).sum()


def columns(ours: Tensor, theirs: Tensor) -> Tensor:
    return one_minus_less(ours.T, theirs.T) + ours.shape[1]


def with_biases(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    return torch.stack(
        [
            dc.cosine_distance(ours[name].reshape(len(one), -1), one.reshape(len(one), -1))
            for name, one in theirs.items()
        ]
    ).sum()


def summed(runner: Runner, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {name: one * len(images) for name, one in ORIGINAL(runner, images, labels).items()}


def next_class(runner: Runner, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return ORIGINAL(runner, images, (labels + 1) % 4)


ORIGINAL = class_gradients.first_order


@pytest.mark.parametrize(
    ("name", "mutant", "settings"),
    [
        ("cosine_distance", one_minus_less, {}),
        ("cosine_distance", over_the_whole_layer, {}),
        ("cosine_distance", without_epsilon, {}),
        ("cosine_distance", columns, {}),
        ("layerwise_cosine", with_biases, {}),
        ("first_order", summed, {"metric": "mse"}),
        ("first_order", next_class, {}),
    ],
)
def test_planted_bugs_are_caught(
    name: str, mutant: Callable[..., Any], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = problem.task(around=True)
    task.budget[3] = 0  # real images, but nothing asked of them
    assert agrees(task, config(**settings))
    monkeypatch.setattr(class_gradients if name == "first_order" else dc, name, mutant)
    assert not agrees(task, config(**settings))


def test_training_the_network_on_stale_images_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = dc.descend

    def late(images: State, *words: Any, **settings: Any) -> None:
        before = images.pixels
        images.pixels = before.clone()
        original(images, *words, **settings)
        LATER.append((before, images.pixels))
        images.pixels = before

    LATER: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(dc, "descend", late)
    assert not agrees(problem.task(around=True), config())
    assert LATER


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor does not compute in bfloat16")
def test_bfloat16_takes_nearly_the_same_step() -> None:
    ends = []
    for execution in (Execution(), Execution(precision="bfloat16")):
        network = build_network(ConvNet, ConvNetConfig(depth=1, width=4), (1, 6, 6), 4, stream(0))
        task = problem.task(network, around=True)
        task = replace(task, runner=Runner(network, execution).frozen())
        method = GradientMatching(config())
        current = start(task, method)
        (gradient,), losses = method._match(task, current, Streams(0), stream(3))
        assert gradient.dtype == losses.dtype == torch.float32
        ends.append(gradient)
    error = float((ends[1] - ends[0]).norm() / ends[0].norm())
    assert 1e-6 < error < 0.1


# --- what is refused ---


def test_a_batch_norm_is_refused() -> None:
    with pytest.raises(UserError, match=r"^method dc matches .* batch norm .* choose another model.norm$"):
        condense(GradientMatching(config()), problem.task(problem.convnet(norm="batch")), 1, Streams(0))


def test_owners_are_not_condensed_together() -> None:
    task = problem.task(counts=(2, 1))
    both = replace(task, budget=task.budget.repeat(2))
    with pytest.raises(UserError, match="owners cannot share it"):
        GradientMatching(config()).prepare(both, stream(0))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"networks": {"name": "pool"}}, "networks: .*these are trained; valid: fresh, perturb"),
        ({"outer": 0}, "outer: got 0"),
        ({"metric": "cos"}, "metric: got 'cos'"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        validate(Config, settings)
    assert "\n" not in str(caught.value)
