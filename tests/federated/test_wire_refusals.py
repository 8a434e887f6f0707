"""An upload in another form than agreed is refused."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.faults import Fault, tamper
from fedsim.federated.messages import Contract, UploadLimits, read_upload
from fedsim.federated.wire import PLAIN, Rejected, Wire, encode
from tests.federated.test_wire import LIGHT, WIRES
from tests.reference.uploads import SETTING, WEIGHTS, put, saved, upload

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
