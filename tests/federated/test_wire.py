"""Number formats and compression go there and back, and an upload in another form than agreed is refused."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.config import merge, parse_yaml
from fedsim.experiment import execute
from fedsim.federated.base import Broadcast
from fedsim.federated.blocks import Envelopes, read_broadcasts
from fedsim.federated.faults import Fault, tamper
from fedsim.federated.messages import Contract, UploadLimits, payload_bytes, read_upload
from fedsim.federated.wire import PLAIN, Rejected, Wire, as_received, decode, encode, half
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference.tiny_run import TINY, InlineGrid
from tests.reference.uploads import SETTING, WEIGHTS, put, saved, upload

LIGHT = settings(max_examples=40, deadline=None)
WIRES = st.builds(
    Wire, images=st.sampled_from(["uint8", "float32", "float16"]), weights=st.sampled_from(["float32", "float16"]),
    deflate=st.booleans(),
)  # fmt: skip
NUMBERS = st.floats(-60000, 60000, width=32)


def record(key: str, **tensors: torch.Tensor) -> RecordDict:
    return RecordDict({key: ArrayRecord({name: Array(value.numpy()) for name, value in tensors.items()})})


def there_and_back(key: str, name: str, value: torch.Tensor, wire: Wire) -> torch.Tensor:
    content = decode(encode(record(key, **{name: value}), wire), wire)
    return torch.from_numpy(content.array_records[key][name].numpy().copy())


@LIGHT
@given(WIRES, st.lists(st.integers(0, 255), max_size=30))
def test_images_arrive_as_they_left(wire: Wire, grey: list[int]) -> None:
    value = torch.tensor(grey, dtype=torch.uint8)
    for key in ("synthetic", "extra"):
        assert torch.equal(there_and_back(key, "images", value, wire), value)


def test_every_grey_level_survives_every_form() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    for form in ("uint8", "float32", "float16"):
        assert torch.equal(there_and_back("synthetic", "images", every, Wire(images=form)), every)


@LIGHT
@given(WIRES, st.lists(NUMBERS, max_size=30))
def test_weights_arrive_exactly_or_within_half_a_unit_in_the_last_place(wire: Wire, numbers: list[float]) -> None:
    value = torch.tensor(numbers, dtype=torch.float32)
    back = there_and_back("weights", "w", value, wire)
    assert back.dtype == torch.float32
    if wire.weights == "float32":
        assert torch.equal(back, value)
    else:
        exponent = torch.frexp(value).exponent.clamp(min=-13)  # 11 bits of significand; below 2⁻¹⁴ steps of 2⁻²⁴
        assert bool(((back - value).abs() <= 2.0 ** (exponent - 12)).all())


@LIGHT
@given(WIRES)
def test_what_is_neither_image_nor_weight_arrives_as_it_left(wire: Wire) -> None:
    labels, counter = torch.tensor([3, 0, 2]), torch.tensor(7)
    soft = torch.rand(3, 4, generator=stream(0)).half()
    assert torch.equal(there_and_back("synthetic", "labels", labels, wire), labels)
    assert torch.equal(there_and_back("synthetic", "soft", soft, wire), soft)
    assert torch.equal(there_and_back("weights", "norm.num_batches_tracked", counter, wire), counter)


def test_as_agreed_by_default_nothing_is_touched() -> None:
    content = upload()
    assert encode(content, PLAIN) is content
    assert decode(content, PLAIN) is content
    sent = {0: Broadcast(1, {"w": torch.rand(3)})}
    assert as_received(sent, PLAIN) is sent


@LIGHT
@given(WIRES)
def test_a_sound_upload_is_accepted_in_every_form(wire: Wire) -> None:
    contract = Contract.agree(SETTING, 2, WEIGHTS, UploadLimits(), wire=wire)
    read = read_upload(encode(upload(), wire), 1, 2, contract)
    plain = read_upload(upload(), 1, 2, Contract.agree(SETTING, 2, WEIGHTS, UploadLimits()))
    assert read.synthetic is not None
    assert plain.synthetic is not None
    assert torch.equal(read.synthetic.images, plain.synthetic.images)
    assert read.weights is not None
    expected = half(WEIGHTS) if wire.weights == "float16" else WEIGHTS
    assert all(torch.equal(value, expected[name]) for name, value in read.weights.items())
    assert all(value.dtype == WEIGHTS[name].dtype for name, value in read.weights.items())


def test_the_bytes_follow_the_form() -> None:
    images = 4 * 36
    floats = sum(value.numel() for value in WEIGHTS.values() if value.is_floating_point())
    size = payload_bytes(upload())

    def grown(**forms: Any) -> int:
        return payload_bytes(encode(upload(), Wire(**forms))) - size

    assert abs(grown(images="float32") - 3 * images) < 16  # the words uint8 and float32, and lengths of lengths
    assert abs(grown(images="float16") - images) < 16
    assert abs(grown(weights="float16") + 2 * floats) < 64
    assert grown(deflate=True) < -images / 2  # black images


def test_clients_see_rounded_weights_and_share_an_object() -> None:
    wire = Wire(weights="float16", images="float16", deflate=True)
    extra = {"images": torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2), "labels": torch.tensor([0, 1])}
    one, other = Broadcast(3, {"w": torch.tensor([0.1, 1 / 3])}), Broadcast(3, {"w": torch.tensor([0.2])}, extra)
    received = as_received({0: one, 1: one, 2: other}, wire)
    assert received[0] is received[1]
    assert received[0].weights["w"].tolist() == np.array([0.1, 1 / 3], np.float16).astype(np.float32).tolist()
    back = read_broadcasts(Envelopes(received, wire).write([0, 1, 2]), wire)
    assert back[0] is back[1]
    for client, sent in received.items():
        assert back[client].sha256 == sent.sha256


def test_a_weight_beyond_half_precision_is_one_line() -> None:
    assert torch.isinf(half({"w": torch.tensor([float("inf")])})["w"]).all()  # of the client; the server refuses it
    content = record("weights", w=torch.tensor([1.0, -70000.0]))
    with pytest.raises(UserError, match=r"float16 reaches to 65504, and w holds 7e\+04; give wire.weights=float32"):
        encode(content, Wire(weights="float16"))


# --- rejections ---

FLOAT = Wire(images="float32", weights="float16")
PACKED = Wire(deflate=True)


def refused(content: RecordDict, wire: Wire, reason: str) -> None:
    contract = Contract.agree(SETTING, 2, WEIGHTS, UploadLimits(), wire=wire)
    with pytest.raises(Rejected, match=reason):
        read_upload(content, 1, 2, contract)


@pytest.mark.parametrize("sent", [PLAIN, Wire(images="float16"), Wire(images="float32"), Wire(weights="float16")])
@pytest.mark.parametrize("agreed", [PLAIN, FLOAT, PACKED, Wire(images="float16")])
def test_another_form_than_agreed_is_refused(sent: Wire, agreed: Wire) -> None:
    if sent != agreed:
        reason = "agreed is|not uint8|is torch.float16|is not deflated, which was agreed"
        refused(encode(upload(), sent), agreed, reason)
    refused(encode(upload(), PACKED), FLOAT, r"cannot be decoded \(no .npy array\)")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((4, 1, 6, 6), np.nan, np.float32), "144 pixel values are not finite"),
        (np.full((4, 1, 6, 6), 1.01, np.float32), "images reach from 1.01 to 1.01, valid are 0 to 1"),
        (np.full((4, 1, 6, 6), -0.01, np.float32), "images reach from -0.01"),
        (np.zeros((4, 1, 6, 6), np.float16), "images travels as float16, agreed is float32"),
        (np.zeros((4, 1, 6, 5), np.float32), r"image shape is \(1, 6, 5\)"),
        (np.zeros((9, 1, 6, 6), np.float32), r"\(4,\) labels for 9 images"),
    ],
)
def test_images_in_floats_are_checked(image: np.ndarray, reason: str) -> None:
    content = encode(upload(), FLOAT)
    put("synthetic", images=image)(content)
    refused(content, FLOAT, reason)


def packed(data: bytes) -> Array:
    return Array(dtype="uint8", shape=(4, 1, 6, 6), stype="numpy.ndarray", data=data)


SOUND = zlib.compress(saved(np.zeros((4, 1, 6, 6), np.uint8)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zlib.compress(b"\x93NUMPY" + bytes(10**7)), "images inflates to more than the agreed 1312 bytes"),
        (SOUND[:-3], "images cannot be inflated .the stream is cut short"),
        (SOUND + b"more", "or followed by more"),
        (b"\x00 noise", "images cannot be inflated .Error -3"),
        (b"", "images cannot be inflated"),
        (zlib.compress(b"PK\x03\x04 and so on"), r"images cannot be decoded \(no .npy array\)"),
        (zlib.compress(SOUND), r"images cannot be decoded \(no .npy array\)"),
        (saved(np.zeros((4, 1, 6, 6), np.uint8)), "images is not deflated, which was agreed"),
    ],
)
def test_a_stream_that_is_not_what_it_should_be_is_refused(data: bytes, reason: str) -> None:
    content = encode(upload(), PACKED)
    content.array_records["synthetic"]["images"] = packed(data)
    refused(content, PACKED, reason)


def test_a_bomb_is_not_set_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than one byte beyond the agreed size is ever asked of zlib, and what was not agreed is not opened."""
    asked: list[int] = []
    make = zlib.decompressobj

    class Spy:
        def __init__(self) -> None:
            self.stream = make()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            asked.append(most)
            return self.stream.decompress(data, most)

    monkeypatch.setattr("fedsim.federated.wire.zlib.decompressobj", Spy)
    content = encode(upload(), PACKED)
    content.array_records["synthetic"]["more"] = packed(zlib.compress(bytes(10**6)))
    refused(content, PACKED, r"more cannot be decoded|holds \['images', 'labels', 'more'\]")
    assert asked
    assert 0 < max(asked) <= max(value.numel() * 4 for value in WEIGHTS.values()) + 1025 + 288


@pytest.mark.parametrize("kind", ["nan", "wrong_shape", "oversize"])
@pytest.mark.parametrize("wire", [FLOAT, PACKED, Wire(images="float16", deflate=True)])
def test_planned_faults_are_refused_in_every_form(kind: Any, wire: Wire) -> None:
    content = tamper([Fault(name=kind, client=1, round=2)], 1, 2, upload())
    refused(encode(content, wire), wire, ".")


@LIGHT
@given(st.binary(max_size=80), st.sampled_from(["images", "labels"]), WIRES.filter(lambda wire: wire != PLAIN))
def test_any_bytes_are_refused(data: bytes, name: str, wire: Wire) -> None:
    content = encode(upload(), wire)
    content.array_records["synthetic"][name] = packed(data)
    refused(content, wire, ".")


# --- whole runs ---


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


def test_replacing_the_form_replaces_the_limit() -> None:
    plain, wide = (
        Contract.agree(SETTING, 2, None, UploadLimits(), wire=Wire(images=one)) for one in ("uint8", "float32")
    )
    assert wide.bytes - plain.bytes == 2 * 8 * 36 * 3
    assert replace(plain, wire=wide.wire).sizes() == wide.sizes()
