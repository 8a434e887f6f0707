"""The clients' side of a round: answer once per (client, round), and give the same answer when asked again.

A node answers for each client it was asked for, in the order asked.

The finished upload is kept in the client's own folder before it leaves; a resumed run, or a restarted node, finds it
there. Half-done condensations are kept by the driver in the same folder.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict

from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Setting, Upload
from fedsim.federated.blocks import write_answers
from fedsim.federated.deadline import deadline
from fedsim.federated.faults import Fault, before_work, tamper
from fedsim.federated.messages import write_failure, write_store_failure, write_upload
from fedsim.federated.progress import LISTENER
from fedsim.runs import load_tensors, save_tensors
from fedsim.types import UserError


@dataclass(frozen=True)
class Node:
    """What a node needs to answer for any client it serves."""

    algorithm: Algorithm
    setting: Setting
    images: Callable[[int], Images]
    """A client's own training images."""
    store: Path | None = None
    """Folder of its clients' folders; None: nothing is kept."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints of half-done work."""
    faults: Sequence[Fault] = ()
    timeout: float = 600.0
    """Seconds one client may work on one round."""

    def folder(self, client: int, round_number: int) -> Path | None:
        """A client's own folder for one round."""
        return self.store / f"client_{client:04d}" / f"round_{round_number:03d}" if self.store is not None else None


def serve(node: Node, broadcasts: Mapping[int, Broadcast]) -> RecordDict:
    """The answers of a block of clients, one after the other; a client that raises, or is late, fails alone."""
    answers = {}
    for client, broadcast in broadcasts.items():
        try:
            with deadline(node.timeout):
                answers[client] = answer(node, client, broadcast)
        except Exception as error:  # noqa: BLE001 - a client may raise anything; it becomes its answer
            if os.environ.get("FEDSIM_DEBUG"):  # set by --debug
                traceback.print_exc()
            answers[client] = write_failure(f"{type(error).__name__}: {error}")
    return write_answers(answers)


def answer(node: Node, client: int, broadcast: Broadcast) -> RecordDict:
    """The upload of `client` for this broadcast, as records.

    If its folder fails it (a full disk, a damaged file) the answer says so, and the server stops the run: to count
    it as a client's failure would let the state of a disk change the result.
    """
    before_work(node.faults, client, broadcast.round)
    try:
        upload = _work(node, client, broadcast)
    except (OSError, UserError) as error:
        return write_store_failure(client, error)
    return tamper(node.faults, client, broadcast.round, write_upload(upload))


def _work(node: Node, client: int, broadcast: Broadcast) -> Upload:
    folder = node.folder(client, broadcast.round)
    upload = _stored(folder, client, broadcast, node.setting) if folder is not None else None
    if upload is None:
        view = _view(node, client, folder)
        streams = node.setting.streams.at("client", client, "round", broadcast.round)
        upload = node.algorithm.client(view, broadcast, streams)
        if folder is not None:
            _keep(folder, upload, broadcast.sha256)
    return upload


def _view(node: Node, client: int, folder: Path | None) -> ClientView:
    listener, steps = LISTENER.get(), node.algorithm.work()

    def log(iteration: int, values: dict[str, float]) -> None:
        if listener is not None:
            listener(client, iteration, steps, values.get("loss"))

    return ClientView(client, node.setting, node.images(client), folder, node.checkpoint_every, log)


def _keep(folder: Path, upload: Upload, asked: str) -> None:
    tensors = {f"weights.{name}": value for name, value in (upload.weights or {}).items()}
    meta = {"examples": upload.examples, "losses": list(upload.losses), "provenance": None, "asked": asked}
    if upload.synthetic is not None:
        tensors |= {"images": upload.synthetic.images, "labels": upload.synthetic.labels}
        meta["provenance"] = upload.synthetic.provenance
    save_tensors(folder / "upload.safetensors", tensors, meta)
    (folder / "condensation.safetensors").unlink(missing_ok=True)


def _stored(folder: Path, client: int, broadcast: Broadcast, setting: Setting) -> Upload | None:
    """The upload kept for this round, if it answered the same weights."""
    path = folder / "upload.safetensors"
    if not path.is_file():
        return None
    tensors, meta = load_tensors(path)
    if meta.get("asked") != broadcast.sha256:
        return None
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    synthetic = None
    if "images" in tensors:
        synthetic = SyntheticSet(
            tensors["images"], tensors["labels"], setting.classes, setting.normalise.mean, setting.normalise.std,
            meta["provenance"],
        )  # fmt: skip
    losses = [(int(at), float(loss)) for at, loss in meta["losses"]]
    return Upload(client, broadcast.round, meta["examples"], synthetic, weights or None, losses)
