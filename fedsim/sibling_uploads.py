"""Uploads that another run of a sweep holds already: what a client would make again is copied, not made.

A client's answer follows from its images, its streams, the method and what it was sent; which defence the server uses,
and who else lies, it cannot know. So runs of a sweep that differ in `defenses` and `attackers` alone ask the same
first answers of their clients, and the same later ones for as long as their servers' weights agree.

    round 1      from any run in which the same attacker, or none, acts for the client
    round r > 1  from a run with the same attackers, as long as it was made from the same broadcast

A copy is offered, beside the place of the client's own upload. The client compares what it answers with what it is
asked now, and where they differ works as if it were not there (`fedsim.federated.client.kept`): a copy saves work and
changes no number but the seconds that a run took.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.config import Raw, parse_yaml, read, to_yaml
from fedsim.federated.client import OFFERED, UPLOAD
from fedsim.federated.engines.base import store_of
from fedsim.runs import RunDirectory, write_atomic
from fedsim.schema import Experiment, FederatedRun

UNKNOWN_TO_CLIENTS = ("name", "attackers", "defenses", "controls")
"""Settings that a client's answer does not depend on; who acts in its place is compared client by client."""
SESSION = ("versions", "git")
"""What every session of both runs must agree in: the code that answered."""
CIRCUMSTANCES = ("device", "gpu", "processor", "cores", "data", "own_code")
"""What the manifests must agree in: the machine and the images."""


@dataclass(frozen=True)
class Answer:
    """One client's round in another run, and where it belongs in this one."""

    run: str
    source: Path
    target: Path


def answers(run: RunDirectory, config: Experiment, facts: Mapping[str, Any], siblings: Sequence[Path]) -> list[Answer]:
    """What the clients of finished `siblings` answered and a run that has not begun will ask, as far as it can be told.

    `facts` are those of the run's manifest. There is nothing under privacy, where a release belongs to the ledger of
    the run that made it, nor from a checkout with changes of its own: which code answered could not be told.
    """
    store = store_of(run.path)
    if not isinstance(config, FederatedRun) or config.privacy is not None or store.exists() or changed(facts):
        return []
    own, found = parse_yaml(to_yaml(config), "this run"), dict[Path, Answer]()
    for path in siblings:
        other, told = read(path / "config.yaml"), RunDirectory(path).read_json("manifest")
        if _asked(other) == _asked(own) and _same_code(told, facts):
            for folder in _usable(store_of(path), own, other):
                target = store / folder.relative_to(store_of(path)) / OFFERED
                found.setdefault(target, Answer(path.name, folder, target))
    return list(found.values())


def copy(found: Sequence[Answer]) -> None:
    """Offer them to the clients, each upload last: a folder with an upload is whole."""
    for one in found:
        for file in sorted(one.source.glob("*.safetensors"), key=lambda path: path.name == UPLOAD):
            write_atomic(one.target / file.name, file.read_bytes())


def changed(facts: Mapping[str, Any]) -> bool:
    """Whether the checkout has changes or files of its own, as the manifest says."""
    return bool((facts.get("git") or {}).get("dirty"))


def _same_code(told: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    sessions = told.get("sessions") or [told]
    return all(told.get(name) == facts.get(name) for name in CIRCUMSTANCES) and all(
        session.get(name) == facts.get(name) for session in sessions for name in SESSION
    )


def _asked(raw: Raw) -> Raw:
    return {name: value for name, value in raw.items() if name not in UNKNOWN_TO_CLIENTS}


def _usable(store: Path, own: Raw, other: Raw) -> Iterator[Path]:
    """Folders of a client's round, of those in `store`, whose answer may be wanted again."""
    alike = own.get("attackers", []) == other.get("attackers", [])
    for folder in sorted(path.parent for path in store.glob(f"client_*/round_*/{UPLOAD}")):
        client, number = int(folder.parent.name.removeprefix("client_")), int(folder.name.removeprefix("round_"))
        if alike or (number == 1 and _acting(own, client) == _acting(other, client)):
            yield folder


def _acting(raw: Raw, client: int) -> list[Any]:
    """The settings of whoever may act in this client's place."""
    return [attacker for attacker in raw.get("attackers", []) if client in attacker["clients"]]
