"""What is stored of an audit is on its card by a fingerprint, whatever a page shows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsim.audit.store import Store, save_arrays


def test_every_stored_array_has_a_fingerprint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.scores("lira", "row_0000", lambda: {"score": np.zeros(3)})
    store.truth("row_0000", lambda: {"members": np.ones(3)})
    store.cached("name", lambda: np.arange(3))
    save_arrays(tmp_path / "panels.npz", {"left": np.zeros((1, 2))})
    save_arrays(tmp_path / "runs/one/split.npz", {"train": np.arange(2)})  # a run's own, which has its manifest
    before = store.fingerprints()
    assert {name.partition("/")[0] for name in before} == {"scores", "truth", "cache", "panels.npz"}
    save_arrays(tmp_path / "panels.npz", {"left": np.ones((1, 2))})
    after = store.fingerprints()
    assert [name for name in before if before[name] != after[name]] == ["panels.npz"]
