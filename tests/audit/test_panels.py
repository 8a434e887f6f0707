"""Panels of nearest records: the right records on the right side, in an order that does not tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from attacks.nearest_neighbour import NearestNeighbour
from fedsim.audit.panels import FILE, chosen_sides, keep_panels, panels
from fedsim.audit.schema import load_audit
from fedsim.audit.store import Store, load_arrays, save_arrays
from fedsim.audit.targets import Targets
from fedsim.audit.types import Knowledge
from fedsim.data.synthetic import SyntheticSet
from fedsim.seeding import Streams, numpy_stream

QUICK = Path("configs/audit/quick.yaml")


def kept(folder: Path, number: int) -> tuple[Targets, Store]:
    """The first run of an audit of digits, which released faded members; `number` panels are asked for."""
    config = load_audit(QUICK, [f"attacks=[{{name: nearest_neighbour, panels: {number}}}]"])
    targets, store = Targets(config, {"row_0000": folder / "run"}), Store(folder / "audit")
    members = targets.parts.images(targets.pool.positions[targets.pool.members(0)])
    rows = torch.cat([torch.nonzero(members.labels == label)[:1, 0] for label in range(10)])
    faded = (members.pixels[rows].double() * 0.8 + 20).round().to(torch.uint8)
    SyntheticSet(faded, members.labels[rows], targets.parts.dataset.classes, (0.5,), (0.25,)).save(
        made(folder / "run" / "synthetic" / "round_001") / "client_0000.safetensors"
    )
    attack = NearestNeighbour(config.attacks[0])
    scores = attack.run(targets.view(0, attack.threat, lambda name, compute: compute()), Streams(0))
    save_arrays(store.folder / "scores" / "nearest_neighbour" / "row_0000.npz", scores)
    save_arrays(store.folder / "truth" / "row_0000.npz", targets.truth(0))
    keep_panels(config, targets, store)
    return targets, store


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_members_are_on_the_side_that_is_named(tmp_path):
    targets, store = kept(tmp_path, 10)
    stored = load_arrays(store.folder / FILE)
    assert len(stored["synthetic"]) == 10
    assert set(stored["members_left"].tolist()) == {True, False}
    members, labels = targets.pool.members(0), targets.pool.labels
    pixels = targets.granted[Knowledge.CANDIDATES].pixels.numpy()
    for place, image in enumerate(stored["synthetic"].astype(float)):
        for side in ("left", "right"):
            inside = stored["members_left"][place] == (side == "left")
            rows = np.flatnonzero((members == inside) & (labels == int(stored["names"][place])))
            away = np.square(pixels[rows] - image).sum((1, 2, 3))
            assert (stored[side][place] == pixels[rows[np.argsort(away)[:3]]]).all()


def test_pictures_are_made_of_what_was_kept(tmp_path):
    _, store = kept(tmp_path, 4)
    shown = panels(store)
    assert len(shown) == 4
    sides = load_arrays(store.folder / FILE)["members_left"]
    assert [one.members == "left" for one in shown] == sides.tolist()
    assert all(one.left.startswith("data:image/png;base64,") and one.left != one.right for one in shown)


def test_nobody_asked_and_nothing_is_shown(tmp_path):
    _, store = kept(tmp_path, 0)
    assert not (store.folder / FILE).exists()
    assert panels(store) == []


def test_classes_with_fewer_than_three_on_a_side_are_left_out():
    order = np.array([[0, 1, 2, 3, 4, 5], [6, 7, -1, -1, -1, -1]], dtype=np.int32)
    members = np.array([True, False, True, False, True, False, True, False])
    found = chosen_sides(order, members, 2, numpy_stream(0, "panels"))
    assert [(row, inside.tolist(), outside.tolist()) for row, inside, outside in found] == [(0, [0, 2, 4], [1, 3, 5])]
