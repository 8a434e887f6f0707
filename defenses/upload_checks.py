"""Upload checks: whose synthetic images are unlike those that others send of the same class.

    a_kc(s) = mean over the rows of client k and class c of s(x)            s: brightness, contrast, total variation
    score_k = max over c, s of | a_kc(s) − med_j a_jc(s) | / scale(s)       scale(s): 1.4826 × MAD of all a − med a

    brightness  mean pixel        contrast  standard deviation of the pixels
    total variation  mean |difference| of neighbours, down and right        pixels lie in 0..1

A client is compared with the others inside each class, so that holding other classes is no anomaly. Beside that, a set
that outnumbers the records it is made of is flagged: FedDM's is min(ipc, n_c) a class (not under privacy, where the
number of records is not told). That number is the client's own word: a liar that knows of the rule overstates it, and
is heard no more for that, since a set counts by its images.

What the wire has refused already is not asked again (federated/messages.py): values that are not finite, pixels that
are no bytes (so the box of pixels holds), labels that are no class, more images of a class than agreed.

Source  none; robust z-scores as in suspicion.py.        Code    none.
Cost    one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from defenses.rows import inspected
from defenses.suspicion import class_deviations, largest
from fedsim.config import Section
from fedsim.federated.base import ServerState, Setting, Upload
from fedsim.federated.defences import Sends, Verdict
from fedsim.federated.upload_rows import Rows
from fedsim.seeding import Streams
from fedsim.types import Params


class Config(Section):
    """Settings of the upload checks."""

    name: Literal["upload_checks"] = "upload_checks"
    threshold: float = Field(default=8.0, gt=0)
    """Score beyond which an upload is left out, in robust deviations; it is the largest of three for every class, so
    calibrate it on clean rounds (`fedsim.training.calibration.threshold`)."""


def statistics(pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3"]:
    """Brightness, contrast and total variation of every image; differentiable."""
    flat = pixels.flatten(1)
    brightness = flat.mean(1)
    # the square root has no gradient at a constant image
    contrast = ((flat - brightness[:, None]).square().mean(1) + 1e-12).sqrt()
    down, right = pixels.diff(dim=2).abs(), pixels.diff(dim=3).abs()
    return torch.stack([brightness, contrast, down.flatten(1).mean(1) + right.flatten(1).mean(1)], 1)


def excess(images: int, records: int) -> int:
    """Synthetic images beyond one for each record; 0 where there are none."""
    return max(0, images - records)


class UploadChecks:
    """The filter."""

    Config = Config
    sends: ClassVar[Sends] = "synthetic"
    differentiable: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, setting: Setting, weights: Params, uploads: Rows) -> Float[Tensor, "m"]:
        """Largest deviation of each client; differentiable in the rows' pixels. `weights` are not looked at."""
        classes = len(setting.classes)
        held, values = uploads.held(classes), statistics(setting.normalise.pixels(uploads.inputs))
        apart = [class_deviations(uploads.means(one, classes), held).abs() for one in values.unbind(1)]
        return largest(torch.cat(apart, 1))

    def inspect(
        self, setting: Setting, state: ServerState, uploads: Sequence[Upload], streams: Streams
    ) -> Sequence[Verdict]:
        """By the score; one that has too many images has a score above the threshold by as many."""
        found = inspected(self, self.config.threshold, setting, state, uploads)
        if setting.privacy is not None:
            return found
        return [self._counted(verdict, upload) for verdict, upload in zip(found, uploads, strict=True)]

    def _counted(self, verdict: Verdict, upload: Upload) -> Verdict:
        assert upload.synthetic is not None, "the contract refuses an upload without a set"
        more = excess(len(upload.synthetic), upload.examples)
        if not more:
            return verdict
        return replace(verdict, score=max(verdict.score, self.config.threshold + more), flagged=True, judged=True)
