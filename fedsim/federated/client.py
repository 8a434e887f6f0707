"""The client's side of a round: answer once per (client, round), and give the same answer when asked again.

The finished upload is kept in the client's own folder before it leaves; a resumed run, or a restarted node, finds it
there. Half-done condensations are kept by the driver in the same folder.

    client_CCCC/round_RRR/upload.safetensors   what was sent      memory.safetensors   what the client remembers of it

A round is worked on with the memory of the last round before it, never with its own: a round that is asked for again,
after a kill or by a server that went back, is answered from the same memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import RecordDict

from fedsim.data.canaries import Planted
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.attackers import TRIGGER, Attacker
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Setting, Upload
from fedsim.federated.faults import Fault, before_work, tamper
from fedsim.federated.messages import write_stop, write_upload
from fedsim.federated.progress import LISTENER
from fedsim.federated.wire import PLAIN, Wire, encode
from fedsim.runs import load_tensors, save_tensors
from fedsim.seeding import Streams
from fedsim.types import Params, UserError

MEMORY, UPLOAD = "memory.safetensors", "upload.safetensors"
OFFERED = "offered"
"""Folder, in that of a round, of an answer made elsewhere: it is the client's own once it is asked just that."""


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
    wire: Wire = PLAIN
    """How arrays travel."""
    own: Callable[[int], Algorithm] | None = None
    """The algorithm as one client does its part of it, where their work is unequal; None: as all do."""
    attacker: Callable[[int, int], Attacker | None] = field(default=lambda client, round_number: None)
    """Who acts in a client's place in a round."""
    planted: Callable[[int], Planted | None] = field(default=lambda client: None)
    """A client's images, those apart that an audit dealt to it."""
    forget: bool = False
    """Drop a client's folders of earlier rounds when it is asked for the next: their uploads arrived."""

    def algorithm_of(self, client: int) -> Algorithm:
        """The algorithm as this client does its part of it."""
        return self.own(client) if self.own is not None else self.algorithm

    def folder(self, client: int, round_number: int) -> Path | None:
        """A client's own folder for one round."""
        return self.store / f"client_{client:04d}" / f"round_{round_number:03d}" if self.store is not None else None


def answer(node: Node, client: int, broadcast: Broadcast) -> RecordDict:
    """The upload of `client` for this broadcast, as records.

    Where the run must stop for it the answer says so (`stops_the_run`).
    """
    before_work(node.faults, client, broadcast.round)
    try:
        upload = _work(node, client, broadcast)
    except (OSError, UserError) as error:
        if not stops_the_run(node, error):
            raise
        return write_stop(client, error, private=node.setting.privacy is not None)
    return encode(tamper(node.faults, client, broadcast.round, write_upload(upload)), node.wire)


def stops_the_run(node: Node, error: OSError | UserError) -> bool:
    """Whether an error is not a client's own: settings that cannot work, or a folder that fails it.

    To count a full disk or a damaged file as a client's failure would let the state of a disk change the result. Other
    errors of the system (no memory for a process, say) are a client's, as any exception in its work.
    """
    if isinstance(error, UserError):
        return True
    where = Path(error.filename) if isinstance(error.filename, str) else None
    return where is not None and node.store is not None and where.absolute().is_relative_to(node.store.absolute())


def _work(node: Node, client: int, broadcast: Broadcast) -> Upload:
    upload = kept(node, client, broadcast, (client,))
    if upload is None:
        view, streams = view_of(node, client, broadcast), streams_of(node, client, broadcast)
        algorithm, attacker = node.algorithm_of(client), node.attacker(client, broadcast.round)
        if attacker is None:
            upload = algorithm.client(view, broadcast, streams)
        else:
            upload = attacker.client(algorithm, view, broadcast, streams)
        keep(node, upload, broadcast, (client,))
    if node.setting.privacy is not None and (upload.examples != 1 or upload.losses):
        raise UserError(
            "privacy: the algorithm's reply holds a number of images or losses, which are exact; valid: examples 1 and "
            "no losses"
        )
    return upload


def streams_of(node: Node, client: int, broadcast: Broadcast) -> Streams:
    """A client's own random streams in one round."""
    return node.setting.streams.at("client", client, "round", broadcast.round)


def view_of(node: Node, client: int, broadcast: Broadcast) -> ClientView:
    """What one client sees in one round."""
    folder = node.folder(client, broadcast.round)
    listener, steps = LISTENER.get(), node.algorithm_of(client).work()

    def log(iteration: int, values: dict[str, float]) -> None:
        if listener is not None:
            listener(client, iteration, steps, values.get("loss"))

    remembered = memory(folder.parent, broadcast.round) if folder is not None else {}
    images, planted = node.images(client), node.planted(client)
    return ClientView(client, node.setting, images, folder, node.checkpoint_every, log, remembered, planted)


