"""DP-SGD: its equation, its reductions, what it pays, and the bugs of released code planted and noticed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import PRVAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy.stats import chi2
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.images import Images
from fedsim.models.network import build_network
from fedsim.privacy import dp_sgd as module
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.dp_sgd import DPSGD, Config, NoisySteps, check, summed
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise, SystemNoise
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
    monkeypatch.setattr(module, "MOST", pieces * size)
    literal(network, images, noise(), steps=3, rate=rate, clip=clip, sigma=0.7, divisor=rate * BOUND, lr=LR)
    found = trained(agreed(clip=clip, rate=rate), noise())
    assert float((found - vector(network)).abs().max()) <= 1e-8 * max(1.0, clip)


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


# --- the checks, and what they notice ---


def within(neighbours: int = 25) -> bool:
    """Whether one record more moves the released sum by at most C: the weights by at most ηC/L."""
    one = agreed(rate=1.0, steps=1)
    for index in range(neighbours):
        images, vectors = loops.images((2, 1, 1, 1), seed=index), []
        for data in (images, images.take(torch.arange(1, len(images))), images.take(torch.arange(0))):
            network = loops.convnet(seed=index)
            one.train(network, data, loops.NORMALISE, TRAINING, noise(kind=Silent))
            vectors.append(vector(network) * one.divisor / LR)
        alone = images.take(torch.arange(1))
        network = loops.convnet(seed=index)
        one.train(network, alone, loops.NORMALISE, TRAINING, noise(kind=Silent))
        moved = [vectors[0] - vectors[1], vector(network) * one.divisor / LR - vectors[2]]
        if any(float(step.norm()) > 0.3 * (1 + 1e-9) for step in moved):
            return False
    return True


def deviates(**settings: Any) -> float:
    """p of the noise's variance being (σC)², by the steps of a client without records."""
    one = agreed(steps=1, **settings)
    found = [trained(one, noise(draw), (0, 0, 0, 0)) - vector(loops.convnet()) for draw in range(30)]
    scaled = torch.cat(found) * one.divisor / LR / (one.sigma * one.config.clip)
    below = float(chi2.cdf(float(scaled.square().sum()), scaled.numel()))
    return 2 * min(below, 1 - below)


def poisson(one: DPSGD, source: SeededNoise, steps: int = 400) -> float:
    """p of the batch sizes being binomial."""
    images, rate = loops.images((10, 10, 10, 10)), one.config.rate
    sizes = torch.tensor([float(len(one._batch(images, source))) for _ in range(steps)])
    below = float(chi2.cdf(float(((sizes - 40 * rate) ** 2).sum() / (40 * rate * (1 - rate))), steps))
    return 2 * min(below, 1 - below)


def test_the_library_itself_passes_these_checks():
    assert within()
    assert deviates() > 1e-7
    assert poisson(agreed(rate=0.25), noise()) > 1e-7


def test_dividing_by_the_drawn_batch_is_noticed(monkeypatch):
    own = NoisySteps.clip_and_accumulate

    def counting(self: NoisySteps) -> None:  # T2
        own(self)
        self.expected_batch_size = BOUND / 5 * max(1, len(self.grad_samples[0]))

    monkeypatch.setattr(NoisySteps, "clip_and_accumulate", counting)
    assert not within()


def test_noise_that_forgets_the_clipping_norm_is_noticed(monkeypatch):
    monkeypatch.setattr(Mechanism, "deviation", property(lambda self: self.sigma))  # T3
    assert deviates() < 1e-7


def test_clipping_the_sum_is_noticed(monkeypatch):
    def late(rows: Tensor, mechanism: Mechanism) -> Tensor:  # T4
        return len(rows) * summed(rows.mean(0, keepdim=True) * 3, mechanism) if len(rows) else summed(rows, mechanism)

    monkeypatch.setattr(module, "summed", late)
    assert not within()


def test_layers_clipped_apart_are_noticed(monkeypatch):
    own = module.clipped
    apart = lambda rows, clip: torch.cat([own(part, clip) for part in rows.split(40, 1)], 1)  # noqa: E731
    monkeypatch.setattr(module, "clipped", apart)
    assert not within()


def test_batch_norm_is_refused_twice(monkeypatch):
    network = loops.convnet("batch")  # T6
    with pytest.raises(UserError, match=r"^model\.norm: got batch; .*valid: instance, group, layer, none$"):
        check(network, TRAINING)
    with pytest.raises(NotImplementedError):
        agreed().train(network, loops.images(), loops.NORMALISE, TRAINING, noise())


class Shuffled(SeededNoise):
    """Every record once in an epoch of four steps."""

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__(rng)
        self.left: list[Tensor] = []

    def chosen(self, number: int, rate: float) -> Tensor:
        self.left = self.left or list(torch.randperm(number, generator=self._rng).chunk(round(1 / rate)))
        return torch.zeros(number, dtype=torch.bool).index_fill(0, self.left.pop(), True)


def test_shuffled_epochs_in_the_place_of_coins_are_noticed():
    assert poisson(agreed(rate=0.25), noise(kind=Shuffled)) < 1e-7  # T10


class Counted(SeededNoise):
    """How often noise is drawn."""

    draws = 0

    def normal(self, *shape: int) -> Tensor:
        self.draws += 1
        return super().normal(*shape)


def test_an_empty_batch_is_a_step_of_noise_like_any_other(monkeypatch):
    def draws() -> int:
        source = Counted(stream(0))
        trained(agreed(steps=5), source, (0, 0, 0, 0))
        return source.draws

    assert draws() == 5
    own = DPSGD._step

    def skipping(self: DPSGD, model: Any, optimiser: Any, batch: Images, normalise: Any) -> None:  # T17
        if len(batch):
            own(self, model, optimiser, batch, normalise)

    monkeypatch.setattr(DPSGD, "_step", skipping)
    assert draws() < 5


def test_a_gradient_that_is_not_finite_counts_as_none():
    rows = torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 0.0]])
    mechanism = Mechanism(1.0, 0.0, 1.0)
    assert torch.equal(summed(rows, mechanism), summed(rows[:1], mechanism))


class Single(SeededNoise):
    """Noise in low precision."""

    def normal(self, *shape: int) -> Tensor:
        return super().normal(*shape).float()


def test_noise_in_low_precision_is_refused():
    with pytest.raises(UserError, match=r"noise: got torch\.float32"):  # T19
        trained(agreed(), noise(kind=Single))


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
