"""DP-SGD: its equation, its reductions, and what it pays."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import PRVAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.data.augment import Config as DSAConfig
from fedsim.models.network import build_network
from fedsim.privacy import dp_sgd as module
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.dp_sgd import DPSGD, Config, check, summed
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism, clipped
from fedsim.privacy.noise import SystemNoise
from fedsim.privacy.premises import assumptions
from fedsim.seeding import stream
from fedsim.training.train import TrainConfig
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference.dp_sgd import BOUND, TRAINING, Silent, agreed, literal, noise, trained, vector

LR = TRAINING.lr


@pytest.mark.parametrize(("clip", "rate", "pieces"), [(0.3, 0.5, 1), (0.3, 0.5, 8), (1e3, 1.0, 8)])
def test_steps_are_the_equation(monkeypatch, clip, rate, pieces):
    network, images = loops.convnet(), loops.images((4, 0, 1, 3))
    size = sum(value.numel() for value in network.parameters())
    monkeypatch.setattr(module, "MOST", 4 * pieces * size)  # on a CPU a quarter is used: `pieces` records together
    literal(network, images, noise(), steps=3, rate=rate, clip=clip, sigma=0.7, divisor=rate * BOUND, lr=LR)
    found = trained(agreed(clip=clip, rate=rate), noise())
    assert float((found - vector(network)).abs().max()) <= 1e-8 * max(1.0, clip)


def summed_by_hand(rows: Tensor, mechanism: Mechanism) -> list[int]:
    """One record and one coordinate at a time; a record that is not finite counts as zero."""
    total = [0] * rows.shape[1]
    for row in rows.double().tolist():
        if all(map(math.isfinite, row)):
            factor = min(1.0, mechanism.clip * (1 - 2.0**-40) / math.hypot(*row))
            total = [
                there + math.trunc(entry * factor / mechanism.grid) for there, entry in zip(total, row, strict=True)
            ]
    return total


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("width", [5, 400])
def test_blocks_of_records_add_up_to_all_of_them(monkeypatch, together, width):
    """Seven records: short and long ones and one that is not finite; seven blocks, or two and one that is not full."""
    lengths = torch.tensor([0.01, 0.5, 3.0, 40.0, 1e6, 1.0, 2.0])
    rows = torch.randn((7, width), generator=stream(3)) * lengths[:, None]
    rows[5, 2] = float("nan")
    mechanism = agreed(clip=1.5).mechanism
    whole = summed(rows, mechanism)
    looked: list[int] = []

    def watched(part: Tensor, clip: float) -> Tensor:
        looked.append(len(part))
        return clipped(part, clip)

    monkeypatch.setattr(module, "clipped", watched)
    assert torch.equal(summed(rows, mechanism), whole)
    assert looked == [7]  # at this width all of them are one block unless told otherwise
    looked.clear()
    monkeypatch.setattr(module, "CACHED", together * width)
    assert torch.equal(summed(rows, mechanism), whole)
    assert looked == {1: [1] * 7, 3: [3, 3, 1]}[together]
    apart = [abs(one - other) for one, other in zip(whole.tolist(), summed_by_hand(rows, mechanism), strict=True)]
    assert max(apart) <= len(rows)  # a coordinate may round across a step of the grid, once for each record
    assert int(whole.abs().max()) > 1e6


def test_without_clipping_and_noise_it_is_sgd_on_the_poisson_batches():
    network, images, source = loops.convnet(), loops.images((4, 0, 1, 3)), noise()
    training = TRAINING.model_copy(update={"momentum": 0.9, "weight_decay": 0.01})
    sgd = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        batch = images.take(torch.nonzero(source.chosen(len(images), 0.5)).flatten())
        sgd.zero_grad()
        (F.cross_entropy(network(loops.NORMALISE(batch.pixels)), batch.labels, reduction="sum") / 10).backward()
        sgd.step()
        source.normal(sum(value.numel() for value in network.parameters()))
    found = trained(agreed(clip=1e4, sigma=1e-12), noise(), training=training)
    assert float((found - vector(network)).abs().max()) <= 1e-5


def test_its_sum_is_that_of_opacus_own_optimiser():
    images, found, expected = loops.images((4, 0, 1, 3)), loops.convnet(), loops.convnet()
    sgd = torch.optim.SGD(expected.parameters(), lr=LR)
    theirs = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=0.3, expected_batch_size=BOUND)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = F.cross_entropy(
            GradSampleModule(expected, loss_reduction="sum")(loops.NORMALISE(images.pixels)), images.labels,
            reduction="sum",
        )  # fmt: skip
        loss.backward()
    theirs.step()
    agreed(rate=1.0, steps=1).train(found, images, loops.NORMALISE, TRAINING, noise(kind=Silent))
    assert float((vector(found) - vector(expected)).abs().max()) <= 1e-6


MODELS = {
    "convnet": ({"norm": "instance"}, {"norm": "group"}, {"norm": "layer"}, {"norm": "none"}),
    "mlp": ({},), "lenet": ({},), "vit": ({"width": 8, "depth": 1, "heads": 2},),
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), [(name, one) for name, every in MODELS.items() for one in every])
def test_gradients_of_single_records_add_up_to_that_of_the_batch(name, settings):
    architecture = resolve("model", name)
    small = {"depth": 2, "width": 4} if name == "convnet" else {}
    config = architecture.Config(**small, **settings)
    network = build_network(architecture, config, (1, 16, 16), 4, stream(0))
    images = loops.images((2, 0, 1, 2), side=16)
    F.cross_entropy(network(loops.NORMALISE(images.pixels)), images.labels, reduction="sum").backward()
    expected = torch.cat([value.grad.reshape(-1) for value in network.parameters() if value.grad is not None])
    before = vector(network)
    network.zero_grad()
    agreed(rate=1.0, steps=1, clip=1e4).train(network, images, loops.NORMALISE, TRAINING, noise(kind=Silent))
    moved = (before - vector(network)) * BOUND / LR
    assert float((moved - expected).norm() / expected.norm()) <= 1e-3


# --- what is paid ---


def test_epsilon_is_opacus_own_for_the_same_steps():
    one = DPSGD(Config(public_bound=BOUND, sigma=1.0, rate=0.05, noise="seeded"), 1000)
    theirs = PRVAccountant()
    theirs.history = [(1.0, 0.05, 1000)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert one.planned() == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)
    assert one.planned() == pytest.approx(11.00, abs=0.01)


@pytest.mark.parametrize(("settings", "steps"), [({}, 10), ({"steps": 7}, 7), ({"rate": 1.0}, 5), ({"rate": 0.3}, 17)])
def test_local_steps_are_those_asked_for_or_epochs_over_the_rate(settings, steps):
    config = Config(**({"public_bound": BOUND, "sigma": 1.0, "rate": 0.5} | settings))
    assert config.local_steps(TrainConfig(epochs=5)) == steps


def release(folder: Path, source: Any = None) -> tuple[Tensor, Ledger]:
    ledger = Ledger(folder, 1e-5, "add_remove")
    found = agreed().weights(
        loops.convnet(), loops.images(), loops.NORMALISE, TRAINING, "round 1", source or SystemNoise(), ledger
    )
    return torch.cat([value.reshape(-1) for value in found.values()]), ledger


class KilledError(BaseException):
    """The process ends here."""


def test_a_round_is_charged_for_its_steps_once_and_read_again(tmp_path):
    first, ledger = release(tmp_path)
    again, _ = release(tmp_path)
    assert torch.equal(first, again)
    assert [(one.number, one.kappa, one.rate) for one in ledger.charges] == [(3, 0.0, 0.5)]
    said = {one.name: one.status for one in assumptions(ledger, BOUND, 9)}
    assert said["nothing but the noisy sums"] == said["participation of records"] == "enforced"


def test_killed_between_charge_and_store_the_steps_are_paid_again(tmp_path, monkeypatch):
    def dying(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as planted:
        planted.setattr(ledgers, "save_tensors", dying)
        with pytest.raises(KilledError):
            release(tmp_path, noise())
    assert [one.number for one in Ledger(tmp_path, 1e-5, "add_remove").charges] == [3]
    found, ledger = release(tmp_path, noise())
    assert [one.number for one in ledger.charges] == [3, 3]
    assert torch.equal(found, release(tmp_path / "whole", noise())[0])


def test_augmentation_is_refused():
    with pytest.raises(UserError, match=r"^algorithm\.local: got augment"):
        check(loops.convnet(), TRAINING.model_copy(update={"augment": DSAConfig()}))
