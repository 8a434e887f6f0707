"""Records beside what attacks on gradients and updates made of them, for the page; only where the audit asks for it.

reconstructions.npz   names (p), of the classes      true.ATTACK, made.ATTACK (p, c, h, w) bytes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from fedsim.audit.schema import AuditRun, subject_of
from fedsim.audit.store import Store, load_arrays, save_arrays
from fedsim.audit.types import Subject
from fedsim.report.html import png

FILE = "reconstructions.npz"


@dataclass(frozen=True)
class Pair:
    """A record and what was made of it; pictures are data: URIs."""

    name: str
    """Label of the record."""
    true: str
    made: str


def keep_reconstructions(config: AuditRun, store: Store) -> None:
    """Store the first `gradients.panels` records of every attack on gradients or updates, beside its images."""
    if not config.gradients.panels or (store.folder / FILE).is_file():
        return
    found: dict[str, np.ndarray] = {}
    for chosen in config.attacks:
        if subject_of(chosen) in (Subject.GRADIENTS, Subject.UPDATES):
            ((_, scores, truth),) = store.stored(chosen.name)
            made, true = matched(scores["images"], truth["images"])
            number = min(config.gradients.panels, len(true))
            found |= {f"true.{chosen.name}": true[:number], f"made.{chosen.name}": made[:number]}
            found["names"] = truth["labels"].ravel()[:number]
    if found:
        save_arrays(store.folder / FILE, found)


def matched(made: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, c, h, w) bytes each: reconstructions (n, s, c, h, w) in 0..1, in the order of the records (n, s, …).

    Those of one case come in any order: the assignment of least squared error is shown, which flatters them a little.
    """
    shown = np.rint(255 * np.clip(np.nan_to_num(made, nan=0.5), 0, 1)).astype(np.uint8)
    ordered = []
    for images, records in zip(shown, true, strict=True):
        a, b = (one.reshape(len(one), -1).astype(np.float64) for one in (images, records))
        rows, columns = linear_sum_assignment(((a[:, None] - b[None]) ** 2).sum(-1))
        ordered.append(images[rows[np.argsort(columns)]])
    return np.concatenate(ordered), true.reshape(-1, *true.shape[2:])


def reconstructions(store: Store) -> list[tuple[str, list[Pair]]]:
    """What `keep_reconstructions` stored, as pictures, by attack; nothing where the audit did not ask for it."""
    if not (store.folder / FILE).is_file():
        return []
    kept = load_arrays(store.folder / FILE)
    return [
        (name.removeprefix("made."), [
            Pair(str(label), *(png(torch.from_numpy(kept[key][place])[None]) for key in (f"true.{attack}", name)))
            for place, label in enumerate(kept["names"])
        ])
        for name in kept if name.startswith("made.") for attack in [name.removeprefix("made.")]
    ]  # fmt: skip
