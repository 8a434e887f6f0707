"""Who acts when, what an attacker is refused, and where it leaves its trigger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.config import validate
from fedsim.data.trigger import Trigger, white
from fedsim.federated.attackers import TRIGGER, AttackerConfig, check_attackers, leave
from fedsim.seeding import Streams
from fedsim.types import UserError
from tests.reference import fedavg as federation


def config(**settings: Any) -> AttackerConfig:
    return validate(AttackerConfig, {"name": "any", "clients": [4, 7, 9], **settings})


def test_all_of_them_act_in_every_round_unless_told_otherwise() -> None:
    assert [config().acting(number, Streams(0)) for number in (1, 50)] == [{4, 7, 9}] * 2
    some = config(rounds=[2, 3])
    assert [len(some.acting(number, Streams(0))) for number in (1, 2, 3, 4)] == [0, 3, 3, 0]


def test_of_a_pool_so_many_act_drawn_anew_each_round_and_the_same_again() -> None:
    pool = config(active=1)
    rounds = [pool.acting(number, Streams(0)) for number in range(1, 301)]
    assert {len(one) for one in rounds} == {1}
    counts = [sum(client in one for one in rounds) for client in (4, 7, 9)]
    assert sum(counts) == 300
    assert all(70 < count < 130 for count in counts)  # 100 ± 3.7 deviations of a binomial
    assert rounds == [pool.acting(number, Streams(0)) for number in range(1, 301)]
    assert rounds != [pool.acting(number, Streams(1)) for number in range(1, 301)]
    assert {len(config(active=2).acting(number, Streams(0))) for number in range(20)} == {2}


def test_two_pools_draw_apart() -> None:
    """Places 0, 1, 2 of one pool are not those of another in the same rounds."""
    one, other = config(active=1), config(clients=[0, 1, 2], active=1)
    places = [
        [sorted(pool.clients).index(*pool.acting(number, Streams(0))) for number in range(50)] for pool in (one, other)
    ]
    assert places[0] != places[1]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"clients": []}, "clients"),
        ({"clients": [1, 1]}, r"clients: got \[1, 1\]; valid: partition ids from 0, each once"),
        ({"clients": [-1]}, r"clients: got \[-1\]"),
        ({"active": 4}, "active: got 4 of 3 clients; valid: 1 to 3"),
        ({"active": 0}, "active"),
        ({"rounds": [3, 2]}, r"rounds: got \[3, 2\]; valid: \[first, last\] with 1 ≤ first ≤ last"),
        ({"rounds": [0, 2]}, r"rounds: got \[0, 2\]"),
        ({"target": -1}, "target"),
        ({"clients": [0.5]}, "clients"),
    ],
)
def test_what_is_refused_by_itself(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        config(**settings)


@pytest.mark.parametrize(
    ("attackers", "line"),
    [
        ([config(clients=[10])], "client 10 does not exist; valid: 0 to 9"),
        ([config(), config(clients=[9])], "client 9 is in two of them"),
        ([config(rounds=[1, 6])], "round 6 does not exist; valid: 1 to 5"),
        ([config(target=4)], "target 4 is no class; valid: 0 to 3"),
    ],
)
def test_what_is_refused_in_a_run(attackers: list[AttackerConfig], line: str) -> None:
    with pytest.raises(UserError, match=line):
        check_attackers(attackers, clients=10, rounds=5, num_classes=4)


def test_what_is_possible_is_not() -> None:
    check_attackers([], 1, 1, 1)
    check_attackers([config(target=3, rounds=[5, 5]), config(clients=[0, 1], active=2)], 10, 5, 4)


def test_a_trigger_is_left_in_the_clients_own_folder_or_nowhere(tmp_path: Path) -> None:
    trigger = white((1, 6, 6), 2, target=3)
    leave(federation.view(0, federation.setting(), tmp_path), trigger)
    found = Trigger.load(tmp_path / TRIGGER)
    assert (torch.equal(found.values, trigger.values), found.target) == (True, 3)
    leave(federation.view(0, federation.setting()), trigger)
    assert [path.name for path in tmp_path.iterdir()] == [TRIGGER]
