"""The attacks on gradients run where the gradients are: on a GPU they find what they find on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.dlg import DLG
from attacks.dlg import Config as DLGConfig
from attacks.fedavg_inversion import Config as FedAvgConfig
from attacks.fedavg_inversion import FedAvgInversion
from attacks.idlg import IDLG
from attacks.idlg import Config as IDLGConfig
from attacks.inverting_gradients import Config as InvertingConfig
from attacks.inverting_gradients import InvertingGradients
from attacks.unfolded import unfolded
from fedsim.audit.image_distances import mean_squared_error
from fedsim.seeding import stream
from tests.attacks.leaks import Leak, leak

pytestmark = pytest.mark.gpu


def moved(made: Leak) -> Any:
    """What the attacker sees, on the GPU."""
    seen = made.observed
    parts = ({name: value.cuda() for name, value in part.items()} for part in (seen.params, seen.targets))
    params, targets = parts
    return replace(seen, network=unfolded(seen.network).cuda(), params=params, targets=targets)


@pytest.mark.parametrize(
    "attack",
    [DLG(DLGConfig(iterations=300, restarts=2, history=60)), IDLG(IDLGConfig(iterations=300, restarts=2, history=60))],
)
def test_images_are_found(attack):
    made = leak(3, own=True)
    found = attack.reconstruct(moved(made), None, stream(3))
    assert found.images.is_cuda
    assert torch.equal(found.labels.cpu(), made.labels)
    assert (mean_squared_error(found.images[:, 0].cpu(), made.pixels[:, 0]) < 1e-3).all()


@pytest.mark.parametrize(
    "attack",
    [
        InvertingGradients(InvertingConfig(iterations=5, restarts=2)),
        FedAvgInversion(FedAvgConfig(iterations=5, local_rate=0.1)),
    ],
)
def test_few_steps_are_those_of_a_cpu(attack):
    made = leak(2, records=2)
    ours, theirs = attack.reconstruct(moved(made), None, stream(3)), attack.reconstruct(made.observed, None, stream(3))
    assert torch.equal(ours.labels.cpu(), theirs.labels)
    torch.testing.assert_close(
        ours.gradient_loss.cpu(), theirs.gradient_loss, rtol=0.05, atol=1e-3
    )  # signs of what is nearly 0 may differ


def test_annealed_copies():
    made = leak(2, own=True)
    seen = moved(made)
    for block in seen.network.blocks:
        block[1] = torch.nn.ReLU()
    found = IDLG(IDLGConfig(iterations=5, restarts=2, softplus=(5.0, 20.0))).reconstruct(seen, None, stream(3))
    assert torch.isfinite(found.gradient_loss).all()
