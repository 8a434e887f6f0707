"""The checks on DP-SGD, and the bugs of released code that they notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from fedsim.data.images import Images
from fedsim.privacy import dp_sgd as module
from fedsim.privacy.dp_sgd import DPSGD, NoisySteps, check, summed
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference.dp_sgd import BOUND, TRAINING, Silent, agreed, noise, trained, vector

LR = TRAINING.lr


def within(neighbours: int = 12) -> bool:
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
