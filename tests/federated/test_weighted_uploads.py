"""Weights by noisy counts between client and server: agreed or refused, checked, kept, and trained on in the union."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import Array

from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.distribution.dm import Config as DMConfig
from fedsim.distill.distribution.dm import DistributionMatching
from fedsim.federated.algorithms.feddm import Config as FedDMConfig
from fedsim.federated.algorithms.feddm import FedDM
from fedsim.federated.base import Broadcast, Setting, Upload
from fedsim.federated.client import Node, keep, kept
from fedsim.federated.messages import Contract, Rejected, UploadLimits, read_upload, write_upload
from fedsim.privacy.features import Config, Features
from fedsim.training.train import TrainConfig
from tests.reference import fedavg as federation

WEIGHTS = torch.tensor([4.0, 0.5])


def here(weighted: bool) -> Setting:
    terms = Config(sigma=1.0, public_bound=50, noise="seeded", weighted=weighted)
    return replace(federation.setting(), privacy=Features(terms, 1))


SET = SyntheticSet(
    torch.zeros(2, 1, 6, 6, dtype=torch.uint8), torch.tensor([0, 2]), federation.setting().classes, (0.3,), (0.4,), {}
)


def received(weights: torch.Tensor | None, *, agreed: bool = True) -> Upload:
    content = write_upload(Upload(0, 1, 1, replace(SET, weights=None if weights is None else WEIGHTS)))
    if weights is not None:
        content.array_records["synthetic"]["weights"] = Array(weights.numpy())
    return read_upload(content, 0, 1, Contract.agree(here(agreed), 2, None, UploadLimits()))


def test_weights_travel():
    synthetic = received(WEIGHTS).synthetic
    assert synthetic is not None
    assert synthetic.weights is not None
    assert torch.equal(synthetic.weights, WEIGHTS)
    plain = received(None, agreed=False).synthetic
    assert plain is not None
    assert plain.weights is None


@pytest.mark.parametrize(
    ("weights", "agreed", "line"),
    [
        (WEIGHTS, False, r"holds \['images', 'labels', 'weights'\], not \['images', 'labels'\]"),
        (None, True, r"holds \['images', 'labels'\], not \['images', 'labels', 'weights'\]"),
        (WEIGHTS[:1], True, r"weights are torch.float32\(1,\), not float32\(2,\)"),
        (WEIGHTS * float("nan"), True, "2 weights are not finite"),
        (-WEIGHTS, True, "weights begin at -4, valid are more than 0"),
        (WEIGHTS * 100, True, "weights reach 400, the agreed bound is 50"),
    ],
)
def test_what_was_not_agreed_or_is_no_weight_is_rejected(weights, agreed, line):
    with pytest.raises(Rejected, match=line):
        received(weights, agreed=agreed)


def test_a_kept_upload_keeps_its_weights(tmp_path):
    settings = DMConfig(ipc=1)
    algorithm = FedDM(FedDMConfig(), DistributionMatching(settings), settings, TrainConfig(epochs=1))
    node = Node(algorithm, here(True), lambda client: federation.CLIENTS[client], tmp_path)
    broadcast = Broadcast(1, {})
    keep(node, Upload(0, 1, 1, replace(SET, weights=WEIGHTS)), broadcast, (0,))
    found = kept(node, 0, broadcast, (0,))
    assert found is not None
    assert found.synthetic is not None
    assert found.synthetic.weights is not None
    assert torch.equal(found.synthetic.weights, WEIGHTS)
