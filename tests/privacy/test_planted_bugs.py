"""Bugs of released code, planted into the release: the checks of test_mechanism.py notice each one."""

from __future__ import annotations

import torch

from fedsim.privacy import mechanism as module
from fedsim.privacy.mechanism import Mechanism, NoisySum, release
from fedsim.privacy.noise import SeededNoise
from fedsim.seeding import stream
from tests.privacy.test_mechanism import MECHANISM, NOTHING, Silent, by_noise, deviates, equals, held, noise
from tests.reference.mechanism import CENTRE, CLASSES, WIDTH, Records, by_the_library, neighbours, records


def within(found) -> bool:
    """Whether neighbours stay within the stated sensitivity; the first who do not decide."""
    return all(added <= 1 and replaced <= 1 for added, replaced in neighbours(found, 200))


def test_the_library_itself_passes_these_checks():
    assert within(by_the_library)
    assert deviates(by_noise(noise(), MECHANISM)) > 1e-7


def test_dividing_by_the_size_of_a_class_is_noticed():
    def mean(data: Records, mechanism: Mechanism, source: SeededNoise) -> NoisySum:  # T2
        sizes = torch.bincount(data.labels, minlength=CLASSES).clamp(min=1).unsqueeze(1)
        found = by_the_library(data, mechanism, source)
        return NoisySum(found.values / sizes, found.kappa, found.rate, found.simulated)

    assert not within(mean)  # the noise under equal streams differs with the size


def test_noise_that_forgets_the_sensitivity_is_noticed(monkeypatch):
    monkeypatch.setattr(Mechanism, "deviation", property(lambda self: self.sigma))  # T3
    assert deviates(by_noise(noise(), MECHANISM)) < 1e-7


def test_noise_that_forgets_the_count_is_noticed(monkeypatch):
    monkeypatch.setattr(Mechanism, "deviation", property(lambda self: self.sigma * self.clip))
    assert deviates(by_noise(noise(), MECHANISM)) < 1e-7


def test_clipping_after_summing_is_noticed(monkeypatch):
    def late(data: Records, mechanism: Mechanism, source: SeededNoise) -> NoisySum:  # T4
        sums = torch.zeros(CLASSES, WIDTH).double()
        sizes = torch.bincount(data.labels, minlength=CLASSES).double().unsqueeze(1)
        sums.index_add_(0, data.labels, module.finite(data.vectors.double() - CENTRE))
        means = module.clipped(sums / sizes.clamp(min=1), mechanism.clip)
        values = torch.cat([means * sizes, mechanism.kappa * sizes], dim=1)
        steps = (values / mechanism.grid).trunc().long()
        return module.noised(steps, mechanism, source)

    assert not within(late)


def test_logits_left_unclipped_beside_the_embedding_are_noticed(monkeypatch):
    own = module.clipped
    partly = lambda rows, clip: torch.cat([own(rows[:, :2], clip), rows[:, 2:].clamp(-1e4, 1e4)], 1)  # noqa: E731
    monkeypatch.setattr(module, "clipped", partly)  # T13
    assert not within(by_the_library)


def test_embedding_and_logits_clipped_apart_are_noticed(monkeypatch):
    own = module.clipped
    apart = lambda rows, clip: torch.cat([own(rows[:, :2], clip), own(rows[:, 2:], clip)], 1)  # noqa: E731
    monkeypatch.setattr(module, "clipped", apart)
    assert not within(by_the_library)


def test_vectors_that_see_the_batch_are_noticed():
    def batch_norm(data: Records, mechanism: Mechanism, source: SeededNoise) -> NoisySum:  # T6
        vectors = module.finite(data.vectors.double()).float()
        spread = vectors.std(0, correction=0) if len(vectors) else torch.ones(WIDTH)
        seen = (vectors - vectors.mean(0)) / (spread + 1e-5)
        return release([(seen, data.labels)] if len(seen) else [], CENTRE, CLASSES, mechanism, source)

    assert not within(batch_norm)


def test_weights_normalised_over_the_batch_are_noticed():
    def weighted(data: Records, mechanism: Mechanism, source: SeededNoise) -> NoisySum:  # T7
        vectors = module.finite(data.vectors.double()).float().clamp(-1e3, 1e3)
        share = torch.softmax(vectors.sum(1), 0).unsqueeze(1) * len(vectors)
        return release([(vectors * share, data.labels)] if len(vectors) else [], CENTRE, CLASSES, mechanism, source)

    assert not within(weighted)


def test_a_record_that_is_skipped_for_what_it_is_changes_no_other(monkeypatch):
    """T17: one record that is not finite must not stop or empty the release of the rest."""
    data = records(6, stream(1))
    data.vectors[:] = torch.randn(6, WIDTH, generator=stream(2))
    broken = Records(data.vectors.clone(), data.labels)
    broken.vectors[0] = torch.nan
    whole, without = (by_the_library(one, MECHANISM, noise()).values for one in (data, broken))
    assert float((whole - without).norm()) <= MECHANISM.clip
    monkeypatch.setattr(module, "finite", lambda rows: rows if bool(torch.isfinite(rows).all()) else rows * 0)
    assert not within(in_one_piece)


def in_one_piece(data: Records, mechanism: Mechanism, source: SeededNoise) -> NoisySum:
    pieces = [(data.vectors, data.labels)] if len(data.labels) else []
    return release(pieces, CENTRE, CLASSES, mechanism, source)


def test_every_class_is_released_whether_it_is_held_or_not():
    """T8 and T17: neither shape nor noise tells which classes there are, or that there are none."""
    for data in (NOTHING, Records(torch.ones(4, WIDTH), torch.ones(4, dtype=torch.int64))):
        found = by_the_library(data, MECHANISM, noise())
        assert found.values.shape == (CLASSES, WIDTH + 1)
        assert bool((found.values[[0, 2]] != 0).all())


def test_counts_released_exactly_are_noticed(monkeypatch):
    own = module.noised

    def exact_counts(total, mechanism, source):  # T8
        found = own(total, mechanism, source)
        found.values[:, -1] = total[:, -1] * mechanism.grid
        return found

    monkeypatch.setattr(module, "noised", exact_counts)
    assert deviates(by_noise(noise(), MECHANISM)) < 1e-7


def test_a_sum_that_keeps_what_it_was_before_the_noise_is_noticed():
    """T5: fresh noise on a kept exact sum is another release, and averages away."""
    data = records(6, stream(2))
    exact = by_the_library(data, MECHANISM, Silent(stream(0))).values
    planted = by_the_library(data, MECHANISM, noise())
    object.__setattr__(planted, "exact", exact)
    assert any(equals(tensor, exact) for tensor in held(planted))
    found = by_the_library(data, MECHANISM, noise())
    assert torch.equal(found.targets(1.0), found.targets(1.0))  # read twice: the same noise, which averages to itself


def test_clipping_in_low_precision_is_noticed(monkeypatch):
    """T19: rounded after clipping, a vector leaves the ball."""
    monkeypatch.setattr(module, "clipped", low)
    assert not within(by_the_library)


def low(rows: torch.Tensor, clip: float) -> torch.Tensor:
    """Clipping in bfloat16."""
    small = rows.clamp(-1e30, 1e30).bfloat16()
    return (small * torch.clamp(clip / small.norm(dim=1, keepdim=True), max=1)).nan_to_num(0, 0, 0).double()
