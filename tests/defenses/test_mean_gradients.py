"""The mean gradient of a set: the same over pieces, and back where it came from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defenses.mean_gradients import mean_gradient, put_gradient
from fedsim.data.synthetic import union
from fedsim.federated.algorithms.feddm import Sets
from fedsim.models.execution import AS_WRITTEN, Execution, Runner
from tests.reference import defences as reference


def test_gradients_add_up_over_pieces_and_go_back_where_they_came_from() -> None:
    here, one = reference.setting(), reference.upload(0, (3, 3, 1, 0))
    network = here.first_network()
    images = union(Sets([one]))
    inputs = here.normalise(images.pixels)
    whole, loss = mean_gradient(Runner(network, AS_WRITTEN), inputs, images.labels)
    pieces, same = mean_gradient(Runner(network, Execution(2)), inputs, images.labels)
    assert torch.allclose(whole, pieces, atol=1e-6)
    assert loss == pytest.approx(same, rel=1e-5)
    plain = F.cross_entropy(network(inputs), images.labels)
    plain.backward()
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    kept = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    put_gradient(Runner(network, AS_WRITTEN), whole)
    for name, weight in network.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(weight.grad, kept[name], atol=1e-6), name
