"""A node serves a contiguous block of clients, and what is said to them travels in one message.

    node i serves clients  i·g … (i + 1)·g − 1         g = participation.per_node, ⌈K / g⌉ nodes

Within a message every client keeps the records it would have alone (`messages.py`), under its own prefix. A broadcast
that is the same object for several clients is encoded and carried once. The ledger counts each client's records as if
they travelled alone, so that no byte count depends on g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.app import ConfigRecord, RecordDict

from fedsim.federated.base import Broadcast
from fedsim.federated.messages import payload_bytes, read_broadcast, write_broadcast
from fedsim.federated.wire import PLAIN, Wire, decode, encode

BLOCK, CLIENTS, PARTS = "block", "clients", "broadcasts"


def node_count(clients: int, per_node: int) -> int:
    """⌈K / g⌉."""
    return -(-clients // per_node)


def clients_of(node: int, clients: int, per_node: int) -> range:
    """The block of one node; the last one may be shorter."""
    return range(node * per_node, min((node + 1) * per_node, clients))


class Envelopes:
    """The broadcasts of one round as records: each distinct one is encoded once, whoever it goes to."""

    def __init__(self, broadcasts: Mapping[int, Broadcast], wire: Wire = PLAIN) -> None:
        self._broadcasts = broadcasts
        distinct = {id(one): one for one in broadcasts.values()}
        self._contents = {key: encode(write_broadcast(one), wire) for key, one in distinct.items()}
        self._sizes = {key: payload_bytes(content) for key, content in self._contents.items()}

    def size(self, client: int) -> int:
        """Encoded bytes of what this client is sent, as if it travelled alone."""
        return self._sizes[id(self._broadcasts[client])]

    def write(self, clients: Sequence[int]) -> RecordDict:
        """One message for `clients`; its arrays are those of every other message, not copies."""
        keys = list(dict.fromkeys(id(self._broadcasts[client]) for client in clients))
        places = [keys.index(id(self._broadcasts[client])) for client in clients]
        content = RecordDict({BLOCK: ConfigRecord({CLIENTS: list(clients), PARTS: places})})
        for place, key in enumerate(keys):
            for name, record in self._contents[key].items():
                content[f"{place}/{name}"] = record
        return content


def addressed(content: RecordDict) -> list[int]:
    """The clients that a message speaks to; none for one that is not a block's."""
    if BLOCK not in content.config_records:
        return []
    clients = content.config_records[BLOCK][CLIENTS]
    assert isinstance(clients, list)
    return [int(client) for client in clients]


def read_broadcasts(content: RecordDict, wire: Wire = PLAIN) -> dict[int, Broadcast]:
    """The node's side of `Envelopes.write`: clients that were sent the same share one object."""
    places = content.config_records[BLOCK][PARTS]
    assert isinstance(places, list)
    parts = {int(place): read_broadcast(decode(_under(content, int(place)), wire)) for place in set(places)}
    return {client: parts[int(place)] for client, place in zip(addressed(content), places, strict=True)}


def write_answers(answers: Mapping[int, RecordDict]) -> RecordDict:
    """Node → server: every client's records under its number."""
    return RecordDict(
        {f"{client}/{name}": record for client, content in answers.items() for name, record in content.items()}
    )


def read_answer(content: RecordDict, client: int) -> RecordDict:
    """One client's records of a node's reply, as it would have sent them alone; empty if there are none."""
    return _under(content, client)


def _under(content: RecordDict, prefix: int) -> RecordDict:
    start = f"{prefix}/"
    return RecordDict({key[len(start) :]: record for key, record in content.items() if key.startswith(start)})
