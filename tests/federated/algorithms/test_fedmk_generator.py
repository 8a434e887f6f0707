"""FedMK's generator: its loss, what it learns, and that the judge stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.federated.algorithms import fedmk
from fedsim.federated.algorithms.fedmk import energy_distance
from fedsim.models.functional import flatten, state
from fedsim.models.generator import Generator
from fedsim.seeding import stream
from tests.federated.algorithms.test_fedmk import CPU, SMALL
from tests.reference import fedavg as reference
from tests.reference import meta_knowledge as loops


def distances(distance: Callable[..., Tensor]) -> list[tuple[float, float]]:
    """(the code's, the loops') for ragged classes; classes of one side only take no part."""
    pairs = []
    for pseudo_of, of in [([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 3]), ([1, 1], [1, 1, 1]), ([0, 3], [3, 3, 1])]:
        pseudo = torch.randn((len(pseudo_of), 5), dtype=torch.float64, generator=stream(1))
        given = torch.randn((len(of), 5), dtype=torch.float64, generator=stream(2))
        words = (pseudo, given, torch.tensor(pseudo_of), torch.tensor(of))
        pairs.append((float(distance(*words)), float(loops.energy_distance(*words))))
    return pairs


def test_the_energy_distance_is_the_loop_over_pairs() -> None:
    for ours, theirs in distances(energy_distance):
        assert ours == pytest.approx(theirs, rel=1e-9)


def test_the_energy_distance_is_least_for_the_same_distribution() -> None:
    labels = torch.zeros(200, dtype=torch.int64)
    given, same, moved = (
        torch.randn((200, 3), generator=stream(seed)) + shift for seed, shift in ((0, 0), (1, 0), (1, 2))
    )
    one_point = given.mean(0, keepdim=True).expand(200, -1)
    found = [float(energy_distance(one, given, labels, labels)) for one in (same, moved, one_point)]
    assert abs(found[0]) < 0.05
    assert min(found[1:]) > 0.2


def test_the_generators_loss_is_written_out_in_double() -> None:
    network = reference.setting().fresh(stream(0)).double()
    pseudo, given = (torch.randn((5, 1, 6, 6), dtype=torch.float64, generator=stream(seed)) for seed in (1, 2))
    labels = torch.tensor([0, 0, 1, 3, 3])
    ours = fedmk.generator_loss(network, pseudo, given, labels, 0.3)
    expected = 0.3 * loops.classified(network(pseudo), labels)
    expected = expected + loops.energy_distance(pseudo.flatten(1), given.flatten(1), labels, labels)
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)


def learned(weights_move: bool = False) -> tuple[float, float, bool]:
    """Loss of the first step and of the last, and whether the judge is as it was."""
    here = reference.setting()
    images, judge = reference.CLIENTS[0], here.fresh(stream(0))
    generator = Generator.build(SMALL, (1, 6, 6), 4, (0.3,), (0.4,), stream(1), CPU)
    kept, uploaded, ends = flatten(state(judge)), here.normalise(images.pixels), []
    for steps in (1, 60):
        config = SMALL.model_copy(update={"steps": steps, "lr": 0.01})
        ends.append(fedmk.train_generator(generator, judge, uploaded, images.labels, config, stream(2)))
    return (
        ends[0],
        ends[1],
        torch.equal(flatten(state(judge)), kept) and all(weight.grad is None for weight in judge.parameters()),
    )


def test_the_generator_learns_and_leaves_the_judge_alone() -> None:
    first, last, untouched = learned()
    assert last < first
    assert untouched


def test_a_gradient_into_the_servers_model_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fedmk.generator_loss

    def leaking(judge: Any, *words: Any) -> Tensor:
        return plain(judge.requires_grad_(True), *words)

    monkeypatch.setattr(fedmk, "generator_loss", leaking)
    assert not learned()[2]
