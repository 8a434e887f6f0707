"""Tensors ⇄ Flower records, and the check every upload passes before it is used.

The only place with the keys of a client's records; `blocks.py` puts those of several clients into one message.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from pydantic import Field

from fedsim.config import Section
from fedsim.data import weights as scale
from fedsim.data.synthetic import SyntheticSet, check_tensors
from fedsim.federated.base import Broadcast, Setting, Upload
from fedsim.federated.wire import PLAIN, Rejected, Wire, decode, decoded
from fedsim.types import Params, UserError

WEIGHTS, EXTRA, SYNTHETIC, METRICS, INFO = "weights", "extra", "synthetic", "metrics", "info"


class UploadLimits(Section):
    """What an upload may hold; `auto` is what was agreed."""

    images: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Synthetic images of one upload; auto: ipc for every class."""
    bytes: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Encoded size of one upload; auto: twice what the agreed images and weights take, and 64 KiB."""


class Stopped(UserError):  # noqa: N818 - says what happened
    """A client cannot go on and the run must not without it: its folder fails it, or its settings do not fit it."""


@dataclass(frozen=True)
class Contract:
    """What the server expects of every upload of a run."""

    setting: Setting
    per_class: int
    """Synthetic images per class at most; 0: none are uploaded."""
    weights: Params | None
    """Shapes of the weights that are uploaded; None: none are."""
    images: int
    bytes: int
    formation: int = 1
    """Images that each uploaded one holds, as its square root."""
    soft: bool = False
    """Whether soft labels are uploaded."""
    wire: Wire = PLAIN
    """How arrays travel."""

    @classmethod
    def agree(
        cls, setting: Setting, per_class: int, weights: Params | None, limits: UploadLimits,
        formation: int = 1, soft: bool = False, wire: Wire = PLAIN,
    ) -> Contract:  # fmt: skip
        """Fill in what `auto` stands for."""
        images = limits.images if limits.images != "auto" else per_class * len(setting.classes)
        agreed = cls(setting, per_class, weights, images, 0, formation, soft, wire)
        size = sum(size for record in agreed.sizes().values() for size in record.values())
        return replace(agreed, bytes=limits.bytes if limits.bytes != "auto" else 2 * size + 65536)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Bytes of every agreed array as it travels, before compression, at most."""
        each = {"images": int(np.prod(self.setting.image_shape)) * self.wire.pixel_bytes, "labels": 8}
        each |= {"soft": 2 * len(self.setting.classes)} if self.soft else {}
        each |= {"weights": 4} if self.setting.privacy is not None and self.setting.privacy.most_weight else {}
        weights = {name: self.wire.weight_bytes(value) for name, value in (self.weights or {}).items()}
        return {SYNTHETIC: {name: self.images * size for name, size in each.items()}, WEIGHTS: weights}


def payload_bytes(content: RecordDict) -> int:
    """Encoded size of a message's content: the ledger's unit, the same on every engine."""
    return recorddict_to_proto(content).ByteSize()


def write_broadcast(broadcast: Broadcast) -> RecordDict:
    """Server → client."""
    parts = {WEIGHTS: broadcast.weights} | ({EXTRA: broadcast.extra} if broadcast.extra else {})
    content = RecordDict({INFO: ConfigRecord({"round": broadcast.round})})
    for key, tensors in parts.items():
        content[key] = ArrayRecord({name: _array(value) for name, value in tensors.items()})
    return content


def read_broadcast(content: RecordDict) -> Broadcast:
    """The client's side of `write_broadcast`."""
    parts = {
        key: {name: torch.from_numpy(value.numpy().copy()) for name, value in _arrays(content, key).items()}
        for key in (WEIGHTS, EXTRA)[: 1 + (EXTRA in content.array_records)]
    }
    round_number = content.config_records[INFO]["round"]
    assert isinstance(round_number, int)
    return Broadcast(round_number, parts[WEIGHTS], parts.get(EXTRA, {}))


def write_upload(upload: Upload) -> RecordDict:
    """Client → server."""
    content = RecordDict(
        {
            METRICS: MetricRecord(
                {
                    "examples": upload.examples,
                    "iterations": [at for at, _ in upload.losses],
                    "losses": [float(loss) for _, loss in upload.losses],
                }
            ),
            INFO: ConfigRecord({"round": upload.round, "client": upload.client}),
        }
    )
    if upload.synthetic is not None:
        content[SYNTHETIC] = ArrayRecord({name: _array(one) for name, one in upload.synthetic.tensors().items()})
        content.config_records[INFO]["provenance"] = json.dumps(upload.synthetic.provenance, sort_keys=True)
        if upload.synthetic.formation > 1:
            content.config_records[INFO]["formation"] = upload.synthetic.formation
    if upload.weights is not None:
        content[WEIGHTS] = ArrayRecord({name: _array(value) for name, value in upload.weights.items()})
    return content


def write_stop(client: int, error: Exception, *, private: bool = False) -> RecordDict:
    """Client → server: the run must stop, and why; of a private client the system's word for it."""
    said = " ".join(str(error).split())
    if private and isinstance(error, OSError):
        code = error.errno or 0
        said = os.strerror(code) if code in errno.errorcode else "an error of the system"
    folder = f"client {client} cannot use its folder: {said}; mend it and run again"
    return RecordDict(
        {INFO: ConfigRecord({"stop": folder if isinstance(error, OSError) else f"client {client}: {said}"})}
    )


