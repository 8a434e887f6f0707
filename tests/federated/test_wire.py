"""Number formats and compression go there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.federated.base import Broadcast
from fedsim.federated.blocks import Envelopes, read_broadcasts
from fedsim.federated.messages import Contract, UploadLimits, payload_bytes, read_upload
from fedsim.federated.wire import PLAIN, Wire, as_received, decode, encode, half
from fedsim.seeding import stream
from fedsim.types import UserError
from tests.reference.uploads import SETTING, WEIGHTS, upload

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


def test_replacing_the_form_replaces_the_limit() -> None:
    plain, wide = (
        Contract.agree(SETTING, 2, None, UploadLimits(), wire=Wire(images=one)) for one in ("uint8", "float32")
    )
    assert wide.bytes - plain.bytes == 2 * 8 * 36 * 3
    assert replace(plain, wire=wide.wire).sizes() == wide.sizes()
