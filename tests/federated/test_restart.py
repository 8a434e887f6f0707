"""A node that comes back knows what it knew: SCAFFOLD's c_k, the ledger of privacy, and what it released.

Every message is answered twice, by the ClientApp of two lives of a node over one `store`. The first life ends after its
work and before anything left: the upload it kept is deleted, and all its objects are dropped.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.common.serde import recorddict_to_proto

from fedsim import app
from fedsim.config import merge, parse_yaml, to_yaml
from fedsim.federated.engines.submission import OUTCOME
from fedsim.federated.engines.workers import RUN_ID, identify
from fedsim.privacy.ledger import FILE, Ledger
from fedsim.schema import FederatedRun, resolve
from tests.federated.algorithms.test_private_feddm import CHANGES
from tests.reference.tiny_run import TINY, InlineGrid

SCAFFOLD: dict[str, Any] = {"rounds": 2, "algorithm": "scaffold", "method": None, "server": None}


class TwoLives(InlineGrid):
    """Answers each message, lets the node die before it sends, and answers again."""

    def _turn(self, moment: float) -> None:
        for message in list(self._queue):
            self._queue.clear()
            lives = []
            for _ in range(2):
                app._parts.cache_clear()
                self._queue.append(message)
                super()._turn(moment)
                lives.append(self._replies[message.metadata.message_id].content)
                for upload in Path(str(self._node_config["store"])).rglob("upload.safetensors"):
                    upload.unlink()
            assert recorddict_to_proto(lives[0]) == recorddict_to_proto(lives[1])


class LostDisk(InlineGrid):
    """Forgets everything before each message."""

    def _turn(self, moment: float) -> None:
        for message in list(self._queue):
            self._queue.clear()
            self._queue.append(message)
            shutil.rmtree(str(self._node_config["store"]), ignore_errors=True)
            super()._turn(moment)


def run(grid: type[InlineGrid], out: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]) -> dict:
    """result.json of a run whose two nodes keep their own folders under out/store."""
    identify(0)
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    run_config: Any = {"config": to_yaml(resolve(FederatedRun, raw)), "out": str(out)}
    nodes = grid("", run_config, {"store": str(out / "store")}, nodes=2)
    app.main(nodes, Context(RUN_ID, 0, {}, RecordDict(), run_config))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(OUTCOME)]
    return json.loads((Path(json.loads(line.removeprefix(OUTCOME))["run"]) / "result.json").read_text())


def ledgers(out: Path) -> list[Ledger]:
    return [Ledger(path.parent, 1e-5, "add_remove") for path in sorted(out.glob(f"store/*/*/*/{FILE}"))]


def test_scaffold_goes_on_from_its_control_variates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, lost = (
        run(grid, tmp_path / grid.__name__, capsys, SCAFFOLD)["model_sha256"]
        for grid in (InlineGrid, TwoLives, LostDisk)
    )
    assert one == two
    assert one != lost  # what was remembered counts


@pytest.mark.parametrize("noise", ["seeded", "system"])
def test_privacy_goes_on_from_its_ledger_and_sends_again_what_it_released(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: str
) -> None:
    """Noise of the system would differ if it were drawn again, and each life's charges would be on the ledger."""
    changes = merge(CHANGES, {"privacy": {"noise": noise}})
    found = run(TwoLives, tmp_path, capsys, changes)
    assert [len(one.charges) for one in ledgers(tmp_path)] == [4, 4]  # two rounds of two networks, paid once each
    assert {one.spent().epsilon for one in ledgers(tmp_path)} == {found["epsilon"]}
    assert found["epsilon"] == found["privacy"]["planned_epsilon"]


def test_a_result_without_the_ledgers_says_what_was_agreed_and_whether_it_is_a_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nodes keep their ledgers elsewhere; model, ε and label are those of a run that can read them."""
    apart = run(InlineGrid, tmp_path / "apart", capsys, CHANGES)
    assert apart["privacy"]["ledgers"] == 0
    assert apart["privacy"]["label"] == "simulated_dp"
    assert apart["epsilon"] == max(one.spent().epsilon for one in ledgers(tmp_path / "apart"))


def test_privacy_without_a_folder_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class NoFolder(InlineGrid):
        def __init__(self, client_app: str, run_config: Any, node_config: Any, *, nodes: int) -> None:
            super().__init__(client_app, run_config, {}, nodes=nodes)

    with pytest.raises(app.UserError, match="client 0: privacy: a client without a folder cannot keep a ledger"):
        run(NoFolder, tmp_path, capsys, CHANGES)