def write_failure(reason: str) -> RecordDict:
    """Client → server: it failed, and why."""
    return RecordDict({INFO: ConfigRecord({"failed": reason})})


def failure(content: RecordDict) -> str | None:
    """Why a client has no upload; None if it has one."""
    if not content:
        return "its node's reply holds nothing of it"
    reason = content.config_records[INFO].get("failed") if INFO in content.config_records else None
    return " ".join(str(reason).split())[:300] if reason is not None else None


def read_upload(content: RecordDict, client: int, round_number: int, contract: Contract) -> Upload:
    """The server's side of `write_upload`: every property is checked; raises `Rejected` with the reason.

    Raises `Stopped` if the client says that the run must stop. Who sent it is what the server knows (`client`), not
    what the upload says.
    """
    if INFO in content.config_records and "stop" in content.config_records[INFO]:
        raise Stopped(str(content.config_records[INFO]["stop"]))
    size = payload_bytes(content)
    if size > contract.bytes:
        raise Rejected(f"upload of {size} bytes exceeds the limit of {contract.bytes}")
    content = decode(content, contract.wire, contract.sizes())
    try:
        metrics, info = content.metric_records[METRICS], content.config_records[INFO]
        examples, losses = metrics["examples"], _losses(metrics["iterations"], metrics["losses"])
        if info["round"] != round_number:
            raise Rejected(f"upload is of round {info['round']}, not {round_number}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Rejected(f"upload lacks its description ({type(error).__name__}: {error})") from error
    if not isinstance(examples, int) or examples < 1:
        raise Rejected(f"upload claims {examples!r} real images; valid: an integer ≥ 1")
    synthetic = _synthetic(content, client, round_number, contract) if contract.per_class else None
    weights = _weights(content, contract.weights) if contract.weights is not None else None
    return Upload(client, round_number, examples, synthetic, weights, losses)


def _losses(iterations: object, losses: object) -> list[tuple[int, float]]:
    if not isinstance(iterations, list) or not isinstance(losses, list):
        raise TypeError("iterations and losses are lists")
    return [(int(at), float(loss)) for at, loss in zip(iterations, losses, strict=True)]


def _synthetic(content: RecordDict, client: int, round_number: int, contract: Contract) -> SyntheticSet:
    tensors = decoded(_arrays(content, SYNTHETIC))
    bound = contract.setting.privacy.most_weight if contract.setting.privacy is not None else None
    if sorted(tensors) != (agreed := ["images", "labels", *["soft"] * contract.soft, *["weights"] * bool(bound)]):
        raise Rejected(f"synthetic set holds {sorted(tensors)}, not {agreed}")
    images, labels, setting, soft = tensors["images"], tensors["labels"], contract.setting, tensors.get("soft")
    problem = check_tensors(images, labels, len(setting.classes), setting.image_shape, soft)
    if problem := problem or scale.problem(tensors.get("weights"), len(labels), bound):
        raise Rejected(problem)
    if not 0 < len(labels) <= contract.images:
        raise Rejected(f"{len(labels)} synthetic images, the agreed budget is 1 to {contract.images}")
    if (most := int(torch.bincount(labels).max())) > contract.per_class:
        raise Rejected(f"{most} synthetic images of one class, the agreed budget is {contract.per_class}")
    formation = content.config_records[INFO].get("formation", 1)
    if type(formation) is not int or formation != contract.formation:
        raise Rejected(f"synthetic images are of formation {formation!r}, not {contract.formation}")
    claimed = _provenance(str(content.config_records[INFO].get("provenance", "{}")))
    provenance = claimed | {"client": client, "round": round_number}
    return SyntheticSet(
        images, labels, setting.classes, setting.normalise.mean, setting.normalise.std, provenance,
        formation=formation, soft=soft, weights=tensors.get("weights"),
    )  # fmt: skip


def _provenance(text: str) -> dict[str, Any]:
    try:
        claimed = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise Rejected(f"provenance is not JSON ({error})") from error
    if not isinstance(claimed, dict):
        raise Rejected(f"provenance is not a mapping but {type(claimed).__name__}")
    if not all(claimed.get(key) is None or isinstance(claimed[key], str) for key in ("method", "init")):
        raise Rejected("provenance is not the names of a method and an init")
    return {key: claimed.get(key) for key in ("method", "init")}


def _weights(content: RecordDict, expected: Params) -> Params:
    tensors = decoded(_arrays(content, WEIGHTS))
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise Rejected(f"weights are of another network: {', '.join(odd[:3])} missing or unknown")
    for name, value in tensors.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise Rejected(
                f"{name} is {value.dtype}{tuple(value.shape)}, not {expected[name].dtype}{tuple(expected[name].shape)}"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Rejected(f"{name}: {int((~torch.isfinite(value)).sum())} values are not finite")
    return tensors


def _arrays(content: RecordDict, key: str) -> Mapping[str, Array]:
    record = content.array_records.get(key)
    if record is None:
        raise Rejected(f"upload holds no {key}")
    return dict(record.items())


def _array(value: torch.Tensor) -> Array:
    return Array(value.detach().cpu().numpy())
