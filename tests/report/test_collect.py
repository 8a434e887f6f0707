from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.build import Parts
from fedsim.data.synthetic import SyntheticSet
from fedsim.federated.record import RoundRecord, write_records
from fedsim.report.collect import collect, incomparable
from fedsim.runs import RunDirectory, manifest
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError

ROUNDS, CLIENTS, IPC = 2, 3, 2


def write_run(out: Path, name: str = "fake", *, reason: str = "", done: bool = True, **changes: Any) -> Path:
    """A run directory on digits as a run leaves it: client 2 fails in round 1 and is rejected in 2."""
    raw = {
        "name": name, "rounds": ROUNDS, "data": {"name": "digits", "val": 0.1},
        "partition": {"name": "dirichlet", "clients": CLIENTS, "alpha": 0.5, "min_size": 10},
        "model": {"name": "mlp"}, "algorithm": {"name": "feddm"}, "method": {"name": "dm", "ipc": IPC},
    }  # fmt: skip
    config = resolve(FederatedRun, raw | changes)
    run, parts = RunDirectory.open(out, config, name, 0), Parts(config)
    facts = {"data": parts.dataset.fingerprint(), "status": "finished" if done else "interrupted"}
    run.write_json("manifest", manifest(config, "cpu", []) | facts)
    parts.split.save(run.path / "split.npz")
    records = [_record(number, reason or "it broke") for number in range(1, ROUNDS + 1)]
    for record in records:
        for client in record.responders:
            _upload(run, parts, record.round, client)
        for name_of, value in record.metrics.items():
            run.metric(record.round, "val" if name_of == "accuracy" else "train", name_of, value)
    run.save_round(ROUNDS, {"weights.w": torch.zeros(2)}, {"round": ROUNDS})
    write_records(run.path, records)
    if done:
        run.write_json("result", _result(records))
    return run.path


def _record(number: int, reason: str) -> RoundRecord:
    return RoundRecord(
        round=number,
        asked=[0, 1, 2],
        responders=[0, 1],
        failed={2: reason} if number == 1 else {},
        rejected={2: reason} if number == 2 else {},
        uplink_bytes={0: 1000 * number, 1: 500},
        downlink_bytes={0: 4000, 1: 4000, 2: 4000},
        losses={0: [(1, 4.0), (10, 0.5 * number)], 1: [(1, 2.0), (10, 1.5)]},
        metrics={"accuracy": 0.4 + 0.2 * number, "step": 3.0, "step_over_radius": 1.5, "server_loss": 0.01},
        seconds=1.25,
        client_flops=2e9 * number,
        server_flops=1e8,
    )


def _upload(run: RunDirectory, parts: Parts, round_number: int, client: int) -> None:
    rng = torch.Generator().manual_seed(client)
    labels = torch.arange(parts.dataset.num_classes).repeat_interleave(IPC)
    images = torch.randint(0, 256, (len(labels), *parts.dataset.image_shape), generator=rng, dtype=torch.uint8)
    data = parts.dataset
    made = SyntheticSet(images, labels, data.classes, data.mean, data.std, {"round": round_number})
    made.save(run.path / "synthetic" / f"round_{round_number:03d}" / f"client_{client:04d}.safetensors")


def _result(records: list[RoundRecord]) -> dict[str, Any]:
    return {
        "accuracy": 0.75, "accuracy_ci": [0.7, 0.8], "accuracy_n": 1, "accuracy_over": "359 test images",
        "controls": {"upload_real_subset": {"accuracy": 0.875, "accuracy_by_round": [0.5, 0.85]}},
        "rounds": ROUNDS, "accuracy_by_round": [one.metrics["accuracy"] for one in records],
        "uplink_bytes": 4000, "downlink_bytes": 24000, "client_flops": 6e9, "server_flops": 2e8,
        "synthetic_images": 40, "real_images": 1294,
        "epsilon": None, "delta": None, "clients_failed": 1, "uploads_rejected": 1, "clients_empty": [],
        "small_classes": [[0, 3, 15], [1, 4, 1]], "protocol": {"labels": "hard"}, "model_sha256": "ab" * 32,
        "storage_bits": 20640, "wall_seconds": 2.5,
    }  # fmt: skip


