"""The door of a private owner among whose records an audit planted some, as the worst-case adversary watches it.

A crafted canary (data/canaries.py) is a vector of the greatest norm, C under every network, at right angles to the
others of its class and to the mean of the class: the worst that a record can be to the mechanism. It needs no image
that a network maps there: the guarantee holds for any function of one record, so the embedding is changed on crafted
canaries (known by their bytes) to say the crafted vector. Clipping, count, grid, sum, noise and ledger are those of
the run.

    client_CCCC/looks/KEY.safetensors   values · rest · rows      of one release, beside the ledger; not who is in
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from fedsim.data.canaries import Planted
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism, NoisySum, contributions
from fedsim.privacy.noise import Noise
from fedsim.privacy.owner import ROWS, Embed, PrivateImages, full_precision
from fedsim.runs import load_tensors, save_tensors
from fedsim.seeding import Streams
from fedsim.types import UserError

LOOKS = "looks"
"""Folder of what was watched, in the client's own."""


@dataclass(frozen=True)
class Look:
    """What the adversary holds of one release: the release, and what it knows beside it."""

    values: Float64[Tensor, "k e"]
    """ṽ."""
    rest: Float64[Tensor, "k e"]
    """Sum of the vectors of all records that are no canaries."""
    rows: Float64[Tensor, "m e"]
    """[u, κ] of every canary, in or not: clipped and on the grid, as the mechanism adds it."""


def look(
    values: Float64[Tensor, "k e"],
    rest: tuple[Float[Tensor, "n d"], Int64[Tensor, "n"]],
    canaries: Float[Tensor, "m d"],
    centre: Float[Tensor, "d"],
    mechanism: Mechanism,
) -> Look:
    """From vectors ψ(x) of the other records, with their labels, and of the canaries."""
    vectors, labels = rest
    total = torch.zeros(values.shape, dtype=torch.int64)
    total.index_add_(0, labels.cpu(), contributions(vectors, centre, mechanism))
    rows = contributions(canaries, centre, mechanism)
    return Look(values, total.double() * mechanism.grid, rows.double() * mechanism.grid)


def directions(count: int, avoided: Float64[Tensor, "a d"], rng: torch.Generator) -> Float64[Tensor, "count d"]:
    """Unit rows at right angles to each other and to `avoided` where count + a ≤ d; else random ones."""
    a, width = avoided.shape
    drawn = torch.randn((count, width), generator=rng, dtype=torch.float64)
    if count + a <= width:
        return torch.linalg.qr(torch.cat([avoided, drawn]).T).Q.T[a:].contiguous()
    return drawn / drawn.norm(dim=1, keepdim=True)


def crafted(
    labels: Int64[Tensor, "m"], means: Float64[Tensor, "k d"], clip: float, rng: torch.Generator
) -> Float64[Tensor, "m d"]:
    """u of every canary under one network, of norm C; `means` are those of ψ − a over the classes."""
    rows = torch.zeros((len(labels), means.shape[1]), dtype=torch.float64)
    for label in range(len(means)):
        mine = labels == label
        rows[mine] = clip * directions(int(mine.sum()), means[label : label + 1], rng)
    return rows


class ObservedOwner(PrivateImages):
    """A client's real door: the canaries that are in are records like any other, and every release is watched.

    `looks` are what the adversary holds, in the order of the releases. Every record must be in every release (q = 1).
    """

    def __init__(
        self,
        planted: Planted,
        num_classes: int,
        normalise: Normalise,
        device: torch.device,
        mechanism: Mechanism,
        noise: Callable[[str], Noise],
        ledger: Ledger,
        craft: Streams,
        keep: Path | None = None,
    ) -> None:
        """`craft` draws the vectors of crafted canaries; `keep` is the folder that looks are stored in."""
        if mechanism.rate < 1:
            raise UserError(f"privacy.rate: got {mechanism.rate}; canaries are decoded from releases of all records; "
                            "valid: 1")  # fmt: skip
        rest, inside = planted.rest, planted.canaries.take(torch.nonzero(planted.included).flatten())
        together = Images(torch.cat([rest.pixels, inside.pixels]), torch.cat([rest.labels, inside.labels]))
        super().__init__(together, num_classes, normalise, device, mechanism, noise, ledger)
        self._planted, self._craft, self._keep = planted, craft, keep
        self.looks: list[Look] = []

    def release(
        self, question: str, embed: Embed, centre: Float[Tensor, "d"], network: nn.Module, *, rows: int = 0
    ) -> NoisySum:
        """As of a `PrivateImages`."""
        planted, size = self._planted, rows or ROWS
        vectors, canaries = self._seen(embed, planted.rest, size), self._seen(embed, planted.canaries, size).double()
        asked, made = embed, planted.crafted
        if made.any():
            labels, public = planted.canaries.labels[made], centre.double().cpu()
            means = class_means(vectors.double() - public, planted.rest.labels, self._classes)
            rng = self._craft.generator("crafted", question)
            canaries[made] = public + crafted(labels, means, self.mechanism.clip, rng)
            names = self._normalise(planted.canaries.pixels[made].to(self._device))
            asked = said(embed, names, canaries[made])
        found = super().release(question, asked, centre, network, rows=rows)
        seen = look(found.values, (vectors, planted.rest.labels), canaries, centre.cpu(), self.mechanism)
        self.looks.append(seen)
        if self._keep is not None:
            name = hashlib.sha256(question.encode()).hexdigest()[:32]
            save_tensors(self._keep / f"{name}.safetensors", vars(seen), {})
        return found

    def release_pooled(self, *_: object, **__: object) -> NoReturn:
        """Refused: canaries are decoded from sums of one class each."""
        raise UserError("audit.planted: canaries are decoded from class sums, and this method asks for a sum over all "
                        "classes; valid: privacy: features")  # fmt: skip

    def _seen(self, embed: Embed, images: Images, rows: int) -> Float[Tensor, "n d"]:
        """Vectors of images as a release sees them, on the CPU."""
        images = images.to(self._device)
        pieces = zip(images.pixels.split(rows), images.labels.split(rows), strict=True)
        with torch.no_grad(), full_precision():
            return torch.cat([embed(self._normalise(pixels), labels).cpu() for pixels, labels in pieces])


def stored_looks(folder: Path) -> list[Look]:
    """What was watched of a client whose folder this is."""
    found = [load_tensors(path)[0] for path in sorted((folder / LOOKS).glob("*.safetensors"))]
    return [Look(one["values"], one["rest"], one["rows"]) for one in found]


def class_means(
    vectors: Float64[Tensor, "n d"], labels: Int64[Tensor, "n"], num_classes: int
) -> Float64[Tensor, "k d"]:
    """Of every class; 0 of one without records."""
    sums = torch.zeros((num_classes, vectors.shape[1]), dtype=torch.float64).index_add_(0, labels, vectors)
    return sums / torch.bincount(labels, minlength=num_classes).clamp(min=1).unsqueeze(1)


def said(embed: Embed, names: Float[Tensor, "m c h w"], vectors: Float64[Tensor, "m d"]) -> Embed:
    """`embed`, but of the images `names` the vectors that are given. An image's vector still depends on it alone."""
    place = {image.numpy().tobytes(): index for index, image in enumerate(names.cpu())}
    if len(place) < len(names):
        raise UserError("canaries: got two of the same bytes; valid: crafted canaries whose images all differ")

    def changed(images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"]) -> Float64[Tensor, "n d"]:
        found = embed(images, labels).double().cpu()
        for row, image in enumerate(images.cpu()):
            if (index := place.get(image.numpy().tobytes())) is not None:
                found[row] = vectors[index]
        return found

    return changed
