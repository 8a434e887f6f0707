"""The parts of the gradient-leakage benchmark: which images, which network, which attack with which settings.

Settings were chosen on images that no part attacks; of restarts the one of the smallest gradient loss
is kept, by the attacks themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from attacks.dlg import DLG
from attacks.dlg import Config as DLGConfig
from attacks.fedavg_inversion import Config as FedAvgConfig
from attacks.fedavg_inversion import FedAvgInversion
from attacks.idlg import IDLG
from attacks.idlg import Config as IDLGConfig
from attacks.inverting_gradients import Config as InvertingConfig
from attacks.inverting_gradients import InvertingGradients

Attacker = DLG | IDLG | InvertingGradients | FedAvgInversion


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    title: str
    attack: Literal["dlg", "idlg", "inverting_gradients", "fedavg_inversion"]
    settings: dict[str, Any]
    data: Literal["cifar10", "mnist", "orl", "digits"] = "cifar10"
    network: Literal["sigmoid", "relu", "softplus", "convnet"] = "sigmoid"
    bound: float = 0.5
    """LeNet's weights are from U(−bound, bound)."""
    records: int = 1
    """s of a problem."""
    images: int = 100
    """Records attacked."""
    shrink: int = 1
    """Images are means of squares of so many pixels a side."""
    local: dict[str, Any] = field(default_factory=dict)
    """What a client of FedAvg does: epochs, batch, local_rate."""

    def attacker(self, width: int) -> Attacker:
        """The attack, `width` problems side by side."""
        settings = self.settings | self.local | {"width": width}
        if self.attack == "dlg":
            return DLG(DLGConfig(**settings))
        if self.attack == "idlg":
            return IDLG(IDLGConfig(**settings))
        if self.attack == "inverting_gradients":
            return InvertingGradients(InvertingConfig(**settings))
        return FedAvgInversion(FedAvgConfig(**settings))


SEARCH = {"iterations": 4000, "restarts": 2, "tolerance": 1e-6}
STAGES = {"iterations": 1500, "restarts": 2, "tolerance": 1e-9, "softplus": (30.0, 100.0, 300.0)}
ANGLE = {"iterations": 4800, "restarts": 1, "total_variation": 1e-2}
LOCAL = {"epochs": 2, "batch": 2, "local_rate": 0.01}
WIDE = 0.1

PARTS = {
    "idlg_cifar10": Part("iDLG, sigmoid LeNet, CIFAR-10", "idlg", SEARCH),
    "dlg_cifar10": Part("DLG, sigmoid LeNet, CIFAR-10", "dlg", {"iterations": 6000, "restarts": 1}),
    "mnist": Part("iDLG, sigmoid LeNet, MNIST", "idlg", SEARCH, data="mnist"),
    "orl": Part("iDLG, sigmoid LeNet, ORL faces halved to 56×46", "idlg", SEARCH, data="orl", images=40, shrink=2),
    "orl_full": Part(
        "iDLG, sigmoid LeNet, ORL faces of 112×92", "idlg", SEARCH | {"iterations": 10000, "restarts": 1}, data="orl",
        images=10,
    ),
    "relu": Part("iDLG, ReLU LeNet, CIFAR-10", "idlg", SEARCH, network="relu", bound=WIDE),
    "relu_annealed": Part(
        "iDLG, ReLU LeNet attacked through softplus copies, CIFAR-10", "idlg", STAGES, network="relu", bound=WIDE
    ),
    "softplus": Part("iDLG, softplus LeNet (β = 10), CIFAR-10", "idlg", SEARCH, network="softplus", bound=WIDE),
    "inverting_cifar10": Part(
        "Inverting Gradients, untrained ConvNet-3-64, CIFAR-10", "inverting_gradients", ANGLE, network="convnet"
    ),
    "inverting_batch4": Part(
        "Inverting Gradients, batches of 4, ConvNet-3-64, CIFAR-10", "inverting_gradients", ANGLE,
        network="convnet", records=4,
    ),
    "fedavg_inversion": Part(
        "FedAvg updates of 4 records (2 epochs, batches of 2, η 0.01), ConvNet-3-64, CIFAR-10", "fedavg_inversion",
        ANGLE | {"iterations": 2400}, network="convnet", records=4, local=LOCAL,
    ),
}  # fmt: skip
"""By name, in the order of the table."""
PAIRS = {"pairs_idlg": "idlg_cifar10", "pairs_dlg": "dlg_cifar10"}
"""Parts that time the attack of another part against a loop over images."""
