"""The synthetic images of all clients of a round as filters see them: network inputs that may carry a gradient.

An upload holds bytes. A filter's `score` takes these rows in their place, so that whoever plays an attacker can put its
own images in as floats, with guesses for the others', and take the gradient of its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fedsim import catalog
from fedsim.data.synthetic import union
from fedsim.data.weights import weighted
from fedsim.federated.base import Setting, Upload, network_with
from fedsim.models.execution import Runner
from fedsim.types import Params


@dataclass(frozen=True)
class Rows:
    """Synthetic images one after another, each with its owner."""

    inputs: Float[Tensor, "n c h w"]
    """Normalised images, on the device; those of a multi-formation set as networks see them."""
    labels: Int64[Tensor, "n"]
    """Hard labels."""
    targets: Int64[Tensor, "n"] | Float[Tensor, "n k"]
    """What a training takes them for: hard, soft or weighted labels."""
    owners: Int64[Tensor, "n"]
    """Place of its client among `clients`."""
    clients: tuple[int, ...]
    """Partition ids, as the uploads are ordered; one may have no row."""

    def take(self, which: Bool[Tensor, "n"]) -> Rows:
        """Some of the rows; `clients` stay."""
        return Rows(self.inputs[which], self.labels[which], self.targets[which], self.owners[which], self.clients)

    def held(self, num_classes: int) -> Bool[Tensor, "m k"]:
        """Which of m clients has a row of which of k classes."""
        places = self.owners * num_classes + self.labels
        return torch.bincount(places, minlength=len(self.clients) * num_classes).view(-1, num_classes) > 0

    def means(self, values: Float[Tensor, "n"], num_classes: int) -> Float[Tensor, "m k"]:
        """Mean of a number of each row over the rows of each client and class; 0 where there are none."""
        places = self.owners * num_classes + self.labels
        size = len(self.clients) * num_classes
        counts = torch.bincount(places, minlength=size).clamp(min=1)
        return (values.new_zeros(size).index_add(0, places, values) / counts).view(-1, num_classes)

    def maxima(self, values: Float[Tensor, "n"], num_classes: int) -> Float[Tensor, "m k"]:
        """The largest in the place of the mean."""
        places = self.owners * num_classes + self.labels
        start = values.new_zeros(len(self.clients) * num_classes)
        return start.scatter_reduce(0, places, values, "amax", include_self=False).view(-1, num_classes)


@runtime_checkable
class Scoring(Protocol):
    """What filters on synthetic images have in common, and offers who only counts some clients for less."""

    differentiable: ClassVar[bool]
    """Whether the score has a gradient in the rows' inputs, which an attacker that knows the filter can descend."""

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """One number for each client, the higher the more suspicious; NaN where there is nothing to compare it with."""
        ...


def with_gradient() -> list[str]:
    """The catalog's defences whose score an attacker can descend."""
    made = {name: (kind := catalog.resolve("defense", name))(kind.Config()) for name in catalog.names("defense")}
    return [name for name, one in made.items() if isinstance(one, Scoring) and one.differentiable]


def rows_of(setting: Setting, uploads: Sequence[Upload]) -> Rows:
    """All images of `uploads`, in their order, on the device."""
    images = union([one.synthetic for one in uploads if one.synthetic is not None]).to(setting.device)
    sizes, clients = [], []
    for upload in uploads:
        assert upload.synthetic is not None, "the contract refuses an upload without a set"
        sizes.append(len(upload.synthetic) * upload.synthetic.formation**2)
        clients.append(upload.client)
    owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(setting.device)
    targets = images.targets
    if images.weights is not None:
        targets = weighted(targets, images.weights, len(setting.classes))
    return Rows(setting.normalise(images.pixels), images.labels, targets, owners, tuple(clients))


def embedded(setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "n d"]:
    """ψ of every row under the network with `weights`: the input of its last layer; differentiable in the rows."""
    network = network_with(setting, weights).requires_grad_(False).eval()
    return Runner(network, setting.execution).embed(uploads.inputs)
