"""What a run agrees on: one δ for all clients, fixed before any data is seen; noise that says whether it repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.config import validate
from fedsim.privacy.accountant import Releases, guarantee
from fedsim.privacy.features import Config, Features
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.noise import SystemNoise
from fedsim.seeding import Streams
from fedsim.types import UserError

AGREED: dict[str, Any] = {"name": "features", "target_epsilon": 8.0, "public_bound": 2000}


def agreement(releases: int = 4, **changes: Any) -> Features:
    return Features(validate(Config, AGREED | changes), releases)


def pay(features: Features, folder: Path, number: int, delta: float = 1e-5) -> None:
    """A client's releases under a ledger of its own δ."""
    simulated = features.config.noise == "seeded"
    ledger = Ledger(folder, delta, features.config.adjacency)
    charge = Charge.of("round 1", features.mechanism, number, simulated=simulated)
    ledger.once(charge, lambda: {"values": torch.zeros(1)})


def epsilon(features: Features, number: int) -> float:
    return guarantee([Releases(features.mechanism.sigma, number)], 1e-5).epsilon


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_all_releases_together_cost_the_target(adjacency):
    features = agreement(adjacency=adjacency)
    assert features.result([])["epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert features.mechanism.sigma == pytest.approx(agreement(1, adjacency=adjacency).mechanism.sigma * 2, rel=1e-6)


# --- T20: δ that depends on data ---


@pytest.mark.parametrize(
    "delta", [{"0": 1e-5, "1": 1e-6}, [1e-5, 1e-6], "1/n_k", "auto", None, torch.tensor([1e-5, 1e-6])]
)
def test_a_delta_for_each_client_or_of_their_sizes_is_no_delta(delta):
    with pytest.raises(UserError, match=r"^(test: )?delta: ") as refused:
        agreement(delta=delta)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bound", [{"0": 100}, [100, 200], "max", None])
def test_nor_is_there_a_bound_for_each_client(bound):
    with pytest.raises(UserError, match="public_bound: "):
        agreement(public_bound=bound)


def test_a_ledger_kept_under_one_over_the_clients_size_is_refused(tmp_path):
    """Planted: client 0 holds 321 records and pays at δ = 1/322."""
    features = agreement()
    pay(features, tmp_path, 1, delta=1 / 322)
    with pytest.raises(UserError, match="fixed before the first release"):
        features.result([(tmp_path, 321)])
    with pytest.raises(UserError, match="fixed before the first release"):
        features.ledger(tmp_path)


def test_epsilon_and_delta_do_not_depend_on_how_many_records_a_client_holds(tmp_path):
    features = agreement()
    pay(features, tmp_path, 4)
    few, many = (features.result([(tmp_path, records)]) for records in (1, 1999))
    assert few == many
    assert few["delta"] == 1e-5


# --- T11: noise that somebody can repeat ---


def test_noise_of_the_system_is_drawn_without_the_runs_streams_and_never_repeats():
    draw = agreement().noise(Streams(0))
    one, two = (draw("round 1") for _ in range(2))
    assert isinstance(one, SystemNoise)
    assert not one.simulated
    assert vars(one) == {}  # nothing that a config or a log could hold
    assert not torch.equal(one.normal(9), two.normal(9))


def test_seeded_noise_repeats_and_is_never_called_dp(tmp_path):
    features = agreement(noise="seeded")
    one, two = (features.noise(Streams(0))("round 1") for _ in range(2))
    assert torch.equal(one.normal(9), two.normal(9))
    assert one.simulated
    pay(features, tmp_path, 4)
    for clients, elsewhere in (([], 0), ([(tmp_path, 10)], 0), ([(tmp_path, 10)], 1), ([], 2)):
        assert features.result(clients, elsewhere)["label"] == "simulated_dp"


# --- ledgers that cannot be read here ---


def test_a_client_elsewhere_counts_with_what_was_agreed(tmp_path):
    """The one that can be read took part once only; nothing is known of the other."""
    features = agreement()
    pay(features, tmp_path, 1)
    here, both = features.result([(tmp_path, 10)]), features.result([(tmp_path, 10)], elsewhere=1)
    assert here["epsilon"] == epsilon(features, 1)
    assert both["epsilon"] == both["planned_epsilon"] == epsilon(features, 4) > here["epsilon"]
    assert (both["label"], both["ledgers"], both["evidence"]) == ("dp", 1, "planned: ledgers stay with the clients")


def statuses(said: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["status"] for one in said["assumptions"]}


@pytest.mark.parametrize(("noise", "repeats"), [("system", "assumed"), ("seeded", "violated")])
@pytest.mark.parametrize("here", [0, 1])
def test_premises_that_only_a_ledger_elsewhere_shows_are_assumed(tmp_path, noise, repeats, here):
    features = agreement(noise=noise)
    pay(features, tmp_path, 4)
    read, said = (features.result([(tmp_path, 10)] * number, elsewhere) for number, elsewhere in ((1, 0), (here, 1)))
    assert said["not_covered"] == read["not_covered"]
    assert any("no release" in line for line in said["not_covered"])
    assert (said["delta"], said["adjacency"], said["method"], said["releases"]) == (1e-5, "add_remove", "gaussian", 4)
    assert statuses(said) == statuses(read) | {
        "noise that nobody can repeat": repeats,
        "participation of records": "assumed",
        "one charge per release": "assumed",
        "releases within the plan": "assumed",
        "δ below 1 over the records": "assumed",
    }
    assert not any("charges, each" in one["evidence"] for one in said["assumptions"])


def test_a_premise_that_one_client_violates_is_violated_whoever_paid_most(tmp_path):
    features = agreement()
    pay(features, tmp_path / "most", 4)
    pay(features, tmp_path / "large", 1)
    said = features.result([(tmp_path / "most", 10), (tmp_path / "large", 2001)], elsewhere=1)
    assert said["epsilon"] == epsilon(features, 4)
    assert statuses(said)["δ below 1 over the records"] == "violated"
    assert statuses(said)["one charge per release"] == "assumed"


def test_a_ledger_that_cost_more_than_was_planned_is_what_is_told(tmp_path):
    features = agreement()
    pay(features, tmp_path, 6)  # killed, and charged again
    found = features.result([(tmp_path, 10)], elsewhere=1)
    assert found["epsilon"] == epsilon(features, 6) > found["planned_epsilon"]


@pytest.mark.parametrize(("releases", "rate"), [(1, 1.0), (40, 1.0), (2, 0.01)])
def test_the_noise_is_the_least_that_keeps_epsilon_over_all_releases(releases, rate):
    agreed = agreement(releases, target_epsilon=1.0, rate=rate)
    assert 0.995 < agreed.planned() <= 1.0
    assert agreed.mechanism.sigma == agreed.sigma
    assert agreed.mechanism.rate == rate
    less = guarantee([Releases(agreed.sigma * 0.99, releases, rate)], 1e-5)
    assert less.epsilon > 1.0


def test_a_given_sigma_is_taken_as_it_is():
    agreed = Features(Config(public_bound=2000, sigma=5.0), 10)
    assert agreed.sigma == 5.0
    assert agreed.planned() == pytest.approx(2.594, abs=1e-3)


@pytest.mark.parametrize("both", [{}, {"sigma": 1.0, "target_epsilon": 1.0}])
def test_exactly_one_of_sigma_and_epsilon(both):
    with pytest.raises(ValueError, match="exactly one of sigma and target_epsilon"):
        Config(public_bound=2000, **both)