def memory(folder: Path, before: int) -> Params:
    """What a client, whose folder this is, kept after its last round before this one; nothing if there was none."""
    rounds = _remembered(folder, before)
    if not rounds:
        return {}
    path = rounds[-1] / MEMORY
    try:
        return load_tensors(path)[0]
    except UserError as error:
        raise UserError(f"{path} is damaged; restore it, or delete the run's folder and run again") from error


def _remembered(folder: Path, before: int) -> list[Path]:
    """Folders of earlier rounds with a memory, the latest last."""
    rounds = {int(path.parent.name.removeprefix("round_")): path.parent for path in folder.glob(f"round_*/{MEMORY}")}
    return [rounds[number] for number in sorted(rounds) if number < before]


def keep(node: Node, upload: Upload, broadcast: Broadcast, together: Sequence[int]) -> None:
    """Store a finished upload, made in one go with those of the clients `together`; drop its half-done state."""
    folder = node.folder(upload.client, broadcast.round)
    if folder is None:
        if upload.memory:
            raise UserError(
                "this algorithm remembers from round to round, and the node has no folder to keep that in; "
                "give `store` in the node's config"
            )
        return
    if upload.memory:  # before the upload: a round whose upload is kept is not worked on again
        save_tensors(folder / MEMORY, dict(upload.memory), {"round": broadcast.round})
    tensors = {f"weights.{name}": value for name, value in (upload.weights or {}).items()}
    meta = {"examples": upload.examples, "losses": list(upload.losses), "provenance": None}
    meta |= {"asked": broadcast.sha256, "together": list(together)}
    if upload.synthetic is not None:
        tensors |= upload.synthetic.tensors()
        meta |= {"provenance": upload.synthetic.provenance, "formation": upload.synthetic.formation}
    save_tensors(folder / UPLOAD, tensors, meta)
    (folder / "condensation.safetensors").unlink(missing_ok=True)


def kept(node: Node, client: int, broadcast: Broadcast, together: Sequence[int]) -> Upload | None:
    """The upload kept for this round, if it answered the same weights in the same company.

    An answer to something else goes, and with it what was remembered of it and an attacker's trigger: a client that
    then fails was not there in this round.
    """
    folder = node.folder(client, broadcast.round)
    if folder is not None and node.forget:
        _forget(folder.parent, broadcast.round)
    if folder is None:
        return None
    _take_offered(folder, broadcast)
    if not (folder / UPLOAD).is_file():
        return None
    tensors, meta = load_tensors(folder / UPLOAD)
    if meta.get("asked") != broadcast.sha256:
        for name in (UPLOAD, MEMORY, TRIGGER):
            (folder / name).unlink(missing_ok=True)
        return None
    if meta.get("together") != list(together):
        return None
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    synthetic, normalise = None, node.setting.normalise
    if "images" in tensors:
        synthetic = SyntheticSet(
            tensors["images"], tensors["labels"], node.setting.classes, normalise.mean, normalise.std,
            meta["provenance"], formation=meta.get("formation", 1), soft=tensors.get("soft"),
            weights=tensors.get("weights"),
        )  # fmt: skip
    losses = [(int(at), float(loss)) for at, loss in meta["losses"]]
    return Upload(client, broadcast.round, meta["examples"], synthetic, weights or None, losses)


def _take_offered(folder: Path, broadcast: Broadcast) -> None:
    """Make an answer offered for this round the client's own if it answers this broadcast; its upload comes last."""
    offered = folder / OFFERED
    if (folder / UPLOAD).is_file() or not (offered / UPLOAD).is_file():
        return
    if load_tensors(offered / UPLOAD)[1].get("asked") == broadcast.sha256:
        for file in sorted(offered.glob("*.safetensors"), key=lambda path: path.name == UPLOAD):
            file.replace(folder / file.name)


def _forget(folder: Path, before: int) -> None:
    """Drop a client's folders of the rounds before this one, but its last two memories.

    A server keeps its last two checkpoints, so it can go back by one round.
    """
    needed = _remembered(folder, before)[-2:]
    for old in folder.glob("round_*"):
        if old in needed:
            (old / UPLOAD).unlink(missing_ok=True)
        elif int(old.name.removeprefix("round_")) < before:
            shutil.rmtree(old)
