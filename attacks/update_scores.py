"""What the weights that a client sent back say of a record, beside those that it was sent: gradient, loss, inversion.

    trace(x)   1/R Σ_r cos( ∇_θ ℓ(θ_r; x), θ_r − θ_r^k )              x pushed the weights where they went
    gain(x)    1/R Σ_r [ φ(θ_r^k; x) − φ(θ_r; x) ]                    the client's network became surer of x
    x̂          min_x̂ 1 − cos( ∇_θ ℓ(θ_1; x̂, y), θ_1 − θ_1^k ) + λ TV(x̂),  y each class equally often

    θ_r   weights sent in round r      θ_r^k   what client k sent back      φ = z_y − logsumexp(z_{≠y})

Source  trace: Li, Li, Ribeiro, "Effective Passive Membership Inference Attacks in Federated Learning against
        Overparameterized Models", ICLR 2023. x̂: inverting_gradients.py.
Code    none read.
Cost    trace: R gradients of every candidate. gain: 2R passes. x̂: the inversion's steps on k · per_class images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from attacks.gradient_matching import Observed, gradient
from attacks.inverting_gradients import Config as InversionConfig
from attacks.inverting_gradients import InvertingGradients
from attacks.membership_networks import confidence
from fedsim.audit.view import AdversaryView, Public
from fedsim.data.images import Images
from fedsim.models.functional import call, trainable_names
from fedsim.models.network import Network
from fedsim.types import Params, UserError

CHUNK = 64
"""Candidates whose gradients are taken together."""


@dataclass(frozen=True)
class UpdateRounds:
    """θ_r and θ_r^k of every round, on the device."""

    public: Public
    sent: list[Params]
    back: list[Params]

    @classmethod
    def of(cls, view: AdversaryView) -> UpdateRounds:
        """From a view that grants both; `UserError` where they are not equally many."""
        sent, back = view.released.broadcasts(), view.released.updates()
        if len(sent) != len(back):
            raise UserError(
                f"update: got weights sent in {len(sent)} rounds and sent back in {len(back)}; valid: equal"
            )
        device = view.public.device
        on_device = [[{name: one.to(device) for name, one in each.items()} for each in some] for some in (sent, back)]
        return cls(view.public, *on_device)

    def trace(self, records: Images) -> Float64[np.ndarray, "n"]:
        """Mean cosine of a record's own gradient with what the weights lost."""
        return np.mean([self._cosines(*pair, records) for pair in zip(self.sent, self.back, strict=True)], axis=0)

    def gain(self, records: Images) -> Float64[np.ndarray, "n"]:
        """Mean rise of the confidence in a record's label."""
        pairs = zip(self.sent, self.back, strict=True)
        return np.mean([self._sure(back, records) - self._sure(sent, records) for sent, back in pairs], axis=0)

    def inverted(self, config: InversionConfig, per_class: int, rng: torch.Generator) -> Images:
        """`per_class` images of every class whose gradient at θ_1 points where the first update went, in bytes."""
        network = self.public.with_weights(self.sent[0]).eval()
        moved = {name: value[None] for name, value in self._moved(network, self.sent[0], self.back[0]).items()}
        classes = len(self.public.classes)
        labels = torch.arange(classes, device=self.public.device).repeat_interleave(per_class)
        observed = Observed(
            network, self.sent[0], moved, self.public.image_shape, classes, self.public.normalise, len(labels)
        )
        found = InvertingGradients(config).reconstruct(observed, labels[None], rng)
        pixels = torch.nan_to_num(found.images[0], nan=0.5).clamp(0, 1)
        return Images((255 * pixels).round().to(torch.uint8).cpu(), labels.cpu())

    @staticmethod
    def _moved(network: Network, sent: Params, back: Params) -> Params:
        return {name: sent[name] - back[name] for name in trainable_names(network)}

    def _cosines(self, sent: Params, back: Params, records: Images) -> Float64[np.ndarray, "n"]:
        network = self.public.with_weights(sent).eval()
        moved = self._moved(network, sent, back)
        length = torch.stack([value.double().square().sum() for value in moved.values()]).sum().sqrt()

        def one(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            own = gradient(network, sent, image[None], label[None], image.new_zeros(0))
            inner = torch.stack([(own[name] * moved[name]).sum() for name in own]).sum()
            return inner, torch.stack([value.square().sum() for value in own.values()]).sum()

        found = []
        for pixels, labels in zip(records.pixels.split(CHUNK), records.labels.split(CHUNK), strict=True):
            images = self.public.normalise(pixels.to(self.public.device))
            inner, squares = torch.func.vmap(one)(images, labels.to(self.public.device))
            norms = squares.double().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
            found.append((inner.double() / norms / length).cpu())
        return torch.cat(found).numpy()

    @torch.no_grad()
    def _sure(self, weights: Params, records: Images) -> Float64[np.ndarray, "n"]:
        network, found = self.public.with_weights(weights).eval(), []
        for pixels, labels in zip(records.pixels.split(CHUNK), records.labels.split(CHUNK), strict=True):
            logits = call(network, weights, "forward", self.public.normalise(pixels.to(self.public.device)))
            found.append(confidence(logits.double().cpu(), labels.cpu()))
        return torch.cat(found).numpy()
