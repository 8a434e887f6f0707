"""Leave-one-client-out influence: what would the server's model say of the others' images without this client's.

    w, w_{−k}  the server's w_r after a short training on ∪_j S_j, and on the union without S_k
    z_c(w)     mean logits of w over the images of class c that the others sent
    score_k = robust z over the clients of  max over c and logits of | z_c(w) − z_c(w_{−k}) |

The server holds no real images but `val`, on which it reports accuracy; a defence that looked at it would spoil that
number. The others' synthetic images stand in its place.

Source  the leave-one-out form of influence: Cook, "Detection of Influential Observation in Linear Regression",
        Technometrics 1977; Koh, Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017,
        arXiv 1703.04730, for networks.        Code    none read.
Differs the leaving out is done, not approximated, and for whole clients. Trainings are gradient descent on whole
        batches: no order of batches makes two of them differ. No trigger is on the others' images, so a backdoor is
        seen by what it does to clean logits, or not at all; a client with a class of its own has much influence by
        right. Calibrate the threshold on clean rounds. With fewer than three clients nobody is judged.
Cost    (K + 1) trainings of `steps` passes over the union: for K of about 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from defenses.mean_gradients import mean_gradient, put_gradient
from defenses.rows import inspected
from defenses.suspicion import LEAST, robust_z
from fedsim.config import Section
from fedsim.federated.base import ServerState, Setting, Upload, network_with
from fedsim.federated.defences import Sends, Verdict
from fedsim.federated.upload_rows import Rows
from fedsim.models.execution import Runner
from fedsim.seeding import Streams
from fedsim.types import Params


class Config(Section):
    """Settings of leave-one-client-out influence."""

    name: Literal["influence"] = "influence"
    steps: int = Field(default=30, ge=1)
    """Steps of each training, on all images at once."""
    lr: float = Field(default=0.05, gt=0)
    """Step size."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
    threshold: float = Field(default=6.0, gt=0)
    """Robust z beyond which an upload is left out; calibrate it on clean rounds
    (`fedsim.training.calibration.threshold`)."""


def class_logits(
    logits: Float[Tensor, "n k"], labels: Int64[Tensor, "n"], num_classes: int
) -> tuple[Float[Tensor, "c k"], Int64[Tensor, "c"]]:
    """Mean logits of the images of each class that has some, and which these c classes are."""
    counts = torch.bincount(labels, minlength=num_classes)
    sums = logits.new_zeros((num_classes, logits.shape[1])).index_add(0, labels, logits)
    there = counts.nonzero().flatten()
    return sums[there] / counts[there, None], there


def change(
    with_it: Float[Tensor, "n k"], without: Float[Tensor, "n k"], labels: Int64[Tensor, "n"], num_classes: int
) -> Float[Tensor, ""]:
    """Largest change of a class's mean logits between two networks."""
    first, _ = class_logits(with_it, labels, num_classes)
    second, _ = class_logits(without, labels, num_classes)
    return (first - second).abs().max()


class Influence:
    """The filter."""

    Config = Config
    sends: ClassVar[Sends] = "synthetic"
    differentiable: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """z of each client's influence; it has no gradient: a training lies between."""
        uploads = Rows(
            uploads.inputs.detach(), uploads.labels, uploads.targets.detach(), uploads.owners, uploads.clients
        )
        union = self._trained(setting, weights, uploads)
        found = torch.full((len(uploads.clients),), torch.nan, device=uploads.inputs.device)
        for place in range(len(uploads.clients)):
            own = uploads.owners == place
            others = uploads.take(~own)
            if not bool(own.any()) or len(others.owners.unique()) < LEAST - 1:
                continue
            left = self._trained(setting, weights, others)
            with torch.no_grad():
                both = union.logits(others.inputs), left.logits(others.inputs)
            moved = change(*both, others.labels, len(setting.classes))
            # a client whose images break the training could not be more suspicious
            found[place] = moved if bool(moved.isfinite()) or not bool(both[1].isfinite().all()) else torch.inf
        return robust_z(found)

    def _trained(self, setting: Setting, weights: Params, rows: Rows) -> Runner:
        """w_r after the short training on `rows`."""
        runner = Runner(network_with(setting, weights).train(), setting.execution)
        optimiser = torch.optim.SGD(runner.network.parameters(), lr=self.config.lr, momentum=self.config.momentum)
        for _ in range(self.config.steps):
            put_gradient(runner, mean_gradient(runner, rows.inputs, rows.targets)[0])
            optimiser.step()
        runner.network.eval()
        return runner

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """By the score."""
        return inspected(self, self.config.threshold, setting, state, uploads)
