from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.partition import IID, Dirichlet
from fedsim.data.split import AuditConfig, Split, draw_split, stratified
from fedsim.types import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [120, 60, 20]))
PARTS = ("train", "val", "holdout", "canaries", "withheld")


def split_of(seed: int = 0, *, val: float = 0.1, holdout: float = 0.2, canaries: int = 7, least: int = 0) -> Split:
    partition = Dirichlet(Dirichlet.Config(clients=4, alpha=0.3, min_size=1, min_class=least))
    return draw_split(LABELS, 3, val, AuditConfig(holdout=holdout, canaries=canaries), partition, seed)


def same(one: Split, two: Split) -> bool:
    positions = all(np.array_equal(getattr(one, key), getattr(two, key)) for key in PARTS)
    return positions and all(np.array_equal(a, b) for a, b in zip(one.client, two.client, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_stratified_takes_every_class_in_proportion(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    size = int(share * (len(labels) - len(counts)))
    taken = stratified(labels, size, np.random.default_rng(seed), "x")
    number = np.bincount(labels[taken], minlength=len(counts))
    assert len(np.unique(taken)) == len(taken) == size
    assert (number < counts).all()
    assert (number >= np.floor(size * np.array(counts) / len(labels))).all()
    if (np.array(counts) * (1 - size / len(labels)) >= 2).all():
        assert (np.abs(number - size * np.array(counts) / len(labels)) < 1).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 0.3), st.floats(0.01, 0.4), st.integers(0, 20), st.integers(0, 4))
def test_every_record_is_in_one_place(seed: int, val: float, holdout: float, canaries: int, least: int) -> None:
    whole = split_of(seed, val=val, holdout=holdout, canaries=canaries)
    cells = [np.bincount(LABELS[part], minlength=3) for part in whole.client]
    if not (np.max(cells, axis=0) >= least).all():  # every cell of a class is too small: none may be left out silently
        with pytest.raises(UserError, match=f"min_class={least} withholds every record of class"):
            split_of(seed, val=val, holdout=holdout, canaries=canaries, least=least)
        return
    split = split_of(seed, val=val, holdout=holdout, canaries=canaries, least=least)
    placed = np.concatenate([getattr(split, key) for key in PARTS])
    assert sorted(placed) == list(range(len(LABELS)))
    assert sorted(np.concatenate(split.client)) == split.train.tolist()
    assert (len(split.val), len(split.holdout)) == (round(val * 200), round(holdout * 200))
    assert len(split.canaries) == canaries
    assert all((np.diff(getattr(split, key)) > 0).all() for key in PARTS)
    assert set(LABELS[split.train]) == {0, 1, 2}


def test_shares_are_stratified_and_min_class_withholds() -> None:
    split = split_of(least=6)
    assert np.bincount(LABELS[split.val]).tolist() == [12, 6, 2]
    assert np.bincount(LABELS[split.holdout]).tolist() == [24, 12, 4]
    held = [np.bincount(LABELS[part], minlength=3) for part in split.client]
    assert all(((counts == 0) | (counts >= 6)).all() for counts in held)
    assert len(split.withheld) > 0


def test_a_seed_repeats_and_the_audit_does_not_move_val() -> None:
    assert same(split_of(1), split_of(1))
    assert not same(split_of(1), split_of(2))
    assert np.array_equal(split_of(1).val, split_of(1, holdout=0.0, canaries=0).val)
    assert np.array_equal(split_of(1).holdout, split_of(1, canaries=0).holdout)


def test_saved_and_loaded(tmp_path: Path) -> None:
    split = split_of(least=3)
    split.client.append(np.empty(0, np.int64))
    split.save(tmp_path / "split.npz")
    split.save(tmp_path / "again.npz")
    assert same(split, Split.load(tmp_path / "split.npz"))
    assert (tmp_path / "split.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.npz", "split.npz"]
    with np.load(tmp_path / "split.npz", allow_pickle=False) as file:
        assert file["client"].dtype == np.int32
        assert (file["client"] == -1).sum() == len(LABELS) - len(split.train)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "split.npz"
    split_of(1).save(path)

    def fail(*_: object) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        split_of(2).save(path)
    assert same(split_of(1), Split.load(path))
    assert [file.name for file in tmp_path.iterdir()] == ["split.npz"]


@pytest.mark.parametrize("content", [None, b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_a_damaged_split_is_a_user_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "split.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"split\.npz"):
        Split.load(path)


@pytest.mark.parametrize("change", ["missing", "doubled", "owner"])
def test_an_inconsistent_split_is_a_user_error(tmp_path: Path, change: str) -> None:
    split_of().save(tmp_path / "split.npz")
    with np.load(tmp_path / "split.npz") as file:
        arrays = dict(file)
    if change == "missing":
        del arrays["clients"]
    elif change == "doubled":
        arrays["val"] = arrays["holdout"]
    else:
        arrays["client"] = np.where(arrays["client"] == 0, -1, arrays["client"])
    np.savez(tmp_path / "split.npz", **arrays)
    with pytest.raises(UserError, match=r"split\.npz"):
        Split.load(tmp_path / "split.npz")


@pytest.mark.parametrize(
    ("labels", "val", "holdout", "canaries", "least", "text"),
    [
        (np.zeros(50, np.int64), 0.1, 0.0, 0, 0, "holds 1 class"),
        (np.arange(2), 0.1, 0.0, 0, 0, "val=0.1 of 2 records is less than 1 record"),
        (LABELS, 0.6, 0.0, 0, 0, "valid: 0 to 0.5"),
        (LABELS, 0.5, 0.9, 0, 0, "holdout=0.9 takes 180 of 100 records"),
        (LABELS, 0.1, 0.0, 178, 0, "canaries=178 .* at most 177"),
        (LABELS, 0.1, 0.0, 0, 90, "min_class=90 withholds every record of class"),
        (LABELS - 1, 0.1, 0.0, 0, 0, "labels go from -1 to 1"),
        (LABELS + 1, 0.1, 0.0, 0, 0, "labels go from 1 to 3"),
    ],
)
def test_what_cannot_be_split_is_a_user_error(
    labels: np.ndarray, val: float, holdout: float, canaries: int, least: int, text: str
) -> None:
    partition = IID(IID.Config(clients=2, min_class=least))
    audit = AuditConfig(holdout=holdout, canaries=canaries)
    with pytest.raises(UserError, match=text):
        draw_split(labels, 3, val, audit, partition, 0)


def test_a_partition_that_loses_records_is_refused() -> None:
    class Lossy(IID):
        def __call__(self, labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> list[np.ndarray]:
            return [np.arange(3)]

    with pytest.raises(UserError, match="lost or doubled"):
        draw_split(LABELS, 3, 0.1, AuditConfig(), Lossy(Lossy.Config()), 0)
