"""Uploads that another run of a sweep holds already: what a client would make again is copied, not made.

A client's answer follows from its images, its streams, the method and what it was sent; which defence the server uses,
and who else lies, it cannot know. So runs of a sweep that differ in `defenses` and `attackers` alone ask the same
first answers of their clients, and the same later ones for as long as their servers' weights agree.

    round 1      from any run in which the same attacker, or none, acts for the client
    round r > 1  from a run with the same attackers, as long as it was made from the same broadcast

A copy lies where the client's own finished upload would. The client compares what it answered with what it is asked
now, and works anew where they differ (`fedsim.federated.client.kept`): a copy can save work and change no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.config import Raw, parse_yaml, read, to_yaml
from fedsim.federated.engines.base import store_of
from fedsim.runs import RunDirectory, write_atomic
from fedsim.schema import Experiment, FederatedRun

UNKNOWN_TO_CLIENTS = ("name", "attackers", "defenses", "controls")
"""Settings that a client's answer does not depend on; who acts in its place is compared client by client."""
CIRCUMSTANCES = ("versions", "git", "device", "gpu", "processor", "data", "own_code")
"""What the manifests must agree in: the same images, answered by the same code on the same kind of machine."""


def share(run: RunDirectory, config: Experiment, facts: Mapping[str, Any], siblings: Sequence[Path]) -> dict[str, int]:
    """Copy into a run that has not begun what the clients of finished `siblings` answered.

    `facts` are those of its manifest. Returns how many answers each sibling gave, by its folder's name. Nothing is
    shared under privacy: there a release belongs to the ledger of the run that made it.
    """
    store = store_of(run.path)
    if not isinstance(config, FederatedRun) or config.privacy is not None or store.exists():
        return {}
    own, found = parse_yaml(to_yaml(config), "this run"), dict[str, int]()
    for path in siblings:
        other, told = read(path / "config.yaml"), RunDirectory(path).read_json("manifest")
        if _asked(other) != _asked(own) or any(told.get(name) != facts.get(name) for name in CIRCUMSTANCES):
            continue
        folders = _usable(store_of(path), own, other)
        copied = sum(_copy(folder, store / folder.relative_to(store_of(path))) for folder in folders)
        found |= {path.name: copied} if copied else {}
    return found


def _asked(raw: Raw) -> Raw:
    return {name: value for name, value in raw.items() if name not in UNKNOWN_TO_CLIENTS}


def _usable(store: Path, own: Raw, other: Raw) -> Iterator[Path]:
    """Folders of a client's round, of those in `store`, whose answer may be wanted again."""
    alike = own.get("attackers", []) == other.get("attackers", [])
    for folder in sorted(path.parent for path in store.glob("client_*/round_*/upload.safetensors")):
        client, number = int(folder.parent.name.removeprefix("client_")), int(folder.name.removeprefix("round_"))
        if alike or (number == 1 and _acting(own, client) == _acting(other, client)):
            yield folder


def _acting(raw: Raw, client: int) -> list[Any]:
    """The settings of whoever may act in this client's place."""
    return [attacker for attacker in raw.get("attackers", []) if client in attacker["clients"]]


def _copy(source: Path, target: Path) -> bool:
    """Copy one client's round, its upload last, so that a folder with an upload is whole; False if one is there."""
    if (target / "upload.safetensors").exists():
        return False
    files = sorted(source.glob("*.safetensors"), key=lambda path: path.name == "upload.safetensors")
    for file in files:
        write_atomic(target / file.name, file.read_bytes())
    return True