def test_finished_run(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path)])
    assert (run.name, run.status, run.key, run.method, run.federated) == (
        "fake",
        "finished",
        "",
        "feddm · dm",
        True,
    )
    assert [record.round for record in run.records] == [1, 2]
    assert (run.upload_round, sorted(run.uploads)) == (2, [0, 1])
    assert run.uploads[0].provenance["round"] == 2
    assert run.table is not None
    assert run.split is not None
    assert run.table.sum() == len(run.split.train)
    assert run.small_cells == [(1, 4, 1), (0, 3, 15)]
    assert (run.mark(1, 4), run.mark(0, 3), run.mark(0, 0)) == ("tiny", "small", "")
    assert run.notes == []


def test_unfinished_run_counts_from_what_is_there(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path, done=False)])
    assert (run.status, run.result, run.controls) == ("interrupted", None, {})
    assert run.total("uplink_bytes") == 1000 + 500 + 2000 + 500
    assert run.total("downlink_bytes") == 24000
    assert (run.total("clients_failed"), run.total("uploads_rejected")) == (1, 1)
    assert run.table is not None
    expected = int(((run.table > 0) & (run.table <= 10 * IPC)).sum())
    assert len(run.small_cells) == expected
    assert run.small_cells[0][2] == min(count for _, _, count in run.small_cells)


def test_uploads_of_a_round_that_was_cut_off_are_not_shown(tmp_path: Path) -> None:
    path = write_run(tmp_path, done=False)
    begun = path / "synthetic" / "round_003"
    begun.mkdir()
    assert collect([path])[0].upload_round == 2


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    path = write_run(tmp_path, done=False)
    for file in (
        path / "rounds.jsonl",
        path / "manifest.json",
        path / "split.npz",
        path / "metrics.jsonl",
    ):
        file.unlink()
    (run,) = collect([path])
    assert (run.status, run.records, run.table, run.real_means(0)) == ("unfinished", [], None, None)
    assert any("manifest" in note for note in run.notes)
    assert any("split" in note for note in run.notes)


def test_what_is_damaged_becomes_a_note(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path / "rounds.jsonl").write_bytes(b"no\n")
    (path / "synthetic" / "round_002" / "client_0000.safetensors").write_bytes(b"no")
    (run,) = collect([path])
    assert run.records == []
    assert list(run.uploads) == [1]
    assert len(run.notes) == 2


def test_changed_or_lost_data_are_not_shown(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    run = RunDirectory(path)
    run.write_json("manifest", run.read_json("manifest") | {"data": "0" * 16})
    (view,) = collect([path])
    assert view.dataset is None
    assert "they changed since the run" in view.notes[0]
    assert view.classes[0] == "0"

    text = (path / "config.yaml").read_text().replace("name: digits", "name: npz\n  path: gone.npz")
    (path / "config.yaml").write_text(text)
    (view,) = collect([path])
    assert "cannot be shown" in view.notes[0]
    assert "gone.npz" in view.notes[0]


def test_letters_and_comparability(tmp_path: Path) -> None:
    one, two = write_run(tmp_path, "one"), write_run(tmp_path, "two", model={"name": "lenet"})
    runs = collect([one, two, one])
    assert [run.key for run in runs] == ["A", "B", "C"]
    assert incomparable(runs) == ["scored model"]
    assert incomparable([runs[0], runs[2]]) == []


@pytest.mark.parametrize("text", [None, "name: x", "- 1", "name: x\nseed: 0\ndata: digits\nmodel: mlp"])
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        collect([tmp_path])
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_run_at_all() -> None:
    with pytest.raises(UserError, match="no run was given"):
        collect([])
