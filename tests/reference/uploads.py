"""Uploads that are sound, and everything a stranger may send instead: bytes that lie, records that miss a part."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import Array, RecordDict

from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import Upload
from fedsim.federated.messages import write_upload
from fedsim.seeding import stream
from tests.reference import fedavg as reference

SETTING = reference.setting("batch")
WEIGHTS = SETTING.fresh(stream(0)).state_dict()


def upload() -> RecordDict:
    labels = torch.tensor([0, 0, 2, 3])
    images = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    synthetic = SyntheticSet(images, labels, SETTING.classes, (0.3,), (0.4,), {"method": "dm", "init": "noise"})
    return write_upload(Upload(1, 2, 9, synthetic, WEIGHTS, [(1, 0.5)]))


def raw(content: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="uint8", shape=(4, 1, 6, 6), stype=stype, data=content)


def saved(value: np.ndarray, *, pickled: bool = False) -> bytes:
    stream_of_bytes = io.BytesIO()
    np.save(stream_of_bytes, value, allow_pickle=pickled)
    return stream_of_bytes.getvalue()


def lying(shape: str) -> bytes:
    """An .npy header that promises more than there is."""
    return header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")


def header(text: str) -> bytes:
    """An .npy file whose header is any text."""
    line = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def zipped() -> bytes:
    stream_of_bytes = io.BytesIO()
    np.savez(stream_of_bytes, images=np.zeros((4, 1, 6, 6), np.uint8))
    return stream_of_bytes.getvalue()


def empty_zip() -> bytes:
    stream_of_bytes = io.BytesIO()
    zipfile.ZipFile(stream_of_bytes, "w").close()
    return stream_of_bytes.getvalue()


Spoil = Callable[[RecordDict], Any]


def put(record: str, **values: Any) -> Spoil:
    def spoil(content: RecordDict) -> None:
        target: Any = content[record]
        for name, value in values.items():
            target[name] = Array(value) if isinstance(value, np.ndarray) else value

    return spoil


def drop(record: str, name: str | None = None) -> Spoil:
    def spoil(content: RecordDict) -> None:
        target: Any = content if name is None else content[record]
        del target[record if name is None else name]

    return spoil


def zeros(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


def first(value: np.ndarray | float, name: str = "head.weight") -> Spoil:
    def spoil(content: RecordDict) -> None:
        array = WEIGHTS[name].detach().numpy().copy()
        if isinstance(value, float):
            array.reshape(-1)[0] = value
        content.array_records["weights"][name] = Array(value if isinstance(value, np.ndarray) else array)

    return spoil
