"""The matching problem: its value is the literal one, its gradient that of finite differences, rows stand alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attacks.attempts import Minimum
from attacks.gradient_matching import Matching, Observed, cosine, squared, squared_where_sent
from fedsim.data.transforms import Normalise
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.functional import state
from fedsim.models.lenet import LeNetDLG
from fedsim.models.network import build_network
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.attacks.leaks import CLASSES, PLAIN, SHAPE, SIGMOID, leak
from tests.reference.gradient_leakage import matching_loss

NETWORKS = [(LeNetDLG, SIGMOID), (ConvNet, ConvNetConfig(depth=1, width=4, activation="sigmoid"))]


def test_of_a_pruned_gradient_what_was_sent_is_compared():
    ours = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[5.0], [6.0]])}
    theirs = {"a": torch.tensor([[0.0, 5.0], [1.0, 0.0]]), "b": torch.tensor([[0.0], [2.0]])}
    assert squared_where_sent(ours, theirs).tolist() == [9, 4 + 16]
    sent = {name: value + 10 for name, value in theirs.items()}
    assert torch.equal(squared_where_sent(ours, sent), squared(ours, sent))


def test_whoever_watches_is_told_of_every_gradient():
    told: list[int] = []
    matching = Matching(replace(leak(3).observed, tell=told.append), None)
    start = matching.start(1, stream(5))
    for rows in ([0, 2], [1]):
        matching(torch.tensor(rows), torch.stack([start(index, 0) for index in rows]))
    assert told == [2, 1]


@pytest.mark.parametrize(("architecture", "config"), NETWORKS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("distance", [squared, cosine])
def test_value_is_the_literal_one_and_gradient_that_of_finite_differences(architecture, config, own, distance):
    made = leak(3, 2, own, architecture, config, dtype=torch.float64)
    matching = Matching(made.observed, None, distance, variation=0.3)
    start = matching.start(1, stream(5))
    points = torch.stack([start(index, 0) for index in range(3)])
    everyone = torch.arange(3)
    values, gradients = matching(everyone, points)
    images, logits, _ = matching.split(points)
    for index, network in enumerate(made.networks):
        target = {name: value[index] for name, value in made.observed.targets.items()}
        shares = logits[index].softmax(-1)
        literal = matching_loss(network, images[index], shares, target, distance is cosine, 0.3)
        torch.testing.assert_close(values[index], literal.detach(), rtol=1e-9, atol=1e-12)
    for direction in torch.randn(3, *points.shape, generator=stream(6), dtype=torch.float64):
        ahead, behind = (matching(everyone, points + sign * 1e-6 * direction)[0] for sign in (1, -1))
        torch.testing.assert_close((ahead - behind) / 2e-6, (gradients * direction).sum(1), rtol=1e-5, atol=1e-6)


def test_a_row_that_is_not_finite_leaves_the_others_as_they_are():
    made = leak(3)
    matching = Matching(made.observed, made.labels)
    points = torch.stack([matching.start(1, stream(5))(index, 0) for index in range(3)])
    values, gradients = matching(torch.arange(3), points)
    broken = points.clone()
    broken[1] = float("nan")
    others = [0, 2]
    again, gradients_again = matching(torch.arange(3), broken)
    assert again[1].isnan()
    assert torch.equal(again[others], values[others])
    assert torch.equal(gradients_again[others], gradients[others])


def test_truth_is_the_minimum_in_units_of_the_network_input():
    normalise = Normalise((0.4,), (0.2,))
    made = leak(2, 2, normalise=normalise)
    matching = Matching(made.observed, made.labels)
    inputs = normalise.inputs(made.pixels.flatten(0, 1)).reshape(2, -1)
    assert matching.score(torch.arange(2), inputs).max() < 1e-10
    found = matching.reconstruction(Minimum(inputs, torch.zeros(2), torch.zeros(2).long(), torch.zeros(2).long()))
    torch.testing.assert_close(found.images, made.pixels)
    boxed = matching.project(torch.full_like(inputs, 50.0))
    torch.testing.assert_close(matching.split(boxed)[0], torch.full_like(made.pixels, 3.0))  # (1 − 0.4) / 0.2


def test_starts_do_not_depend_on_what_else_runs():
    made = leak(4)
    few = replace(made.observed, targets={name: value[:2] for name, value in made.observed.targets.items()})
    start = Matching(few, None).start(2, stream(9))
    assert torch.equal(start(1, 1), start(1, 1))
    assert not torch.equal(start(1, 0), start(1, 1))


def test_what_does_not_fit_is_refused():
    made = leak(2)
    seen = made.observed
    with pytest.raises(UserError, match=r"missing or unknown head\.bias"):
        replace(seen, targets={name: value for name, value in seen.targets.items() if name != "head.bias"})
    with pytest.raises(UserError, match="labels: got shape"):
        Matching(seen, torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="2 of them stacked"):
        replace(seen, params={name: torch.stack([value] * 3) for name, value in seen.params.items()})
    with pytest.raises(UserError, match="records: got 0"):
        replace(seen, records=0)
    network = build_network(ConvNet, ConvNetConfig(depth=1, width=4, norm="batch"), SHAPE, CLASSES, stream(0))
    targets = {name: torch.zeros(1, *weight.shape) for name, weight in network.named_parameters()}
    with pytest.raises(UserError, match="batch norm in training mode"):
        Observed(network, state(network), targets, SHAPE, CLASSES, PLAIN)
    normed = Observed(network.eval(), state(network), targets, SHAPE, CLASSES, PLAIN)
    assert Matching(normed, torch.zeros(1, 1, dtype=torch.int64)).score(torch.zeros(1).long(), torch.zeros(1, 64)) > 0


def test_what_an_attack_is_handed_has_no_room_for_the_truth():
    known = {"network", "params", "targets", "image_shape", "num_classes", "normalise", "records"}
    assert set(Observed.__dataclass_fields__) == known | {"tell"}  # which is told, and answers nothing
