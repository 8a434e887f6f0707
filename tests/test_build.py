"""From a config to objects: what is refused before any work, and what a run remembers of a user's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedsim.admission import check
from fedsim.build import Parts
from fedsim.cli import main
from fedsim.own_code import own_code
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError
from fedsim.workload import settled

MINE = """
from fedsim.distill.coresets.random import Config as Base, RandomSubset


class Config(Base):
    name: str = "mine"


class Mine(RandomSubset):
    Config = Config
    # {}
"""
TINY = {
    "name": "tiny",
    "rounds": 1,
    "data": {"name": "digits"},
    "partition": {"name": "iid", "clients": 2},
    "model": {"name": "mlp"},
    "algorithm": {"name": "feddm"},
    "method": {"name": "random", "ipc": 2},
    "server": {"epochs": 1},
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module with a method, on the path of this process and of the clients'."""
    path = tmp_path / "my_own_method.py"
    path.write_text(MINE.format("first"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_own_method", raising=False)
    return path


def test_parts_agree_in_every_process() -> None:
    config = resolve(FederatedRun, TINY)
    first, second = settled(Parts(config)), settled(Parts(config))
    assert [part.tolist() for part in first.split.client] == [part.tolist() for part in second.split.client]
    assert first.algorithm().budget(first.setting) == 2


def test_more_replies_than_clients_asked_are_refused_before_any_work() -> None:
    config = resolve(FederatedRun, TINY | {"participation": {"fraction": 0.5, "min_replies": 2}})
    with pytest.raises(UserError, match=r"min_replies=2 can never be reached: 1 clients are asked"):
        check(Parts(config))


def test_catalog_parts_are_no_code_of_the_users() -> None:
    assert own_code(resolve(FederatedRun, TINY)) == {}


def test_own_code_is_named_by_the_hash_of_its_file(mine: Path) -> None:
    config = resolve(FederatedRun, TINY | {"method": {"name": "my_own_method:Mine", "ipc": 2}})
    before = own_code(config)
    mine.write_text(MINE.format("second"))
    assert before.keys() == own_code(config).keys() == {"my_own_method:Mine"}
    assert before != own_code(config)


def test_a_run_with_changed_own_code_is_not_mistaken_for_the_old_one(mine, tmp_path, capsys) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "{rounds: 1, data: {name: digits}, partition: {name: iid, clients: 2}, model: {name: mlp}, "
        "algorithm: {name: feddm}, method: {name: 'my_own_method:Mine', ipc: 2}, server: {epochs: 1}, "
        "controls: {upload_real_subset: false}, compute: {workers: 0}}"
    )
    words = ["run", str(config), "--out", str(tmp_path / "runs")]
    assert main(words) == 0
    assert "my_own_method:Mine has no setting init that says noise" in capsys.readouterr().err
    assert main(words) == 0
    assert "is finished already" in capsys.readouterr().err
    mine.write_text(MINE.format("second"))
    assert main(words) == 2
    assert "the file of my_own_method:Mine changed since" in capsys.readouterr().err
