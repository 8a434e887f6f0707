"""Images of the round before, sent to the clients of the next: what was uploaded is public, and costs no privacy.

The server keeps a random sample of the union of a round's uploads and broadcasts it beside its weights.
"""

from __future__ import annotations

import torch

from fedsim.data.images import Images
from fedsim.federated.base import Broadcast, Setting
from fedsim.types import Params

SAMPLE = 512
"""Images that are kept of a union, at most."""

PIXELS, LABELS = "previous.pixels", "previous.labels"


def sampled(setting: Setting, images: Images, rng: torch.Generator) -> Params:
    """What the server remembers of the uploads of a round; nothing where clients are sent none."""
    if setting.privacy is None or not setting.privacy.sends_previous:
        return {}
    kept = images.take(torch.randperm(len(images), generator=rng)[:SAMPLE])
    return {PIXELS: kept.pixels, LABELS: kept.labels}


def received(setting: Setting, broadcast: Broadcast) -> Images | None:
    """The images that came with a broadcast."""
    if PIXELS not in broadcast.extra:
        return None
    return Images(broadcast.extra[PIXELS], broadcast.extra[LABELS]).to(setting.device)
