"""Planned faults happen to the planned client in the planned round, and each is refused by the server's check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from fedsim.data.synthetic import SyntheticSet
from fedsim.federated import faults
from fedsim.federated.base import Upload
from fedsim.federated.faults import Fault, before_work, tamper
from fedsim.federated.messages import Contract, Rejected, UploadLimits, read_upload, write_upload
from tests.reference import fedavg as reference

KINDS = ["nan", "wrong_shape", "oversize"]


def uploaded(kind: str) -> tuple[Upload, Contract]:
    here = reference.setting("batch")
    weights = here.fresh(here.streams.generator("w")).state_dict()
    if kind == "weights":
        return Upload(3, 2, 5, weights=weights), Contract.agree(here, 0, weights, UploadLimits())
    images = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    synthetic = SyntheticSet(images, torch.arange(4), here.classes, (0.3,), (0.4,), {})
    return Upload(3, 2, 5, synthetic=synthetic), Contract.agree(here, 1, None, UploadLimits())


def plan(kind: Any, client: int = 3, round_number: int = 2) -> Fault:
    return Fault(name=kind, client=client, round=round_number)


def arrays(content: RecordDict) -> dict[str, np.ndarray]:
    return {
        f"{key}.{name}": one.numpy() for key, record in content.array_records.items() for name, one in record.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["weights", "synthetic"])
def test_a_spoilt_upload_is_rejected(kind: str, what: str) -> None:
    upload, contract = uploaded(what)
    read_upload(tamper([], 3, 2, write_upload(upload)), 3, 2, contract)
    with pytest.raises(Rejected):
        read_upload(tamper([plan(kind)], 3, 2, write_upload(upload)), 3, 2, contract)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("client", "round_number"), [(2, 2), (3, 1)])
def test_others_are_left_alone(kind: str, client: int, round_number: int) -> None:
    upload, _ = uploaded("synthetic")
    before = arrays(write_upload(upload))
    after = arrays(tamper([plan(kind, client, round_number)], 3, 2, write_upload(upload)))
    assert before.keys() == after.keys()
    assert all(np.array_equal(value, after[name]) for name, value in before.items())
    before_work([plan("raise", client, round_number)], 3, 2)


def test_what_each_kind_does() -> None:
    upload, _ = uploaded("synthetic")
    spoilt = {kind: arrays(tamper([plan(kind)], 3, 2, write_upload(upload))) for kind in KINDS}
    assert np.isnan(spoilt["nan"]["synthetic.images"]).all()
    assert spoilt["wrong_shape"]["synthetic.images"].shape == (4, 1, 6, 5)
    assert spoilt["oversize"]["synthetic.images"].shape == (40, 1, 6, 6)


def test_raise_raises() -> None:
    with pytest.raises(RuntimeError, match="client 3 raises in round 2"):
        before_work([plan("raise")], 3, 2)


def test_silent_never_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    class StillHere(Exception):  # noqa: N818 - stands for the kill
        pass

    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise StillHere

    monkeypatch.setattr(faults.time, "sleep", nap)
    with pytest.raises(StillHere):
        before_work([plan("silent")], 3, 2)
