"""Updates of FedAvg in an audit, and reconstructions of a finished run from the command line, alone or not."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from attacks.alone import alone
from attacks.dlg import DLG
from fedsim.audit.reconstructions import matched
from fedsim.audit.schema import AuditRun, load_audit, of_finished
from fedsim.audit_checks import plan, verify
from fedsim.audit_runs import work
from fedsim.auditing import audit
from fedsim.cli import main
from fedsim.experiment import execute
from fedsim.schema import load_run
from fedsim.types import RunFailed, UserError

FILE = Path("configs/audit/fedavg_digits.yaml")
SMALL = (
    "workers=1", "run.rounds=1", "run.model.width=8", "run.algorithm.local.epochs=2", "gradients.cases=4",
    "attacks=[{name: fedavg_inversion, iterations: 40, total_variation: 0.0}]",
)  # fmt: skip


def small(*more: str) -> AuditRun:
    return load_audit(FILE, [*SMALL, *more])


def card_of(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def test_updates_are_inverted_and_stand_beside_what_the_prior_alone_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.auditing.make", lambda folder, workers, terminal: work(folder, 0, 1))
    folder, code = audit(small(), tmp_path)
    card = card_of(folder)
    found = {one["metric"]: one for one in card["findings"]}
    assert code == card["exit_code"] in (0, 5)
    assert {one["release"] for one in card["findings"]} == {"local_update"}
    assert found["label_accuracy"]["estimate"]["value"] == 1.0
    assert found["identification"]["confirmatory"]
    prior = found["identification_prior_only"]
    assert not prior["confirmatory"]
    assert prior["null"] == found["identification"]["null"]
    assert prior["estimate"]["value"] <= found["identification"]["estimate"]["value"]
    assert card["controls"] == []
    assert card["release"]["algorithm"] == "fedavg"
    assert "updates of 1 records each; smallest rate of identification" in plan(small())
    assert "all as on the card" in verify(folder)


def test_a_weight_change_stands_beside_what_of_it_is_not_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.auditing.make", lambda folder, workers, terminal: work(folder, 0, 1))
    folder, code = audit(small("attacks=[{name: ntk_reconstruction, iterations: 3}]", "gradients.cases=2"), tmp_path)
    found = {one["metric"]: one for one in card_of(folder)["findings"]}
    assert 0 < found["identification"]["details"]["residual"] <= 1
    lazy = found["identification"]["details"]["residual"] <= 0.2
    assert (found["identification"]["status"] == "INCONCLUSIVE") == (not lazy)
    assert code == (0 if lazy else 6)
    assert "all as on the card" in verify(folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attacks=[{name: fedavg_inversion, epochs: 3}]"], "got epochs with protocol: run"),
        (["attacks=[{name: lira}]"], "got client_sets for a run of fedavg, whose clients send weights"),
        (["attacks=[{name: identification, release: update}]"], "run.transcript=uploads: identification from updates"),
        (["gradients.of=synthetic"], "of=synthetic, at=first for an attack on updates; valid: of=records"),
        (["run.algorithm.local.momentum=0.9"], "local.momentum=0.9"),
        (["run.algorithm.name=scaffold"], "got run.algorithm scaffold; valid for an attack on updates: fedavg"),
        (["attacks=[{name: fedavg_inversion, protocol: settings}]"], "protocol: settings without local_rate"),
        (["run.audit.holdout=0"], "run.audit.holdout=0"),
    ],
)
def test_updates_that_cannot_be_unrolled_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        small(*words)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of FedAvg without a holdout."""
    words = [word.removeprefix("run.") for word in SMALL if word.startswith("run.")]
    file = tmp_path_factory.mktemp("runs") / "fedavg.yaml"
    file.write_text(json.dumps({
        "seed": 0, "rounds": 1, "compute": {"workers": 0}, "data": "digits", "partition": {"name": "iid", "clients": 5},
        "model": {"name": "mlp", "depth": 1, "width": 8},
        "algorithm": {"name": "fedavg", "local": {"epochs": 2, "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0,
                                                  "batch_size": 32, "schedule": "constant"}},
    }))  # fmt: skip
    return execute(load_run(file, words), file.parent)


def test_a_finished_run_is_attacked_and_all_is_exploratory(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=11)
    monkeypatch.setattr("fedsim.console.time.monotonic", lambda: float(next(seconds)))
    words = ["gradients.cases=3", "attacks=[{name: idlg, iterations: 10}, {name: fedavg_inversion, iterations: 10}]"]
    assert main(["audit", "run", str(run), *words]) == 6
    said = capsys.readouterr()
    assert {"  idlg: 3 steps", "  fedavg_inversion: 3 steps"} <= set(said.err.splitlines())  # not silent while it works
    folder = Path(said.out.strip().splitlines()[-1])
    assert folder.parent.parent == run / "audit"
    card = card_of(folder)
    assert card["verdict"] == "INCONCLUSIVE: all is exploratory, nothing was registered before the run"
    assert not any(one["confirmatory"] for one in card["findings"])
    assert {one["metric"] for one in card["findings"]} == {"mse_below_0.001", "label_accuracy"}  # nothing held out
    page = (folder / "card.html").read_text()
    assert page.count("What idlg made of it") == page.count("What fedavg inversion made of it") == 3
    assert "Registered before the run" not in page
    assert "all as on the card" in verify(folder)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    kept = dict(np.load(copy / "reconstructions.npz"))
    np.savez_compressed(copy / "reconstructions.npz", **(kept | {"made.idlg": kept["true.idlg"]}))
    with pytest.raises(RunFailed, match=r"reconstructions\.npz: its fingerprint"):
        verify(copy)


def test_an_attack_runs_alone_on_a_run_and_says_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(run), "gradients.cases=2", "attacks=[{name: dlg, iterations: 3}]", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as left:
        alone(sys.modules[DLG.__module__].__file__ or "", words)
    assert left.value.code == 6
    by_itself = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert main(["audit", "run", *words, "--attack", "dlg"]) == 6
    assert Path(capsys.readouterr().out.strip().splitlines()[-1]) == by_itself
    assert card_of(by_itself)["details"]["attacks"] == ["dlg"]


@pytest.mark.parametrize(
    ("names", "words", "said"),
    [
        (["lira"], [], "a finished run held nothing out and planted nothing for it; valid: dlg, idlg"),
        ([], [], "say what is tried on it; valid: --attack with dlg"),
        (["dlg"], ["run.seed=3"], "cannot change any more"),
        (["dlg"], ["attacks=[{name: idlg}]"], "got others than those of --attack"),
        (["dgl"], [], "did you mean 'dlg'"),
    ],
)
def test_what_cannot_be_asked_of_a_finished_run(run: Path, names: list[str], words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        of_finished(run, names, words)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_no_run_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "run", str(tmp_path), "--attack", "dlg"]) == 2
    assert "is no finished run of fedsim run" in capsys.readouterr().err


def test_a_client_that_is_not_there_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="client: got 9; valid: 0 to 4"):
        audit(of_finished(run, ["dlg"], ["client=9"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_stand_below_their_own_records() -> None:
    records = np.random.default_rng(0).integers(0, 256, (3, 2, 1, 4, 4)).astype(np.uint8)
    made, true = matched(records[:, ::-1] / 255, records)
    assert np.array_equal(made, true)
    assert np.array_equal(true, records.reshape(6, 1, 4, 4))
