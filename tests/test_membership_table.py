"""The benchmark of the membership table: rows, releases, and scores measured once are those of the attack itself."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks.lira import Config as LiRAConfig
from attacks.lira import LiRA
from fedsim.api import load
from fedsim.audit.types import Release
from fedsim.data.synthetic import SyntheticSet
from fedsim.seeding import Streams, numpy_stream
from fedsim.training.train import TrainConfig

MODEL = {"name": "mlp", "depth": 1, "width": 8}
TRAIN = TrainConfig(epochs=2, batch_size=32)
ROWS, MEMBERS = 10, 6


@pytest.fixture(scope="module")
def rows() -> Iterator[Any]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend("benchmarks")
    yield importlib.import_module("membership_rows")
    patch.undo()


@pytest.fixture(scope="module")
def ground(rows: Any) -> Any:
    return rows.ground(load("digits"), MEMBERS, 5, MODEL, TRAIN, rows.computed("cpu"), 0)


@pytest.fixture(scope="module")
def subsets(rows: Any, ground: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = rows.Rows(ground, "digits_random", tmp_path_factory.mktemp("subsets"), ROWS)
    made.make_sets({"name": "random", "ipc": 2}, together=False)
    return made


def test_the_pool_holds_no_record_twice_and_none_that_is_public(rows: Any) -> None:
    data = load("digits")
    twice = data.train.take(torch.arange(400).repeat(2))
    pool, public = rows.drawn_records(twice, 20, 10, numpy_stream(0, "test"))
    shown = twice.pixels[torch.from_numpy(np.concatenate([pool, public]))].flatten(1)
    assert len(shown) == 300
    assert len(shown.unique(dim=0)) == 300


def test_a_row_publishes_its_own_members(ground: Any, subsets: Any) -> None:
    for row in range(ROWS):
        own = ground.candidates.pixels[torch.from_numpy(ground.pool.members(row))].flatten(1)
        shown = SyntheticSet.load(subsets.set_file(row)).images.flatten(1)
        assert all(bool((own == one).all(1).any()) for one in shown)


def test_sets_that_are_there_are_not_made_again(subsets: Any) -> None:
    before = [subsets.set_file(row).stat().st_mtime_ns for row in range(ROWS)]
    subsets.make_sets({"name": "random", "ipc": 2}, together=False)
    assert [subsets.set_file(row).stat().st_mtime_ns for row in range(ROWS)] == before


def test_neither_a_target_nor_its_complement_is_a_shadow_of_it(ground: Any, subsets: Any) -> None:
    view = subsets.view(3, LiRA(LiRAConfig(statistics=("nn_pixels",))).threat)
    assert len(view.shadows) == ROWS - 2
    target = ground.pool.members(3)
    assert not any(np.array_equal(one.members, target) or np.array_equal(one.members, ~target) for one in view.shadows)


def test_scores_measured_once_are_those_of_the_attack(rows: Any, ground: Any, subsets: Any) -> None:
    table = importlib.import_module("membership_table")
    attack = LiRA(LiRAConfig(statistics=("model", "nn_embedding", "align"), networks=1, random_networks=2))
    streams = Streams(0, ("attack", "lira"))
    once = table.likelihoods(attack, subsets, ground.members(ROWS), streams)
    for row in (0, 3):
        alone = attack.run(subsets.view(row, attack.threat), streams)
        for name, values in once[row].items():
            np.testing.assert_allclose(values, alone[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_rows_of_distribution_matching_are_condensed_together_from_their_own_starts(
    rows: Any, ground: Any, tmp_path: Path
) -> None:
    made = rows.Rows(ground, "digits_dm", tmp_path, 4)
    networks = {"name": "pool", "size": 1, "shared": True}
    made.make_sets({"name": "dm", "ipc": 1, "iterations": 2, "lr": 0.1, "networks": networks}, together=True)
    sets = [SyntheticSet.load(made.set_file(row)).images for row in range(4)]
    assert not any(torch.equal(sets[0], other) for other in sets[1:])


def test_a_network_of_a_row_is_released_as_the_servers_model(rows: Any, ground: Any, tmp_path: Path) -> None:
    made = rows.Rows(ground, "digits_model", tmp_path, 2)
    made.make_models(TRAIN)
    threat = LiRA(LiRAConfig(release="server_model", statistics=("model",))).threat
    assert threat.sees == {Release.SERVER_MODEL}
    weights = [made.released(row, threat).server_model() for row in (0, 1)]
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_every_line_has_a_name_of_its_own(rows: Any) -> None:
    names = [line.name for line in importlib.import_module("membership_table").lines()]
    assert len(names) == len(set(names)) == 26
    assert {"mnist_model", "cifar10_dsa_noise_ipc10", "mnist_dm_real_ipc1", "cifar10_random_real_ipc5"} <= set(names)
