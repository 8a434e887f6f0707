"""Gradients of a distance between class gradients: class by class, in one pass, and as one compiled graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.distill.class_gradients import (
    Batch,
    Gradients,
    distance_gradients,
    faster,
    first_order,
    one_by_one,
    together,
)
from fedsim.distill.gradient.dc import layerwise_cosine, squared_distance
from fedsim.models.convnet import Config, ConvNet
from fedsim.models.execution import Execution, Runner, has_compiler
from fedsim.models.network import build_network
from fedsim.seeding import stream

SHAPE, CLASSES = (1, 8, 8), 3
compiler = pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler")


def runner(**execution: Any) -> Runner:
    network = build_network(ConvNet, Config(depth=1, width=2), SHAPE, CLASSES, stream(0)).double()
    return Runner(network, Execution(**execution))


def batches(sizes: tuple[int, ...], *, soft: bool = False) -> list[Batch]:
    """A batch of every class, with its labels or shares of classes."""
    found = []
    for label, size in enumerate(sizes):
        rng = stream(1, label)
        images = torch.randn(size, *SHAPE, generator=rng, dtype=torch.float64)
        shares = torch.randn(size, CLASSES, generator=rng, dtype=torch.float64).softmax(1)
        found.append((images, shares if soft else torch.full((size,), label)))
    return found


def targets(one: Runner, ours: list[Batch]) -> list[Gradients]:
    return [first_order(one, torch.roll(images, 1, -1) * 0.7, labels) for images, labels in ours]


def flat(found: Any) -> list[Tensor]:
    return [one for gradients, loss in found for one in (*gradients, loss)]


def literal(one: Runner, ours: list[Batch], theirs: list[Gradients], distance: Any) -> list[Tensor]:
    """Double backward through the network itself, whole batches."""
    found = []
    for (images, labels), target in zip(ours, theirs, strict=True):
        leaves = [part.clone().requires_grad_() for part in (images, labels) if part.is_floating_point()]
        logits = one.network(leaves[0]).log_softmax(1)
        shares = leaves[1] if len(leaves) > 1 else torch.nn.functional.one_hot(labels, CLASSES).double()
        weights = dict(one.network.named_parameters())
        entropy = -(shares * logits).sum() / len(images)
        own = torch.autograd.grad(entropy, list(weights.values()), create_graph=True)
        loss = distance(dict(zip(weights, own, strict=True)), target)
        found += [*torch.autograd.grad(loss, leaves), loss.detach()]
    return found


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("distance", [layerwise_cosine, squared_distance])
@pytest.mark.parametrize("ways", [one_by_one, together])
def test_both_ways_are_the_double_backward(ways: Any, distance: Any, soft: bool) -> None:
    ours, one = batches((2, 5, 3), soft=soft), runner(chunk=2)
    theirs = targets(one, ours)
    expected = literal(one, ours, theirs, distance)
    for mine, true in zip(flat(ways(one, ours, theirs, distance)), expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[compiler, pytest.mark.slow])])
def test_the_compiled_graph_is_the_double_backward(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several batches, under weights that change after the trace, beside one that is too small for the graph.

    C++ is made of such a graph in the slow test.
    """
    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda graph, **how: own(graph, **how | {"backend": backend}))
    one = runner(compile=True, channels_last=True)
    for seed in range(2):
        one.network.reset(stream(seed))
        ours = batches((3, 3, 2), soft=True)
        theirs = targets(runner(), ours)
        expected = literal(one, ours, theirs, layerwise_cosine)
        for mine, true in zip(flat(distance_gradients(one, ours, theirs, layerwise_cosine)), expected, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)
    assert len(one._traced) == 1


def test_a_graph_is_traced_for_each_distance_size_and_kind_of_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    one = runner(compile=True)
    cases = [
        (batches((2, 2, 2)), layerwise_cosine, 1),
        (batches((2, 2, 2)), squared_distance, 2),
        (batches((2, 2, 2), soft=True), layerwise_cosine, 3),
        (batches((1, 1, 1)), layerwise_cosine, 4),
        (batches((2, 1, 2)), layerwise_cosine, 4),  # both sizes were there before
    ]
    for ours, distance, traced in cases:
        theirs = targets(runner(), ours)
        expected = literal(one, ours, theirs, distance)
        for mine, true in zip(flat(distance_gradients(one, ours, theirs, distance)), expected, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)
        assert len(one._traced) == traced


def test_the_graph_takes_gradients_of_any_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real class smaller than a piece runs as written and comes in another format than a compiled one."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    network = build_network(ConvNet, Config(depth=1, width=2), (3, 8, 8), CLASSES, stream(0)).double()
    one = Runner(network, Execution(compile=True))
    rng = stream(1)
    ours = [(torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64), torch.full((2,), c)) for c in range(3)]
    theirs = targets(Runner(network, Execution()), ours)
    mixed = [
        {
            name: gradient.contiguous(memory_format=torch.channels_last) if place and gradient.ndim == 4 else gradient
            for name, gradient in target.items()
        }
        for place, target in enumerate(theirs)
    ]
    expected = literal(one, ours, theirs, layerwise_cosine)
    for mine, true in zip(flat(distance_gradients(one, ours, mixed, layerwise_cosine)), expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("execution", "side", "expected"),
    [
        (Execution(), 8, "vmap"),
        (Execution(), 28, "loop"),
        (Execution(compile=True), 8, "loop"),
        (Execution(compile=True), 32, "loop"),
    ],
)
def test_the_faster_way(execution: Execution, side: int, expected: str) -> None:
    images = torch.zeros(2, 1, side, side)
    assert faster(Runner(runner().network, execution), [(images, torch.zeros(2))]) == expected
