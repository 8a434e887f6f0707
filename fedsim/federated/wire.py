"""How arrays travel: number formats and compression of a message's records, undone before anything looks at them.

    images   uint8 u      float32, float16: u / 255, what papers send       received  round(255 · v): the same bytes
    weights  float32 w    float16: w rounded to half precision              received  that, as float32
    deflate  zlib over each encoded array; its size depends on the zlib of the machine in the last bytes

Bytes are what formats of images change, never the images: 1 / 255 is four steps of float16 near 1. Half precision of
weights changes the run: both sides go on from what they received. A client remembers what it computed.

Labels, soft labels, counters (batch norm's) and images of the round before that a server sends under `privacy`
(`previous.pixels`: bytes) travel as they are, but for deflate. An upload is decompressed to the agreed size at most; a
client trusts its server. As agreed by default nothing is touched here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedsim.config import Section
from fedsim.federated.base import Broadcast
from fedsim.types import Params, UserError

NPY = b"\x93NUMPY"
"""How every array on the wire begins."""
HEADER = 1024
"""Bytes that the header of an array may take; numpy writes 128."""
LEVEL = 6
"""Of zlib."""

Sizes = Mapping[str, Mapping[str, int]]
"""Record → array → bytes of its numbers as they travel, at most."""


class Rejected(Exception):  # noqa: N818 - a verdict, not a failure of this program
    """An upload that is not used; its text says why."""


class Wire(Section):
    """How images and weights travel, both ways."""

    images: Literal["uint8", "float32", "float16"] = "uint8"
    """Numbers of synthetic images; the set itself is always bytes."""
    weights: Literal["float32", "float16"] = "float32"
    """Numbers of weights; float16 rounds them."""
    deflate: bool = False
    """Whether every array is compressed."""

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one value of an image."""
        return np.dtype(self.images).itemsize

    def weight_bytes(self, value: torch.Tensor) -> int:
        """Bytes of one tensor of weights."""
        return value.numel() * (2 if value.is_floating_point() and self.weights == "float16" else value.element_size())


PLAIN = Wire()
"""Nothing is rounded, widened or compressed."""


def check_wire(wire: Wire, algorithm: str, method: Section | None) -> None:
    """Refuse a form of images where none travel."""
    if method is None and wire.images != PLAIN.images:
        raise UserError(f"wire.images: algorithm {algorithm} sends no images; leave it out, or give wire.weights")


def encode(content: RecordDict, wire: Wire) -> RecordDict:
    """The records as they travel; arrays of a type that was not agreed (faults make them) keep it."""
    if wire == PLAIN:
        return content
    found = RecordDict(dict(content.items()))
    for key, record in content.array_records.items():
        found[key] = ArrayRecord({name: _sent(key, name, array, wire) for name, array in record.items()})
    return found


def decode(content: RecordDict, wire: Wire, most: Sizes | None = None) -> RecordDict:
    """What was encoded; `Rejected` for what was not agreed. With `most`, arrays it does not list stay as they came."""
    if wire == PLAIN:
        return content
    found = RecordDict(dict(content.items()))
    for key, record in content.array_records.items():
        sizes = None if most is None else most.get(key, {})
        found[key] = ArrayRecord(
            {
                name: array if sizes is not None and name not in sizes else _received(key, name, array, wire, sizes)
                for name, array in record.items()
            }
        )
    return found


def half(weights: Params) -> Params:
    """Weights as they are after their travel in float16; `UserError` where one is beyond its largest number."""
    found = {}
    for name, value in weights.items():
        found[name] = value
        if value.is_floating_point():
            found[name] = value.half().to(value.dtype)
            if bool((torch.isinf(found[name]) & ~torch.isinf(value)).any()):
                largest = float(value[torch.isfinite(value)].abs().max())
                raise UserError(
                    f"wire.weights: float16 reaches to 65504, and {name} holds {largest:.4g}; give wire.weights=float32"
                )
    return found


