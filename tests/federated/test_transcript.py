"""Uploads on disk: what is read back is what was accepted, mapped and not held; and only what was asked for is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import Broadcast, Upload
from fedsim.federated.transcript import Mode, StoredUploads, Transcript
from fedsim.runs import load_tensors
from fedsim.seeding import stream

MODES: tuple[Mode, ...] = ("none", "uploads", "all")


def synthetic(client: int) -> SyntheticSet:
    images = torch.randint(0, 256, (3, 1, 6, 6), generator=stream(client), dtype=torch.uint8)
    return SyntheticSet(images, torch.tensor([0, 1, 1]), ("a", "b"), (0.3,), (0.4,), {"method": "dm"})


def weights(client: int) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(4, 5, generator=stream(client)), "n": torch.tensor(client)}


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("mode", MODES)
def test_uploads_are_read_back_in_the_order_of_clients(tmp_path: Path, mode: Mode) -> None:
    transcript = Transcript(tmp_path, mode, "run-s0")
    transcript.open(1)
    receipts = [
        transcript.accept(Upload(client, 1, client + 1, synthetic(client), None, [(1, 0.5)])) for client in (7, 2)
    ]
    uploads = StoredUploads(receipts)
    assert uploads.clients == [2, 7]
    assert [upload.client for upload in uploads] == [2, 7]
    assert [upload.client for upload in uploads[1:]] == [7]
    last = uploads[-1]
    assert (last.client, last.round, last.examples, last.losses) == (7, 1, 8, [(1, 0.5)])
    assert last.synthetic is not None
    assert torch.equal(last.synthetic.images, synthetic(7).images)
    assert last.synthetic.provenance == {"method": "dm", "config": "run-s0"}
    with pytest.raises(IndexError):
        uploads[2]


def test_weights_are_read_back_and_an_item_is_mapped_from_its_file(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path, "uploads", "run-s0")
    receipt = transcript.accept(Upload(3, 2, 9, weights=weights(3)))
    assert receipt.upload.weights is None
    (upload,) = StoredUploads([receipt])
    assert upload.weights is not None
    assert upload.synthetic is None
    assert all(torch.equal(value, weights(3)[name]) for name, value in upload.weights.items())
    path = tmp_path / "transcript/round_002/client_0003.safetensors"
    assert str(path) in Path("/proc/self/maps").read_text()
    _, meta = load_tensors(path)
    assert meta == {"client": 3, "round": 2, "examples": 9, "losses": []}


KEPT = {
    "none": [],
    "uploads": ["synthetic/round_001/client_0001.safetensors", "transcript/round_001/client_0002.safetensors"],
    "all": [
        "synthetic/round_001/client_0001.safetensors",
        "transcript/broadcasts/{}.safetensors",
        "transcript/round_001/broadcasts.json",
        "transcript/round_001/client_0002.safetensors",
    ],
}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_of_a_round(tmp_path: Path, mode: Mode) -> None:
    transcript, sent = Transcript(tmp_path, mode, "run-s0"), Broadcast(1, weights(0))
    transcript.open(1)
    transcript.send(1, dict.fromkeys((1, 2, 3), sent))
    transcript.accept(Upload(1, 1, 1, synthetic(1)))
    transcript.accept(Upload(2, 1, 1, weights=weights(2)))
    assert len(files(tmp_path)) == max(2, len(KEPT[mode]))
    transcript.discard()
    assert files(tmp_path) == [name.format(sent.sha256[:16]) for name in KEPT[mode]]
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert transcript.size() == {"kept": mode, "files": len(KEPT[mode]), "bytes": size}


def test_a_broadcast_is_stored_once_by_its_fingerprint(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path, "all", "run-s0")
    same, other = Broadcast(1, weights(0)), Broadcast(1, weights(1))
    transcript.send(1, {4: same, 5: other, 6: Broadcast(1, weights(0))})
    transcript.send(2, {4: Broadcast(2, weights(0))})
    assert len(list((tmp_path / "transcript/broadcasts").iterdir())) == 2
    sent = json.loads((tmp_path / "transcript/round_001/broadcasts.json").read_text())
    assert sent == {same.sha256[:16]: [4, 6], other.sha256[:16]: [5]}
    tensors, meta = load_tensors(tmp_path / f"transcript/broadcasts/{same.sha256[:16]}.safetensors")
    assert meta == {"sha256": same.sha256}
    assert all(torch.equal(value, weights(0)[name]) for name, value in tensors.items())


def test_what_an_attempt_that_was_cut_off_left_does_not_stay(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path, "uploads", "run-s0")
    for client in (1, 2):
        transcript.accept(Upload(client, 1, 1, synthetic(client)))
    transcript.open(1)
    transcript.accept(Upload(1, 1, 1, synthetic(1)))
    assert files(tmp_path) == ["synthetic/round_001/client_0001.safetensors"]
