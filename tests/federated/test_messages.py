"""Codecs of messages go there and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import Broadcast, Upload
from fedsim.federated.messages import (
    Contract,
    Rejected,
    UploadLimits,
    payload_bytes,
    read_broadcast,
    read_upload,
    write_broadcast,
    write_upload,
)
from fedsim.seeding import stream
from fedsim.types import Params
from tests.reference.uploads import (
    SETTING,
    WEIGHTS,
)

LIGHT = settings(max_examples=25, deadline=None)
CONTRACT = Contract.agree(SETTING, 2, WEIGHTS, UploadLimits())
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
KINDS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
NAMES = st.text("abcxyz._0123", min_size=1, max_size=8)


@st.composite
def parameters(draw: st.DrawFn) -> Params:
    entries = draw(st.dictionaries(NAMES, st.tuples(SHAPES, KINDS), min_size=1, max_size=5))
    rng = stream(draw(st.integers(0, 99)))
    return {name: (torch.randn(shape, generator=rng) * 9).to(kind) for name, (shape, kind) in entries.items()}


def travelled(content: RecordDict) -> RecordDict:
    """As it comes out of Flower's encoding at the other end."""
    return recorddict_from_proto(recorddict_to_proto(content))


def same(left: Params | None, right: Params | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.keys() == right.keys() and all(
        value.dtype == right[name].dtype and torch.equal(value, right[name]) for name, value in left.items()
    )


@LIGHT
@given(parameters(), st.integers(1, 10**6))
def test_broadcasts_go_there_and_back(weights: Params, number: int) -> None:
    back = read_broadcast(travelled(write_broadcast(Broadcast(number, weights))))
    assert back.round == number
    assert same(back.weights, weights)


@LIGHT
@given(st.data(), st.integers(0, 30), st.integers(1, 10**6), st.integers(1, 20))
def test_uploads_go_there_and_back(data: st.DataObject, client: int, examples: int, number: int) -> None:
    shape = data.draw(st.tuples(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    images = torch.randint(0, 256, (len(labels), *shape), generator=stream(client), dtype=torch.uint8)
    weights = data.draw(st.none() | parameters())
    losses = data.draw(st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=False)), max_size=4))
    here = replace(SETTING, image_shape=shape)
    provenance = {"method": "dm", "init": "noise"}
    synthetic = SyntheticSet(images, labels, here.classes, (0.3,), (0.4,), provenance)
    contract = Contract.agree(here, 6, weights, UploadLimits())
    sent = Upload(client, number, examples, synthetic, weights, losses)
    back = read_upload(travelled(write_upload(sent)), client, number, contract)
    assert (back.client, back.round, back.examples, list(back.losses)) == (client, number, examples, losses)
    assert same(back.weights, weights)
    assert back.synthetic is not None
    assert torch.equal(back.synthetic.images, images)
    assert torch.equal(back.synthetic.labels, labels)
    assert back.synthetic.provenance == provenance | {"client": client, "round": number}
    assert (back.synthetic.classes, back.synthetic.mean, back.synthetic.std) == (here.classes, (0.3,), (0.4,))


def test_the_formation_travels_and_is_the_agreed_one() -> None:
    labels, images = torch.tensor([0, 2]), torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
    synthetic = SyntheticSet(images, labels, SETTING.classes, (0.3,), (0.4,), {}, formation=2)
    content = travelled(write_upload(Upload(0, 1, 9, synthetic)))
    agreed = Contract.agree(SETTING, 6, None, UploadLimits(), 2)
    back = read_upload(content, 0, 1, agreed)
    assert back.synthetic is not None
    assert back.synthetic.formation == 2
    for other in (1, 3):
        with pytest.raises(Rejected, match=f"of formation 2, not {other}"):
            read_upload(content, 0, 1, replace(agreed, formation=other))
    content.config_records["info"]["formation"] = 2.0
    with pytest.raises(Rejected, match=r"of formation 2\.0, not 2"):
        read_upload(content, 0, 1, agreed)


def test_what_is_read_does_not_share_memory_with_what_was_sent() -> None:
    content = write_broadcast(Broadcast(1, {"w": torch.zeros(3)}))
    read_broadcast(content).weights["w"] += 1
    assert read_broadcast(content).weights["w"].sum() == 0


def test_payload_is_what_flower_sends() -> None:
    content = write_broadcast(Broadcast(1, WEIGHTS))
    assert payload_bytes(content) == len(recorddict_to_proto(content).SerializeToString())


def test_agreement_fills_in_auto() -> None:
    size = 8 * (36 + 8) + sum(value.numel() * value.element_size() for value in WEIGHTS.values())
    assert (CONTRACT.images, CONTRACT.bytes) == (8, 2 * size + 65536)
    given_limits = Contract.agree(SETTING, 2, None, UploadLimits(images=5, bytes=1000))
    assert (given_limits.images, given_limits.bytes) == (5, 1000)