def as_received(broadcasts: Mapping[int, Broadcast], wire: Wire) -> Mapping[int, Broadcast]:
    """The broadcasts as clients will see them; those that are one object stay one."""
    if wire.weights == "float32":
        return broadcasts
    rounded = {key: replace(one, weights=half(one.weights)) for key, one in _distinct(broadcasts).items()}
    return {client: rounded[id(one)] for client, one in broadcasts.items()}


def decoded(arrays: Mapping[str, Array]) -> Params:
    """The tensors of arrays in numpy's format; `Rejected` for anything else."""
    tensors = {}
    for name, array in arrays.items():
        if not array.data.startswith(NPY):  # numpy would open a zip archive here
            raise Rejected(f"{name} cannot be decoded (no .npy array)")
        try:
            tensors[name] = torch.from_numpy(array.numpy().copy())
        except Exception as error:
            raise Rejected(f"{name} cannot be decoded ({type(error).__name__}: {error})") from error
    return tensors


def _distinct(broadcasts: Mapping[int, Broadcast]) -> dict[int, Broadcast]:
    return {id(one): one for one in broadcasts.values()}


def _agreed(key: str, name: str, wire: Wire) -> tuple[str, torch.dtype, torch.dtype] | None:
    """(format, its type, the type at both ends) of an array; None: it travels as it is."""
    if key == "weights" and wire.weights != "float32":
        return wire.weights, torch.float16, torch.float32
    if key != "weights" and name == "images" and wire.images != "uint8":
        return wire.images, torch.float32 if wire.images == "float32" else torch.float16, torch.uint8
    return None


def _sent(key: str, name: str, array: Array, wire: Wire) -> Array:
    agreed = _agreed(key, name, wire)
    if agreed is not None:
        value = torch.from_numpy(array.numpy().copy())
        if value.dtype == agreed[2]:
            there = (value / 255).to(agreed[1]) if agreed[2] == torch.uint8 else half({name: value})[name].half()
            array = Array(there.numpy())
    if not wire.deflate:
        return array
    return Array(array.dtype, tuple(array.shape), array.stype, zlib.compress(array.data, LEVEL))


def _received(key: str, name: str, array: Array, wire: Wire, sizes: Mapping[str, int] | None) -> Array:
    if wire.deflate:
        data = _inflated(name, array.data, None if sizes is None else sizes[name] + HEADER)
        array = Array(array.dtype, tuple(array.shape), array.stype, data)
    agreed = _agreed(key, name, wire)
    if agreed is None:
        return array
    form, there, here = agreed
    value = decoded({name: array})[name]
    if here == torch.float32 and not value.is_floating_point():
        return array  # a counter
    if value.dtype != there:
        raise Rejected(f"{name} travels as {str(value.dtype).removeprefix('torch.')}, agreed is {form}")
    return Array((_bytes(name, value) if here == torch.uint8 else value.float()).numpy())


def _bytes(name: str, value: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(value).all()):
        raise Rejected(f"{int((~torch.isfinite(value)).sum())} pixel values are not finite")
    if value.numel() and not (float(value.min()) >= 0 and float(value.max()) <= 1):
        raise Rejected(f"{name} reach from {float(value.min()):.4g} to {float(value.max()):.4g}, valid are 0 to 1")
    return (value.float() * 255).round().to(torch.uint8)


def _inflated(name: str, data: bytes, most: int | None) -> bytes:
    """The content of a zlib stream, of which no more than `most` bytes are ever made."""
    if data.startswith(NPY):
        raise Rejected(f"{name} is not deflated, which was agreed")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, 0 if most is None else most + 1)
    except zlib.error as error:
        raise Rejected(f"{name} cannot be inflated ({error})") from error
    if most is not None and len(found) > most:
        raise Rejected(f"{name} inflates to more than the agreed {most} bytes")
    if not stream.eof or stream.unused_data:
        raise Rejected(f"{name} cannot be inflated (the stream is cut short or followed by more)")
    return found
