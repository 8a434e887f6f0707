"""A client's real images under differential privacy: charged, noisy sums go out, and nothing else does.

What a condensation may ask of real images elsewhere (class sums, counts, images to start from, subsets to select) is
closed here by type, with the reason in one line. A release is asked for by a name for what it answers (`question`); the
same question gets the same release and costs nothing (ledger.py).

A vector must be a function of its own record. Batch norm is refused for that. What remains is rounding: a network may
give a record other last bits in a pass of another size, and a record more or less shifts the passes. The bound on the
sensitivity is exact in the vectors, and so up to that rounding in the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.models.functional import has_batch_norm
from fedsim.privacy.ledger import Charge, Ledger
from fedsim.privacy.mechanism import Mechanism, NoisySum, release
from fedsim.privacy.noise import Noise
from fedsim.privacy.pooled import PooledSum, release_pooled
from fedsim.types import UserError

ROWS = 256
"""Images of one pass, where no chunk is set."""

Embed = Callable[[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], Float[Tensor, "n d"]]
"""Normalised images and their labels to vectors, each of its own image alone."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in float32 as they are, never in a GPU's TensorFloat-32, while a release is made."""
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


class Closed:
    """Stands where something private would be; whatever is asked of it is refused."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(self._what)

    def __getitem__(self, _: object) -> NoReturn:
        refuse(self._what)


def refuse(what: str) -> NoReturn:
    """Say that `what` does not leave a private owner."""
    raise UserError(
        f"privacy: the method asks for {what}, and a private client gives out noisy sums only; valid, from noise: "
        "privacy: features with dm, or privacy: gradients with dc, dsa, idc, meta_knowledge or dm"
    )


class PrivateImages:
    """One owner's images behind a door for noisy sums. It fits where `distill.real.Real` is asked for."""

    def __init__(
        self,
        images: Images,
        num_classes: int,
        normalise: Normalise,
        device: torch.device,
        mechanism: Mechanism,
        noise: Callable[[str], Noise],
        ledger: Ledger,
    ) -> None:
        """`noise` makes the source for the question it is given; a seeded one gives the same again."""
        self.__images = images.to(device)
        self._classes, self._normalise, self._device = num_classes, normalise, device
        self.mechanism, self._noise, self.ledger = mechanism, noise, ledger
        _, channels, height, width = images.pixels.shape
        self.image_shape: tuple[int, int, int] = (channels, height, width)
        self.counts: Any = Closed("how many images each class has")

    def class_sums(self, *_: object, **__: object) -> NoReturn:
        """Refused: these sums are exact."""
        refuse("exact class sums")

    def subset(self, *_: object, **__: object) -> NoReturn:
        """Refused: these are images."""
        refuse("real images")

    def release(
        self, question: str, embed: Embed, centre: Float[Tensor, "d"], network: nn.Module, *, rows: int = 0
    ) -> NoisySum:
        """ṽ of all classes under `embed`, which passes images through `network`, at most `rows` at once."""

        def make(source: Noise) -> Tensor:
            pieces = self._pieces(embed, source, rows or ROWS)
            return release(pieces, centre, self._classes, self.mechanism, source).values

        values, simulated = self._once(question, network, make)
        return NoisySum(values, float(self.mechanism.kappa), float(self.mechanism.rate), simulated)

    def release_pooled(
        self, question: str, embed: Embed, centre: Float[Tensor, "d"], network: nn.Module, *, rows: int = 0
    ) -> PooledSum:
        """ṽ over all records, whatever their class, and the noisy counts of all classes."""

        def make(source: Noise) -> Tensor:
            pieces = self._pieces(embed, source, rows or ROWS)
            return release_pooled(pieces, centre, self._classes, self.mechanism, source).values

        values, simulated = self._once(question, network, make)
        return PooledSum(values, self._classes, float(self.mechanism.kappa), float(self.mechanism.rate), simulated)

    def _once(self, question: str, network: nn.Module, make: Callable[[Noise], Tensor]) -> tuple[Tensor, bool]:
        """What answers the question, made and charged the first time; and whether its noise is a simulation."""
        if has_batch_norm(network):
            raise UserError(
                "model.norm: got batch; under privacy an image's features must not depend on other images; valid: "
                "instance, group, layer, none"
            )
        source = self._noise(question)
        charge = Charge.of(question, self.mechanism, 1, simulated=source.simulated)
        with full_precision():
            return self.ledger.once(charge, lambda: {"values": make(source)})["values"], source.simulated

    def _pieces(self, embed: Embed, source: Noise, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Vectors and labels of the records that take part: all, or each with probability q."""
        images = self.__images
        if self.mechanism.rate < 1:
            taking_part = source.chosen(len(images), self.mechanism.rate)
            images = images.take(torch.nonzero(taking_part).flatten().to(self._device))
        for pixels, labels in zip(images.pixels.split(rows), images.labels.split(rows), strict=True):
            if len(labels):
                with torch.no_grad():
                    yield embed(self._normalise(pixels), labels), labels
