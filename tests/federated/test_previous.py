"""Images of the round before: kept by the server where they are asked for, sent to the clients of the next round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fedsim.distill.distribution.private_dm import PrivateMatching
from fedsim.distill.pool import PoolConfig
from fedsim.federated.algorithms.feddm import Config, FedDM
from fedsim.federated.base import Setting
from fedsim.federated.client import Node, answer
from fedsim.federated.messages import Contract, UploadLimits, read_broadcast, read_upload, write_broadcast
from fedsim.federated.previous import SAMPLE, received, sampled
from fedsim.privacy.features import Config as Privacy
from fedsim.privacy.features import Features
from fedsim.seeding import Streams, stream
from fedsim.training.train import TrainConfig
from tests.reference import dm as loops
from tests.reference import fedavg as federation
from tests.reference.private_dm import config

PREVIOUS = {"subspace": "previous", "dimension": 3}


def parties(**privacy: Any) -> tuple[Setting, FedDM]:
    terms = Privacy(**({"sigma": 0.1, "public_bound": 100, "noise": "seeded", "least": 1.0} | privacy))
    settings = config(networks=PoolConfig(size=1), match=("embedding",))
    here = replace(federation.setting(), privacy=Features(terms, 2))
    return here, FedDM(Config(), PrivateMatching(settings, terms), settings, TrainConfig(epochs=1))


def test_nothing_is_kept_where_nobody_asks():
    images = loops.images((4, 4, 4, 4))
    assert sampled(federation.setting(), images, stream(0)) == {}
    assert sampled(parties()[0], images, stream(0)) == {}
    here, algorithm = parties()
    sent = algorithm.broadcast(algorithm.init(here), [0])[0]
    assert received(here, sent) is None


def test_a_sample_of_the_union_is_kept():
    here, many = parties(**PREVIOUS)[0], loops.images((200, 200, 200, 200))
    found = sampled(here, many, stream(0))
    assert len(found["previous.pixels"]) == len(found["previous.labels"]) == SAMPLE
    few = sampled(here, loops.images((2, 1, 0, 0)), stream(0))
    assert sorted(few["previous.labels"].tolist()) == [0, 0, 1]


def test_clients_of_the_second_round_look_at_the_uploads_of_the_first(tmp_path):
    here, algorithm = parties(**PREVIOUS)
    node = Node(algorithm, here, lambda client: federation.CLIENTS[client], tmp_path)
    contract = Contract.agree(here, 2, None, UploadLimits())
    state = algorithm.init(here)
    first = algorithm.broadcast(state, [0, 1])
    assert first[0].extra == {}
    uploads = [read_upload(answer(node, one, first[one]), one, 1, contract) for one in (0, 1)]
    state, _ = algorithm.server(here, state, uploads, Streams(4))
    second = algorithm.broadcast(state, [0, 1])
    arrived = read_broadcast(write_broadcast(second[0]))
    images = received(here, arrived)
    assert images is not None
    sets = [upload.synthetic for upload in uploads]
    assert all(one is not None for one in sets)
    union = torch.cat([one.images for one in sets if one is not None])
    assert sorted(image.sum().item() for image in images.pixels) == sorted(image.sum().item() for image in union)
    upload = read_upload(answer(node, 0, arrived), 0, 2, contract)
    assert upload.synthetic is not None
    ledger = here.privacy.ledger(tmp_path / "client_0000") if here.privacy is not None else None
    assert ledger is not None
    assert sum(one.number for one in ledger.charges) == 2
