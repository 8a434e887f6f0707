"""What FedSGD would have sent is the gradient of the records that the truth names, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.audit.gradients import GradientCases
from fedsim.build import Parts
from fedsim.schema import load_run
from fedsim.types import UserError
from fedsim.workload import settled

WORDS = (
    "audit.holdout=0.4", "partition={name: iid, clients: 2}", "model={name: mlp, depth: 1, width: 8}",
    "compute={workers: 0, compile: false, chunk: 0}", "method.iterations=2",
)  # fmt: skip


def cases(number: int = 3, records: int = 2) -> GradientCases:
    run = load_run(Path("configs/quickstart/feddm_digits.yaml"), WORDS)
    return GradientCases(settled(Parts(run)), 1, number, records, seed=0)


def test_gradients_are_those_of_the_named_records() -> None:
    made = cases()
    release, truth = made.release(), made.truth()
    network = made.parts.setting.first_network()
    for case in range(3):
        pixels, labels = (torch.from_numpy(truth[name][case]) for name in ("images", "labels"))
        loss = F.cross_entropy(network(made.parts.normalise(pixels)), labels)
        literal = torch.autograd.grad(loss, list(network.parameters()))
        for (name, _), one in zip(network.named_parameters(), literal, strict=True):
            torch.testing.assert_close(release.gradients[name][case], one, rtol=1e-4, atol=1e-6)


def test_records_are_the_clients_and_the_others_are_held_out_of_their_classes() -> None:
    made = cases()
    truth, split = made.truth(), made.parts.split
    assert set(made.positions().ravel()) <= set(split.client[1])
    assert len(set(made.positions().ravel())) == 6
    train, out = made.parts.dataset.train, split.holdout
    for case, record in np.ndindex(3, 2):
        of_class = out[train.labels[out].numpy() == truth["labels"][case, record]]
        known = {train.pixels[at].numpy().tobytes() for at in of_class}
        assert all(one.tobytes() in known for one in truth["others"][case, record])
        assert truth["images"][case, record].tobytes() not in {one.tobytes() for one in truth["others"][case, record]}
    assert truth["others"].shape[2] >= 50


def test_the_same_seed_asks_for_the_same_records() -> None:
    assert np.array_equal(cases().positions(), cases().positions())


def test_more_records_than_the_client_has_are_refused() -> None:
    with pytest.raises(UserError, match="valid: at most"):
        cases(1000, 2).positions()
