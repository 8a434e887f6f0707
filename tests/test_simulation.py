"""A whole federated run in this process: what is kept and how clients share nodes change nothing but files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, MessageType

from fedsim.config import merge, parse_yaml
from fedsim.data.synthetic import SyntheticSet
from fedsim.experiment import execute
from fedsim.federated.base import Upload
from fedsim.schema import FederatedRun, resolve
from tests.reference.tiny_run import TINY, InlineGrid

FEDAVG = {"algorithm": "fedavg", "method": None, "server": None}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def run(out: Path, **changes: Any) -> Path:
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    return execute(resolve(FederatedRun, raw), out)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("algorithm", [{}, FEDAVG], ids=["feddm", "fedavg"])
def test_what_is_kept_has_no_influence_and_is_counted(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    kind = "transcript" if algorithm else "synthetic"
    results = {}
    for mode, uploads, broadcasts in (("none", 0, 0), ("uploads", 4, 0), ("all", 4, 2)):
        folder = run(tmp_path, transcript=mode, **algorithm)
        assert len(list((folder / kind).glob("round_*/client_*.safetensors"))) == uploads
        assert len(list((folder / "transcript/broadcasts").glob("*.safetensors"))) == broadcasts
        assert (folder / "clients").exists() == (mode != "none")
        assert not (folder / "scratch").exists()
        results[mode] = result(folder)
        assert results[mode]["transcript"]["kept"] == mode
        assert (results[mode]["transcript"]["bytes"] > 0) == (uploads > 0)
    for key in ("model_sha256", "uplink_bytes", "downlink_bytes"):
        assert len({found[key] for found in results.values()}) == 1, key


def test_a_client_that_raises_costs_its_siblings_nothing(tmp_path: Path) -> None:
    faults = [{"name": "raise", "client": 1, "round": 1}, {"name": "nan", "client": 2, "round": 2}]
    words: dict[str, Any] = {"partition": {"clients": 5}, "faults": faults}
    alone, together = (run(tmp_path, participation={"per_node": g}, **words) for g in (1, 3))
    assert result(alone)["clients_failed"] == result(together)["clients_failed"] == 1
    assert result(alone)["uploads_rejected"] == result(together)["uploads_rejected"] == 1
    assert result(alone)["model_sha256"] == result(together)["model_sha256"]
    texts = [(folder / "rounds.jsonl").read_text() for folder in (alone, together)]
    ledgers = [[json.loads(line) for line in text.splitlines()] for text in texts]
    for key in ("asked", "responders", "failed", "rejected", "uplink_bytes", "downlink_bytes", "losses"):
        assert [record[key] for record in ledgers[0]] == [record[key] for record in ledgers[1]], key
    assert "planned fault" in ledgers[1][0]["failed"]["1"]


def test_operations_are_counted_round_by_round_over_those_who_answered(tmp_path: Path) -> None:
    faults = [{"name": "raise", "client": 1, "round": 1}, {"name": "nan", "client": 2, "round": 2}]
    words: dict[str, Any] = {"partition": {"clients": 5}, "faults": faults}
    folder = run(tmp_path, **FEDAVG, **words)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    each = 2 * (64 * 9 * 4 + 16 * 9 * 4 * 4 + 16 * 10)  # 1294 images of five clients, one without a share of a round
    held = [259, 259, 259, 259, 258]
    assert [line["client_flops"] for line in lines] == [3 * each * (1294 - held[lost]) for lost in (1, 2)]
    assert result(folder)["client_flops"] == sum(line["client_flops"] for line in lines)
    assert result(folder)["server_flops"] == 0 == lines[0]["server_flops"]


def test_the_server_gets_uploads_without_tensors_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsim.federated.algorithms.feddm import FedDM

    handed: list[Any] = []
    server = FedDM.server

    def spy(self: FedDM, setting: Any, state: Any, uploads: Any, streams: Any) -> Any:
        handed.append(uploads)
        return server(self, setting, state, uploads, streams)

    monkeypatch.setattr(FedDM, "server", spy)
    run(tmp_path)
    for uploads in handed:
        held = [receipt.upload for receipt in uploads._receipts]
        assert all(isinstance(one, Upload) and one.synthetic is None and one.weights is None for one in held)
        assert [one.client for one in uploads] == [0, 1]


def test_a_message_outlives_the_longest_round_that_the_engine_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's 12 hours would end it: three messages of two clients with half a day each, on one worker."""
    lives: list[float] = []
    push = InlineGrid.push_messages

    def spy(self: InlineGrid, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        lives.extend(one.metadata.ttl for one in sent if one.metadata.message_type == MessageType.TRAIN)
        return push(self, sent)

    monkeypatch.setattr(InlineGrid, "push_messages", spy)
    run(tmp_path, rounds=1, partition={"clients": 5}, participation={"per_node": 2, "timeout": 43_200.0})
    assert len(lives) == 3
    assert min(lives) > 3 * 2 * 43_200.0


SHARED = {"method": {"ipc": 2, "iterations": 4, "networks": {"shared": True, "size": 2}}, "partition": {"clients": 5}}


def uploads(folder: Path) -> list[SyntheticSet]:
    return [SyntheticSet.load(path) for path in sorted((folder / "synthetic").glob("round_001/*.safetensors"))]


def test_under_shared_networks_clients_of_a_node_agree_with_clients_alone_to_rounding(tmp_path: Path) -> None:
    alone, together = (run(tmp_path, participation={"per_node": g}, **SHARED) for g in (1, 3))
    for one, other in zip(uploads(alone), uploads(together), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert int((one.images.int() - other.images.int()).abs().max()) <= 1
    for key in ("downlink_bytes", "synthetic_images"):
        assert result(alone)[key] == result(together)[key], key


def test_shared_networks_are_those_of_the_round(tmp_path: Path) -> None:
    """Without sharing, each client has networks of its own: another pool, another result."""
    method = {**SHARED["method"], "networks": {"shared": False, "size": 2}}
    one, other = run(tmp_path, **SHARED), run(tmp_path, **{**SHARED, "method": method})
    assert result(one)["model_sha256"] != result(other)["model_sha256"]


def test_a_block_cut_off_between_its_uploads_is_made_again_to_the_same_hash(tmp_path: Path) -> None:
    folder = run(tmp_path, participation={"per_node": 3}, **SHARED)
    expected = result(folder)["model_sha256"]
    for name in (
        "result.json",
        "checkpoints/round_0002.safetensors",
        "clients/client_0001/round_002/upload.safetensors",
    ):
        (folder / name).unlink()
    assert run(tmp_path, participation={"per_node": 3}, **SHARED) == folder
    assert result(folder)["model_sha256"] == expected
