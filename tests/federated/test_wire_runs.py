"""Whole runs in several forms: the same sets and weights, other bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.schema import FederatedRun, resolve
from tests.reference.tiny_run import TINY, InlineGrid


def run(out: Path, **changes: Any) -> dict[str, Any]:
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    return json.loads((execute(resolve(FederatedRun, raw), out) / "result.json").read_text())


def test_runs_differ_in_bytes_alone_unless_weights_are_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    plain, wide, packed_ = (
        run(tmp_path, wire=wire) for wire in ({}, {"images": "float32"}, {"images": "float16", "deflate": True})
    )
    assert plain["model_sha256"] == wide["model_sha256"] == packed_["model_sha256"]
    assert wide["uplink_bytes"] - plain["uplink_bytes"] == pytest.approx(3 * 64 * 40, abs=200)
    assert packed_["downlink_bytes"] < wide["downlink_bytes"] == plain["downlink_bytes"]
    rounded = run(tmp_path, wire={"weights": "float16"})
    assert rounded["model_sha256"] != plain["model_sha256"]
    assert rounded["downlink_bytes"] < 0.8 * plain["downlink_bytes"]


def test_weights_and_control_variates_travel_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    for algorithm in ("fedavg", "scaffold"):
        both = [
            run(tmp_path, wire=wire, algorithm=algorithm, method=None, server=None, model={"norm": "batch"})
            for wire in ({}, {"weights": "float16", "deflate": True})
        ]
        assert both[1]["uploads_rejected"] == both[1]["clients_failed"] == 0
        for way in ("uplink_bytes", "downlink_bytes"):
            assert both[1][way] < 0.8 * both[0][way], (algorithm, way)


def test_what_is_kept_is_what_was_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    from safetensors.torch import load_file

    run(tmp_path, wire={"weights": "float16"}, transcript="all")
    (folder,) = tmp_path.glob("tiny/*")
    kept = [load_file(path) for path in (folder / "transcript/broadcasts").glob("*.safetensors")]
    assert len(kept) == 2
    for tensors in kept:
        assert all(torch.equal(value, value.half().float()) for value in tensors.values())
