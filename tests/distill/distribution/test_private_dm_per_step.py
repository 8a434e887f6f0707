"""`mode: per_step`: one charged release for every step, each once, whatever dies when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.distill.base import Task
from fedsim.distill.distribution.dm import DistributionMatching
from fedsim.distill.distribution.private_dm import PrivateMatching, releases
from fedsim.distill.drive import condense
from fedsim.distill.networks import FreshConfig, PerturbConfig
from fedsim.distill.pool import PoolConfig
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.ledger import Charge
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise, SystemNoise
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference.private_dm import config, task, terms

STEPS = 5
FRESH = FreshConfig()
CLEAR = Mechanism(clip=1e3, kappa=1e3, sigma=1e-7)


def method(networks: Any = FRESH, **privacy: Any) -> PrivateMatching:
    return PrivateMatching(config(networks=networks, iterations=STEPS), terms(mode="per_step", **privacy))


def charges(here: Task) -> list[Charge]:
    assert isinstance(here.real, PrivateImages)
    return here.real.ledger.charges


def condensed(here: Task, **how: Any) -> torch.Tensor:
    return condense(method(), here, STEPS, Streams(0), **how)[0].images


@pytest.mark.parametrize("networks", [FreshConfig(), PerturbConfig()])
def test_without_noise_and_clipping_it_is_distribution_matching_with_new_networks(tmp_path, networks):
    private = task(tmp_path, (7, 4, 5, 9), mechanism=CLEAR, around=True)
    open_task = loops.task(counts=(7, 4, 5, 9), around=True)
    found, _ = condense(method(networks), private, STEPS, Streams(0))
    expected, _ = condense(DistributionMatching(config(networks=networks)), open_task, STEPS, Streams(0))
    assert int((found.images.int() - expected.images.int()).abs().max()) <= 1


def test_every_step_is_a_release_and_the_plan_says_so(tmp_path):
    here = task(tmp_path)
    condensed(here)
    assert len(charges(here)) == STEPS == releases(terms(mode="per_step"), config(iterations=STEPS))
    assert len({one.key for one in charges(here)}) == STEPS
    condensed(here)  # the same questions
    assert len(charges(here)) == STEPS
    assert releases(terms(), config(size=7)) == 7


class KilledError(BaseException):
    """The process ends here."""


def test_killed_between_charge_and_store_only_that_release_is_paid_again(tmp_path, monkeypatch):
    whole, store, own = condensed(task(tmp_path / "a")), tmp_path / "store", ledgers.save_tensors
    calls = []

    def dying(path: Path, *content: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KilledError
        own(path, *content)

    monkeypatch.setattr(ledgers, "save_tensors", dying)
    with pytest.raises(KilledError):
        condensed(task(tmp_path / "b"), store=store, checkpoint_every=0)
    monkeypatch.undo()
    again = task(tmp_path / "b")
    assert [len(charges(again)), len(list((tmp_path / "b/released").iterdir()))] == [3, 2]
    assert torch.equal(condensed(again, store=store), whole)
    keys = [one.key for one in charges(again)]
    assert len(keys) == STEPS + 1
    assert keys[2] == keys[3]  # the third release, which had not left
    assert len(set(keys)) == STEPS


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_killed_after_a_store_nothing_is_paid_or_drawn_again(tmp_path, every):
    """With a checkpoint the steps before it are not taken again; without one they find their releases."""
    draws = []

    class Counted(SystemNoise):
        def normal(self, *shape: int) -> torch.Tensor:
            draws.append(shape)
            return super().normal(*shape)

    def kill(iteration: int, _: Any) -> None:
        if iteration == 3:
            raise KilledError

    def here() -> Task:
        made = task(tmp_path / "c")
        assert isinstance(made.real, PrivateImages)
        made.real._noise = lambda question: Counted()
        return made

    with pytest.raises(KilledError):
        condensed(here(), store=tmp_path / "store", checkpoint_every=every, log_every=1, log=kill)
    assert len(draws) == 3
    resumed = here()
    first = condensed(resumed, store=tmp_path / "store", checkpoint_every=every)
    assert len(draws) == len(charges(resumed)) == STEPS
    assert torch.equal(condensed(here()), first)  # all releases are stored by now
    assert len(draws) == STEPS


def test_coins_are_drawn_once_with_the_noise(tmp_path):
    """Poisson: a question asked again neither draws coins nor sees which records took part before."""
    coins = []

    class Counted(SeededNoise):
        def chosen(self, number: int, rate: float) -> torch.Tensor:
            assert isinstance(here.real, PrivateImages)
            coins.append((rate, len(here.real.ledger.charges)))
            return super().chosen(number, rate)

    here, seeded = task(tmp_path, mechanism=Mechanism(2.0, 1.0, 0.5, rate=0.5)), Streams(1)
    assert isinstance(here.real, PrivateImages)
    here.real._noise = lambda question: Counted(seeded.generator(question))
    condensed(here)
    condensed(here)
    assert coins == [(0.5, paid) for paid in range(1, STEPS + 1)]  # each after its charge
    assert {one.rate for one in charges(here)} == {0.5}


def test_counts_are_the_mean_over_the_releases_so_far(tmp_path):
    counts = (7, 0, 5, 9)
    one, here = method(weighted=True), task(tmp_path, counts, mechanism=Mechanism(2.0, 1.0, 0.3))
    artifacts = one.prepare(here, Streams(0).generator())
    state = one.init(here, artifacts, Streams(0).generator())
    assert artifacts == []
    assert state.counts.tolist() == [0.0] * 4
    seen = []
    for step in range(25):
        one.step(here, artifacts, state, Streams(0).generator("step", step))
        seen.append(float(state.counts[0]))
    assert state.counts.tolist() == pytest.approx(counts, abs=0.5)
    assert abs(seen[-1] - 7) < abs(seen[0] - 7)
    weights = one.result(here, state).weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([float(state.counts[label]) / 2 for label in (0, 0, 2, 2, 3, 3)])
    assert method(weighted=False).result(here, state).weights is None


@pytest.mark.parametrize(
    ("mode", "networks", "says"),
    [
        ("per_step", PoolConfig(), "method.networks: got pool; under privacy.mode: per_step every step draws"),
        ("precomputed", FreshConfig(), "method.networks: under privacy every network is a release"),
        ("precomputed", PerturbConfig(), "method.networks: under privacy every network is a release"),
    ],
)
def test_networks_must_fit_the_mode(mode, networks, says):
    with pytest.raises(UserError) as refused:
        PrivateMatching(config(networks=networks), terms(mode=mode))
    assert str(refused.value).startswith(says)
    assert "valid" in str(refused.value)
