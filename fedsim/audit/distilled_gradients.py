"""Gradients on distilled data: what a client would send that trains on its synthetic set in the place of its records.

    g_b = ∇_θ (1/s) Σ_{i ∈ b} ℓ(φ_θ(x̃_i), y_i)        b = 1 … n cases of s images of S_k each, none twice

The evaluator takes the set that the client sent last. What an attack makes of g_b is at best x̃, so two things are
asked: is it x̃ again, and is it nearer to the client's records D_k than to as many held-out ones of the class? The
second has to be compared with what x̃ itself says, which is published in any case where sets are sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedsim.audit.gradients import OTHERS, GradientRelease, gradient
from fedsim.audit.types import Truth
from fedsim.build import Parts
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.models.functional import state
from fedsim.seeding import numpy_stream
from fedsim.types import Params, UserError


@dataclass(frozen=True)
class DistilledCases:
    """Batches of the last synthetic set of one client."""

    parts: Parts
    sets: list[Path]
    """What the client sent, in the order of rounds."""
    client: int
    cases: int
    """n."""
    records: int
    """s."""
    seed: int
    weights: Params | None = None
    """θ; None: the weights that were sent first."""

    def images(self) -> tuple[Images, np.ndarray]:
        """The set and (n, s) places in it; `UserError` where there is none or it is too small."""
        if not self.sets:
            raise UserError("gradients.of=synthetic: the run keeps no synthetic set of the client; valid: of=records")
        shown = SyntheticSet.load(self.sets[-1]).as_images()
        if self.cases * self.records > len(shown):
            raise UserError(
                f"gradients: got {self.cases} cases of {self.records} images; valid: at most {len(shown)} images in "
                f"all, as client {self.client} sent"
            )
        order = numpy_stream(self.seed, "gradients", "synthetic").permutation(len(shown))
        return shown, order[: self.cases * self.records].reshape(self.cases, self.records)

    def release(self) -> GradientRelease:
        """The gradients, one case after another."""
        shown, places = self.images()
        setting, found = self.parts.setting, []
        network = setting.first_network().eval()
        first = state(network)
        given = self.weights or first
        params = {name: value.detach().to(first[name]).clone() for name, value in given.items()}
        for batch in places:
            images = shown.take(torch.from_numpy(batch))
            found.append(gradient(network, params, setting.normalise(images.pixels.to(setting.device)), images))
        stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
        return GradientRelease(params, stacked, self.records)

    def truth(self) -> Truth:
        """Pixels (n, s, c, h, w) and labels (n, s) of the synthetic images; held-out records of their classes, m each.

        `pool` (N, c, h, w), `pool_labels` (N), `pool_members` (N): the client's records of these classes and as many
        held-out ones of each.
        """
        shown, places = self.images()
        labels, train = shown.labels.numpy(), self.parts.dataset.train.labels.numpy()
        rng, out = numpy_stream(self.seed, "gradients", "others"), self.parts.split.holdout
        held = self.parts.split.client[self.client]
        kinds = {int(label): out[train[out] == label] for label in np.unique(labels[places])}
        most = min(OTHERS, *(len(one) for one in kinds.values()))
        if most < 1:
            raise UserError("gradients: a class has no held-out record to tell from; raise run.audit.holdout")
        chosen = np.stack([rng.permutation(kinds[int(label)])[:most] for label in labels[places].ravel()])
        inside, outside = [], []
        for label, rest in kinds.items():
            mine = held[train[held] == label]
            size = min(len(mine), len(rest))
            inside.append(rng.permutation(mine)[:size])
            outside.append(rng.permutation(rest)[:size])
        pool = np.concatenate([*inside, *outside])
        shape = tuple(shown.pixels.shape[1:])
        return {
            "images": shown.pixels.numpy()[places],
            "labels": labels[places],
            "others": self.parts.images(chosen.ravel()).pixels.numpy().reshape(*places.shape, most, *shape),
            "pool": self.parts.images(pool).pixels.numpy(),
            "pool_labels": train[pool],
            "pool_members": np.arange(len(pool)) < sum(map(len, inside)),
        }
