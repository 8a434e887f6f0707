"""Distribution Matching of a private owner: its equation, what it releases and when, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedsim.catalog import CATALOG
from fedsim.data.augment import Config as DSAConfig
from fedsim.distill import noisy_networks
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.distill.distribution.dm import DistributionMatching
from fedsim.distill.distribution.private_dm import REFUSED, PrivateMatching, believed, check
from fedsim.distill.drive import condense
from fedsim.distill.networks import FreshConfig
from fedsim.distill.pool import PoolConfig
from fedsim.models.functional import unflatten
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams, stream
from fedsim.types import UserError
from tests.reference import dm as loops
from tests.reference import private_dm as reference
from tests.reference.private_dm import LEAST, config, task, terms

CLEAR = Mechanism(clip=1e3, kappa=1e3, sigma=1e-7)
"""No clipping, no noise to speak of."""


def method(privacy: dict[str, Any] | None = None, **settings: Any) -> PrivateMatching:
    return PrivateMatching(config(**settings), terms(**(privacy or {})))


@pytest.mark.parametrize("clip", [0.5, 2.0, 50.0])
def test_a_step_is_the_equation(tmp_path, clip):
    one, here = method(size=1), task(tmp_path, mechanism=Mechanism(clip, 1.0, 0.5))
    members = one.prepare(here, stream(0))
    state = one.init(here, members, stream(1))
    before, labels = state.pixels.clone().requires_grad_(), here.labels()
    params = unflatten(members[0].flat, here.network.state_dict())
    look = loops.looking(here.network, params, ("embedding", "logits"))
    kept = [float(count) >= LEAST for count in state.counts]
    expected = reference.loss(before, labels, look, members[0].centre, members[0].target, kept, clip)
    (gradient,) = torch.autograd.grad(expected, before)
    found = one.step(here, members, state, stream(2))["loss"]
    assert float(found) == pytest.approx(float(expected.detach()) / sum(kept), rel=1e-6)
    assert torch.allclose(state.pixels, here.normalise.project(before.detach() - 0.1 * gradient), atol=1e-6)


def test_without_noise_and_clipping_it_is_distribution_matching_with_a_pool(tmp_path):
    private = task(tmp_path, (7, 4, 5, 9), mechanism=CLEAR, around=True)
    open_task = loops.task(counts=(7, 4, 5, 9), around=True)
    pool = PoolConfig(size=1, around="server")
    found, _ = condense(method(networks=pool), private, 4, Streams(0))
    expected, _ = condense(DistributionMatching(config(networks=pool)), open_task, 4, Streams(0))
    assert int((found.images.int() - expected.images.int()).abs().max()) <= 1


def test_a_bug_on_the_synthetic_side_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(noisy_networks, "clipped", lambda rows, clip: rows)
    with pytest.raises(AssertionError):
        test_a_step_is_the_equation(tmp_path, 0.5)


def test_each_network_is_released_once_and_steps_cost_nothing(tmp_path):
    here = task(tmp_path)
    assert isinstance(here.real, PrivateImages)
    for steps in (1, 30):
        condense(method(size=3), here, steps, Streams(0))
        assert sum(one.number for one in here.real.ledger.charges) == 3
    condense(method(size=3), here, 1, Streams(1))  # other networks
    assert sum(one.number for one in here.real.ledger.charges) == 6


@pytest.mark.parametrize("augment", [None, DSAConfig()])
def test_a_killed_condensation_ends_the_same_and_pays_nothing_more(tmp_path, augment):
    one, store = method(augment=augment), tmp_path / "store"
    whole, _ = condense(one, task(tmp_path / "a"), 6, Streams(0))

    class KilledError(Exception):
        pass

    def kill(iteration: int, _: Any) -> None:
        if iteration == 6:
            raise KilledError

    with pytest.raises(KilledError):
        condense(one, task(tmp_path / "b"), 6, Streams(0), store=store, checkpoint_every=0, log_every=1, log=kill)
    again = task(tmp_path / "b")
    resumed, _ = condense(one, again, 6, Streams(0), store=store)
    assert torch.equal(resumed.images, whole.images)
    assert isinstance(again.real, PrivateImages)
    assert len(again.real.ledger.charges) == 2


def test_classes_that_are_not_held_get_images_while_it_works_and_none_in_the_set(tmp_path):
    clear = task(tmp_path, (7, 0, 5, 0), mechanism=CLEAR)
    found, _ = condense(method(), clear, 2, Streams(0))
    assert found.labels.tolist() == [0, 0, 2, 2]
    assert clear.labels().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_class_is_believed_by_its_noisy_count_and_one_always_is():
    assert believed(torch.tensor([1.0, 2.0, 9.0]).double(), 2.0).tolist() == [False, True, True]
    assert believed(torch.tensor([-3.0, -1.0, -2.0]).double(), 2.0).tolist() == [False, True, False]


def test_images_per_class_do_not_tell_how_many_there_are(tmp_path):
    """T8: a client with one image of a class sends as many as one with thousands."""
    found, _ = condense(method(ipc=5), task(tmp_path, (1, 4, 4, 4), mechanism=CLEAR, ipc=5), 1, Streams(0))
    few = torch.bincount(found.labels, minlength=4)
    assert few.tolist() == [0, 5, 5, 5]


def test_chunks_change_no_more_than_roundings(tmp_path):
    whole, pieces = (
        condense(method(), task(tmp_path / str(chunk), chunk=chunk), 2, Streams(0))[0].images.int() for chunk in (0, 2)
    )
    assert int((whole - pieces).abs().max()) <= 1


def test_open_images_are_refused():
    with pytest.raises(UserError, match="got a client's open images"):
        method().prepare(loops.task(), stream(0))


@pytest.mark.parametrize("name", [name for name in CATALOG["method"] if name not in {"dm", "class_means"}])
def test_every_other_method_is_refused_with_its_reason(name):
    from fedsim.catalog import resolve

    with pytest.raises(UserError) as refused:
        check(resolve("method", name).Config(), terms())
    assert str(refused.value) == f"privacy: method {name}: {REFUSED[name]}; valid: dm"


@pytest.mark.parametrize("name", ["random", "herding"])
def test_a_method_that_gets_past_the_settings_meets_a_closed_door(tmp_path, name):
    from fedsim.catalog import resolve

    chosen = resolve("method", name)  # T1
    settings = RandomConfig(ipc=1) if name == "random" else chosen.Config(ipc=1)
    with pytest.raises(UserError, match="gives out noisy sums only"):
        condense(chosen(settings), task(tmp_path), 1, Streams(0))


def test_plain_matching_and_real_starts_meet_a_closed_door(tmp_path):
    for settings in ({}, {"init": "real", "networks": FreshConfig()}):
        with pytest.raises(UserError, match="gives out noisy sums only"):
            condense(DistributionMatching(config(**settings)), task(tmp_path), 1, Streams(0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"init": "real"}, "method.init: got real"),  # T1
        ({"networks": FreshConfig()}, "method.networks: under privacy every network is a release"),
        ({"networks": PoolConfig(refresh=10)}, "method.networks: under privacy"),
        ({"networks": PoolConfig(shared=True)}, "method.networks: under privacy"),
        ({"batch_real": 64}, "method.batch_real: got 64"),
    ],
)
def test_settings_that_are_not_accounted_are_refused(settings, says):
    with pytest.raises(UserError) as refused:
        method(**settings)
    assert str(refused.value).startswith(says)
    assert "valid" in str(refused.value)
