"""What FedSGD would have sent: gradients of a client's own records at the weights it was sent first, or others.

The evaluator computes them, so it knows the records; an attack gets the weights and the gradients.

    g_b = ∇_θ (1/s) Σ_{i ∈ b} ℓ(φ_θ(x_i), y_i)        b = 1 … n cases of s records each

Identification: the true record among up to 99 held-out ones of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.audit.types import Truth
from fedsim.build import Parts
from fedsim.data.images import Images
from fedsim.models.functional import call, trainable_names
from fedsim.models.network import Network
from fedsim.privacy.owner import full_precision
from fedsim.seeding import numpy_stream
from fedsim.types import Params, UserError

OTHERS = 99
"""Held-out candidates beside the true record, where the class has so many."""


@dataclass(frozen=True)
class GradientRelease:
    """What a server of FedSGD sees."""

    params: Params
    """θ."""
    gradients: Mapping[str, Tensor]
    """g by name of the weight, cases first."""
    records: int
    """s."""


@dataclass(frozen=True)
class GradientCases:
    """Batches of one client's records."""

    parts: Parts
    client: int
    cases: int
    """n."""
    records: int
    """s."""
    seed: int
    weights: Params | None = None
    """θ; None: the weights that were sent first."""

    def positions(self) -> np.ndarray:
        """(n, s) records of the client, none twice; `UserError` where it has too few."""
        held = self.parts.split.client[self.client]
        if self.cases * self.records > len(held):
            raise UserError(
                f"gradients: got {self.cases} cases of {self.records} records; valid: at most {len(held)} records in "
                f"all, as client {self.client} has"
            )
        chosen = numpy_stream(self.seed, "gradients", self.client).permutation(held)[: self.cases * self.records]
        return chosen.reshape(self.cases, self.records)

    def release(self) -> GradientRelease:
        """The gradients, one case after another."""
        setting, found = self.parts.setting, []
        network = setting.first_network().eval()
        first = network.state_dict()
        given = self.weights or first
        params = {name: value.detach().to(first[name]).clone() for name, value in given.items()}
        for batch in self.positions():
            images = self.parts.images(batch)
            found.append(gradient(network, params, setting.normalise(images.pixels.to(setting.device)), images))
        stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
        return GradientRelease(params, stacked, self.records)

    def truth(self) -> Truth:
        """Pixels (n, s, c, h, w) and labels (n, s) of the records; held-out ones of their classes, m each.

        m is 0 where the run held nothing out.
        """
        positions, labels = self.positions(), self.parts.dataset.train.labels.numpy()
        rng, out = numpy_stream(self.seed, "gradients", "others"), self.parts.split.holdout
        kinds = {label: out[labels[out] == label] for label in np.unique(labels[positions])}
        most = min(OTHERS, *(len(one) for one in kinds.values()))
        if most < 1 and len(out):
            raise UserError("gradients: a class has no held-out record to tell from; raise run.audit.holdout")
        chosen = np.stack([rng.permutation(kinds[labels[at]])[:most] for at in positions.ravel()])
        pixels = self.parts.images(positions.ravel()).pixels
        others = self.parts.images(chosen.ravel()).pixels
        shape = tuple(pixels.shape[1:])
        return {
            "images": pixels.numpy().reshape(*positions.shape, *shape),
            "labels": labels[positions],
            "others": others.numpy().reshape(*positions.shape, most, *shape),
        }


def gradient(network: Network, params: Params, inputs: Tensor, images: Images) -> Params:
    """∇_θ of the mean cross-entropy of one batch."""
    names = trainable_names(network)

    def loss(weights: Params) -> Tensor:
        logits = call(network, params | weights, "forward", inputs)
        return F.cross_entropy(logits, images.labels.to(inputs.device))

    with full_precision():  # TensorFloat-32 would leave no gradient that an attack can match
        return torch.func.grad(loss)({name: params[name] for name in names})
