"""Canaries of a one-run audit, and the door of a private owner as the adversary watches it.

    crafted       a vector of the greatest norm, C under every network, at right angles to the others of its class and
                  to the mean of the class: the worst that a record can be to the mechanism
    mislabelled   a record of the client under another label          natural   a record as it is
    ood_noise     an image of uniform bytes

A crafted canary needs no image that a network maps there: the guarantee holds for any function of one record, so the
embedding is changed on the canaries (known by their bytes) to say the crafted vector. Clipping, count, grid, sum, noise
and ledger are those of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism, NoisySum, contributions
from fedsim.privacy.noise import Noise
from fedsim.privacy.owner import ROWS, Embed, PrivateImages, full_precision
from fedsim.seeding import Streams
from fedsim.types import UserError

Kind = Literal["crafted", "mislabelled", "natural", "ood_noise"]
"""What a canary is."""


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


def canaries_of(kind: Kind, held: Images, count: int, num_classes: int, rng: torch.Generator) -> tuple[Images, Images]:
    """`count` canaries of a client who holds `held`, and the records beside them.

    Records that become canaries are taken out of the rest. Images of crafted ones are names, no more.
    """
    if count < 1:
        raise UserError(f"canaries: got {count}; valid: at least one for each client")
    if kind in ("crafted", "ood_noise"):
        shape = (count, *held.pixels.shape[1:])
        pixels = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        return held, Images(pixels, torch.arange(count) % num_classes)
    if count > len(held):
        raise UserError(f"canaries: got {count} {kind} of a client with {len(held)} records; valid: at most as many; "
                        "give fewer, or kind: crafted")  # fmt: skip
    order = torch.randperm(len(held), generator=rng)
    chosen = held.take(order[:count])
    if kind == "mislabelled":
        moved = chosen.labels + torch.randint(1, num_classes, (count,), generator=rng)
        chosen = Images(chosen.pixels, moved % num_classes)
    return held.take(order[count:]), chosen


class ObservedOwner(PrivateImages):
    """A client's real door: the canaries that are in are records like any other, and every release is watched.

    `looks` are what the adversary holds, in the order of the releases. Every record must be in every release (q = 1).
    """

    def __init__(
        self,
        rest: Images,
        canaries: Images,
        included: Bool[Tensor, "m"],
        num_classes: int,
        normalise: Normalise,
        mechanism: Mechanism,
        noise: Callable[[str], Noise],
        ledger: Ledger,
        craft: Streams | None = None,
    ) -> None:
        """`included` says which canaries are in; `craft` draws the vectors of crafted ones; None: they are images."""
        if mechanism.rate < 1:
            raise UserError(f"privacy.rate: got {mechanism.rate}; canaries are decoded from releases of all records; "
                            "valid: 1")  # fmt: skip
        together = Images(
            torch.cat([rest.pixels, canaries.pixels[included]]), torch.cat([rest.labels, canaries.labels[included]])
        )
        super().__init__(together, num_classes, normalise, torch.device("cpu"), mechanism, noise, ledger)
        self._rest, self._canaries, self._craft = rest, canaries, craft
        self.looks: list[Look] = []

    def release(
        self, question: str, embed: Embed, centre: Float[Tensor, "d"], network: nn.Module, *, rows: int = 0
    ) -> NoisySum:
        """As of a `PrivateImages`."""
        vectors = self._seen(embed, self._rest, rows or ROWS)
        if self._craft is None:
            canaries, asked = self._seen(embed, self._canaries, rows or ROWS), embed
        else:
            means = class_means(vectors.double() - centre.double(), self._rest.labels, self._classes)
            rng = self._craft.generator("crafted", question)
            canaries = centre.double() + crafted(self._canaries.labels, means, self.mechanism.clip, rng)
            asked = said(embed, self._normalise(self._canaries.pixels), canaries)
        found = super().release(question, asked, centre, network, rows=rows)
        self.looks.append(look(found.values, (vectors, self._rest.labels), canaries, centre, self.mechanism))
        return found

    def _seen(self, embed: Embed, images: Images, rows: int) -> Float[Tensor, "n d"]:
        """Vectors of images as a release sees them."""
        pieces = zip(images.pixels.split(rows), images.labels.split(rows), strict=True)
        with torch.no_grad(), full_precision():
            return torch.cat([embed(self._normalise(pixels), labels) for pixels, labels in pieces])


def class_means(
    vectors: Float64[Tensor, "n d"], labels: Int64[Tensor, "n"], num_classes: int
) -> Float64[Tensor, "k d"]:
    """Of every class; 0 of one without records."""
    sums = torch.zeros((num_classes, vectors.shape[1]), dtype=torch.float64).index_add_(0, labels, vectors)
    return sums / torch.bincount(labels, minlength=num_classes).clamp(min=1).unsqueeze(1)


def said(embed: Embed, names: Float[Tensor, "m c h w"], vectors: Float64[Tensor, "m d"]) -> Embed:
    """`embed`, but of the images `names` the vectors that are given. An image's vector still depends on it alone."""
    place = {image.numpy().tobytes(): index for index, image in enumerate(names)}
    if len(place) < len(names):
        raise UserError("canaries: got two of the same bytes; valid: crafted canaries whose images all differ")

    def changed(images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"]) -> Float64[Tensor, "n d"]:
        found = embed(images, labels).double()
        for row, image in enumerate(images):
            if (index := place.get(image.numpy().tobytes())) is not None:
                found[row] = vectors[index]
        return found

    return changed
