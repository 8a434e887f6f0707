"""Blocks of clients: every client is served once, and reads and is charged for what it would get alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st

from fedsim.federated.base import Broadcast, Upload
from fedsim.federated.blocks import (
    Envelopes,
    addressed,
    clients_of,
    node_count,
    read_answer,
    read_broadcasts,
    write_answers,
)
from fedsim.federated.messages import failure, payload_bytes, write_broadcast, write_failure, write_upload
from fedsim.seeding import stream


def weights(seed: int, size: int = 5) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(size, generator=stream(seed)), "n": torch.tensor(seed)}


def travelled(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


@given(st.integers(1, 300), st.integers(1, 40))
def test_every_client_is_served_by_exactly_one_node(clients: int, per_node: int) -> None:
    blocks = [clients_of(node, clients, per_node) for node in range(node_count(clients, per_node))]
    assert [client for block in blocks for client in block] == list(range(clients))
    assert all(client // per_node == node for node, block in enumerate(blocks) for client in block)
    assert all(len(block) == per_node for block in blocks[:-1])
    assert 1 <= len(blocks[-1]) <= per_node


@given(st.dictionaries(st.integers(0, 10**6), st.integers(0, 2), min_size=1, max_size=12))
def test_each_client_reads_its_own_broadcast_and_is_charged_for_it_alone(chosen: dict[int, int]) -> None:
    kinds = [Broadcast(kind + 1, weights(kind, 3 + kind)) for kind in range(3)]
    broadcasts = {client: kinds[kind] for client, kind in chosen.items()}
    envelopes = Envelopes(broadcasts)
    content = envelopes.write(list(chosen))
    assert addressed(content) == list(chosen)
    assert len(content.array_records) == len(set(chosen.values()))
    back = read_broadcasts(travelled(content))
    assert list(back) == list(chosen)
    for client, sent in broadcasts.items():
        assert back[client].round == sent.round
        assert all(torch.equal(value, sent.weights[name]) for name, value in back[client].weights.items())
        assert envelopes.size(client) == payload_bytes(write_broadcast(sent))
    for one, other in zip(chosen, list(chosen)[1:], strict=False):
        assert (back[one] is back[other]) == (broadcasts[one] is broadcasts[other])


def test_messages_to_many_nodes_share_one_encoding() -> None:
    sent = Broadcast(1, weights(0))
    envelopes = Envelopes(dict.fromkeys(range(100), sent))
    first, last = envelopes.write([0, 1]), envelopes.write([98, 99])
    assert first.array_records["0/weights"]["w"] is last.array_records["0/weights"]["w"]


def test_answers_are_read_as_they_would_be_alone() -> None:
    contents = {client: write_upload(Upload(client, 1, client + 1, weights=weights(client))) for client in (1, 11, 111)}
    reply = travelled(write_answers(contents))
    for client, content in contents.items():
        mine = read_answer(reply, client)
        assert mine.metric_records["metrics"]["examples"] == client + 1
        assert np.array_equal(mine.array_records["weights"]["w"].numpy(), weights(client)["w"].numpy())
        assert payload_bytes(mine) == payload_bytes(content)


def test_who_is_missing_from_a_reply_has_failed() -> None:
    reply = write_answers({1: write_failure("ValueError: as\nasked"), 2: write_upload(Upload(2, 1, 1))})
    assert failure(read_answer(reply, 1)) == "ValueError: as asked"
    assert failure(read_answer(reply, 2)) is None
    assert failure(read_answer(reply, 3)) == "its node's reply holds nothing of it"


def test_a_message_without_a_block_speaks_to_no_client() -> None:
    assert addressed(RecordDict({"ask": ConfigRecord({"do": "echo"})})) == []


@pytest.mark.parametrize("key", ["1/", "/weights", "weights", "x/weights", "1/2/weights"])
def test_a_strangers_keys_disturb_no_client(key: str) -> None:
    content = write_answers({2: write_upload(Upload(2, 1, 1))})
    content[key] = ArrayRecord({"w": Array(np.zeros(3))})
    assert set(read_answer(travelled(content), 2)) == {"metrics", "info"}
