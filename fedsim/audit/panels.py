"""The records nearest to synthetic images, members beside held-out ones in blind order: what an eye can tell of them.

Whoever sees which side resembles the synthetic image more names it, and looks up afterwards which one held members: a
forced choice between two, ½ by chance. Records are chosen by the order that the attack stored, of the first run alone.

    panels.npz   synthetic (p, c, h, w) · left, right (p, 3, c, h, w) · members_left (p) · names (p), of the classes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedsim.audit.schema import AuditRun
from fedsim.audit.store import Store, load_arrays, save_arrays
from fedsim.audit.targets import Targets
from fedsim.audit.types import Knowledge
from fedsim.data.synthetic import SyntheticSet, union
from fedsim.report.html import png
from fedsim.seeding import numpy_stream

FILE = "panels.npz"
SHOWN = 3
"""Records on either side."""


@dataclass(frozen=True)
class Panel:
    """One synthetic image between the two sides; pictures are data: URIs."""

    name: str
    """Of the class."""
    synthetic: str
    left: str
    right: str
    members: str
    """The side of the members: left or right."""


def keep_panels(config: AuditRun, targets: Targets, store: Store) -> None:
    """Store what the page is to show, if an attack of the audit asks for panels."""
    attacks: Sequence[Any] = config.attacks
    chosen = next((one for one in attacks if getattr(one, "panels", 0)), None)
    if chosen is None or (store.folder / FILE).is_file():
        return
    _, scores, truth = store.stored(chosen.name)[0]
    names = [name for name in scores if name.startswith("order.")]
    order = scores["order.pixels" if "order.pixels" in names else names[0]]
    rng = numpy_stream(config.seed, "panels")
    sides = chosen_sides(order, truth["members"].astype(bool), chosen.panels, rng)
    if not sides:
        return
    rows, inside, outside = (np.array(values) for values in zip(*sides, strict=True))
    synthetic = union([SyntheticSet.load(path) for path in targets.source(0).sets()])
    records = targets.granted[Knowledge.CANDIDATES].pixels.cpu().numpy()
    members_left = rng.random(len(rows)) < 0.5
    left, right = np.where(members_left[:, None], [inside, outside], [outside, inside])
    save_arrays(store.folder / FILE, {
        "synthetic": synthetic.pixels.cpu().numpy()[rows], "left": records[left], "right": records[right],
        "members_left": members_left, "names": np.array(targets.public.classes)[synthetic.labels.cpu().numpy()[rows]],
    })  # fmt: skip


def chosen_sides(
    order: np.ndarray, members: np.ndarray, number: int, rng: np.random.Generator
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Up to `number` synthetic images drawn at random, each with its nearest members and nearest held-out records.

    `order` (m, w): candidates of the class, nearest first, −1 beyond the last; `members` (n). Images of classes with
    fewer than three records on a side are left out.
    """
    found = []
    for row in rng.permutation(len(order)):
        own = order[row][order[row] >= 0]
        inside, outside = own[members[own]][:SHOWN], own[~members[own]][:SHOWN]
        if min(len(inside), len(outside)) == SHOWN:
            found.append((int(row), inside, outside))
        if len(found) == number:
            break
    return sorted(found, key=lambda one: one[0])


def panels(store: Store) -> list[Panel]:
    """What `keep_panels` stored, as pictures; nothing where no attack asked for them."""
    if not (store.folder / FILE).is_file():
        return []
    kept = load_arrays(store.folder / FILE)
    pictures = {name: torch.from_numpy(kept[name]) for name in ("synthetic", "left", "right")}
    return [
        Panel(
            str(name), png(pictures["synthetic"][place : place + 1]), png(pictures["left"][place]),
            png(pictures["right"][place]), "left" if kept["members_left"][place] else "right",
        )
        for place, name in enumerate(kept["names"])
    ]  # fmt: skip
