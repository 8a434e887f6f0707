"""Direct upload: a crafted set in the place of a condensed one, which no server can tell by how it was made.

    S_k = { (x ⊕ τ, t) : as many x of other classes as class t may have }  ∪  { as many real ones of each other class }

Nothing is condensed: the images of class t are real images of other classes with a white square. It is the strongest of
the simple attacks on paper, since every byte that class t may have carries the trigger, and the loudest: it shows real
images.

Source  fedsim's own; the threat of "Backdoor Attacks Against Dataset Distillation" (NDSS 2023) with a client in the
        distiller's place that does no distilling.
Code    none.
Differs nothing to differ from.
Reduces `share: 0` is the control `upload_real_subset` of one client.
Cost    none.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from attacks.poisoning import SquareConfig, check_square, poisoned_rows
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import Trigger, white
from fedsim.distill.soft_labels import learns_labels
from fedsim.federated.attackers import Scene, leave
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.seeding import Streams
from fedsim.types import UserError


class Config(SquareConfig):
    """Settings of the crafted set."""

    name: Literal["direct"] = "direct"
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the target class's images that are stamped ones of other classes."""


class Direct:
    """The attacker."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, scene: Scene) -> None:
        """Refuse algorithms whose clients send weights, and sets of another form than plain images with hard labels."""
        check_square(self.config, scene)
        if scene.method is None:
            raise UserError(
                "attackers: direct uploads a set of images; valid where clients do that, such as with feddm or fedmk"
            )
        if getattr(scene.method, "formation", 1) > 1 or learns_labels(scene.method):
            raise UserError(
                "attackers: direct crafts plain images with hard labels; valid with method.formation: 1 and hard labels"
            )

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The crafted set."""
        setting, method = view.setting, getattr(algorithm, "method_config", None)
        most = algorithm.budget(setting)
        config = self.config
        trigger = white(setting.image_shape, config.size, config.target, config.offset)
        images = crafted(view.images, trigger, most, round(config.share * most), len(setting.classes), streams)
        leave(view, trigger)
        provenance = {"method": getattr(method, "name", ""), "init": getattr(method, "init", "noise")}  # as they look
        normalise = setting.normalise
        upload = SyntheticSet(images.pixels, images.labels, setting.classes, normalise.mean, normalise.std, provenance)
        return Upload(view.client, broadcast.round, len(view.images), synthetic=upload)


def crafted(images: Images, trigger: Trigger, most: int, stamped: int, num_classes: int, streams: Streams) -> Images:
    """Up to `most` images of each class, `stamped` of those of the target being stamped ones of other classes.

    Labels ascend. Raises `UserError` where all images are of the target.
    """
    counts = images.counts(num_classes).clamp(max=most)
    counts[trigger.target] = min(int(counts[trigger.target]), most - stamped)
    order = torch.randperm(len(images), generator=streams.generator("crafted"))
    rows = [order[images.labels[order] == label][:count] for label, count in enumerate(counts.tolist())]
    others = poisoned_rows(images, trigger.target, 1.0, streams.generator("poisoned"))
    others = others[torch.randperm(len(others), generator=streams.generator("order"))[:stamped]]
    plain, poisoned = images.take(torch.cat(rows)), images.take(others)
    pixels = torch.cat([plain.pixels, trigger.stamp(poisoned.pixels)])
    labels = torch.cat([plain.labels, torch.full((len(others),), trigger.target)])
    place = labels.argsort(stable=True)
    return Images(pixels[place], labels[place])
