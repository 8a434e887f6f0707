"""The client's side of a round: answer once per (client, round), and give the same answer when asked again.

The finished upload is kept in the client's own folder before it leaves; a resumed run, or a restarted node, finds it
there. Half-done condensations are kept by the driver in the same folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flwr.app import RecordDict

from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Setting, Upload
from fedsim.federated.faults import Fault, before_work, tamper
from fedsim.federated.messages import write_store_failure, write_upload
from fedsim.federated.progress import LISTENER
from fedsim.models.functional import model_sha256
from fedsim.runs import load_tensors, save_tensors
from fedsim.types import UserError


def answer(
    algorithm: Algorithm,
    setting: Setting,
    images: Images,
    client: int,
    broadcast: Broadcast,
    *,
    iterations: int,
    store: Path | None,
    checkpoint_every: float,
    faults: Sequence[Fault],
) -> RecordDict:
    """The upload of `client` for this broadcast, as records. `iterations` is only for the progress display.

    If its folder fails it (a full disk, a damaged file) the answer says so, and the server stops the run: to count
    it as a client's failure would let the state of a disk change the result.
    """
    before_work(faults, client, broadcast.round)
    try:
        upload = _work(algorithm, setting, images, client, broadcast, iterations, store, checkpoint_every)
    except (OSError, UserError) as error:
        return write_store_failure(client, error)
    return tamper(faults, client, broadcast.round, write_upload(upload))


def _work(
    algorithm: Algorithm,
    setting: Setting,
    images: Images,
    client: int,
    broadcast: Broadcast,
    iterations: int,
    store: Path | None,
    checkpoint_every: float,
) -> Upload:
    folder = store / f"client_{client:04d}" / f"round_{broadcast.round:03d}" if store is not None else None
    asked = model_sha256(broadcast.weights)
    upload = _stored(folder, client, broadcast.round, asked, setting) if folder is not None else None
    if upload is None:
        listener = LISTENER.get()

        def log(iteration: int, values: dict[str, float]) -> None:
            if listener is not None:
                listener(client, iteration, iterations, values.get("loss"))

        view = ClientView(client, setting, images, folder, checkpoint_every, log)
        upload = algorithm.client(view, broadcast, setting.streams.at("client", client, "round", broadcast.round))
        if folder is not None:
            _keep(folder, upload, asked)
    return upload


def _keep(folder: Path, upload: Upload, asked: str) -> None:
    tensors = {f"weights.{name}": value for name, value in (upload.weights or {}).items()}
    meta = {"examples": upload.examples, "losses": list(upload.losses), "provenance": None, "asked": asked}
    if upload.synthetic is not None:
        tensors |= {"images": upload.synthetic.images, "labels": upload.synthetic.labels}
        meta["provenance"] = upload.synthetic.provenance
    save_tensors(folder / "upload.safetensors", tensors, meta)
    (folder / "condensation.safetensors").unlink(missing_ok=True)


def _stored(folder: Path, client: int, round_number: int, asked: str, setting: Setting) -> Upload | None:
    """The upload kept for this round, if it answered the same weights."""
    path = folder / "upload.safetensors"
    if not path.is_file():
        return None
    tensors, meta = load_tensors(path)
    if meta.get("asked") != asked:
        return None
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    synthetic = None
    if "images" in tensors:
        synthetic = SyntheticSet(
            tensors["images"], tensors["labels"], setting.classes, setting.normalise.mean, setting.normalise.std,
            meta["provenance"],
        )  # fmt: skip
    losses = [(int(at), float(loss)) for at, loss in meta["losses"]]
    return Upload(client, round_number, meta["examples"], synthetic, weights or None, losses)
