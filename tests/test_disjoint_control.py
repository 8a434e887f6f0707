"""The negative control of an audit: it passes on sets made without the pool, and fails on sets that hold members."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.audit import controls
from fedsim.audit.schema import AuditRun
from fedsim.build import Parts
from fedsim.data.images import Dataset
from fedsim.data.synthetic import SyntheticSet

ROWS = 10


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend("benchmarks")
    return importlib.import_module("disjoint_control")


def test_sets_of_another_client_say_nothing(control: Any) -> None:
    found = control.audited(0, ROWS, 19)["attacks"]
    assert set(found) == {"lira", "loss_threshold"}
    assert all(one["passed"] for one in found.values())


def test_the_control_fails_where_the_other_client_sends_members(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def published(config: AuditRun, row: int, folder: Path, data: Dataset) -> None:
        parts = Parts(config.row(row))
        pool = parts.pool(config.client)
        images = parts.images(pool.positions[pool.members(row)])
        path = folder / "synthetic" / "round_001" / f"client_{control.OTHER:04d}.safetensors"
        path.parent.mkdir(parents=True)
        SyntheticSet(images.pixels, images.labels, data.classes, data.mean, data.std).save(path)

    monkeypatch.setattr(control, "upload", published)
    monkeypatch.setattr(controls, "CERTAIN", 0.05)  # what 19 drawn memberships can reach; 0.001 takes 999
    found = control.audited(0, ROWS, 19)["attacks"]
    assert not found["lira"]["passed"]
    assert found["lira"]["p"] == pytest.approx(0.05)


def test_an_upload_is_made_without_the_pool(control: Any, tmp_path: Path) -> None:
    """The other client's records are none of the pool's, whichever row it is."""
    config = control.toy(0, ROWS)
    for row in (0, 1):
        parts = Parts(config.row(row))
        assert not np.isin(parts.split.client[control.OTHER], parts.pool(config.client).positions).any()
    control.upload(config, 0, tmp_path, Parts(config.row(0)).dataset)
    made = SyntheticSet.load(tmp_path / "synthetic" / "round_001" / f"client_{control.OTHER:04d}.safetensors")
    assert torch.equal(made.labels.unique(), torch.arange(10))
