"""An audit from its file to its card: runs, attacks, controls, verification; cut off and gone on with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from attacks.membership_statistics import LEAST_SHADOWS
from fedsim.audit.schema import LEAST_SHADOWED_ROWS, AuditRun, load_audit
from fedsim.audit_checks import compare, plan, verify
from fedsim.audit_judgement import disjoint, only
from fedsim.auditing import audit
from fedsim.cli import main
from fedsim.runs import RunDirectory
from fedsim.types import RunFailed, UserError

QUICK = Path("configs/audit/quick.yaml")
TINY = (
    "rows=6", "workers=1", "controls={overfit: 30, single: true}",
    "run.method={name: dm, ipc: 1, iterations: 2, init: noise, batch_real: 0, networks: {name: pool, size: 1}}",
    "run.server={epochs: 2, lr: 0.01, batch_size: 64}", "run.model={name: mlp, depth: 1, width: 8}",
    "attacks=[{name: lira, statistics: [nn_pixels], permutations: 19}, "
    "{name: loss_threshold, networks: 1, permutations: 19}, {name: idlg, iterations: 20}]",
    "gradients={cases: 3}",
)  # fmt: skip


def tiny(*more: str) -> AuditRun:
    return load_audit(QUICK, [*TINY, *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    return audit(tiny(), tmp_path_factory.mktemp("audits"))


def card_of(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def test_a_card_holds_findings_controls_and_where_they_come_from(done: tuple[Path, int]) -> None:
    folder, code = done
    card = card_of(folder)
    assert code == card["exit_code"]
    assert {one["name"] for one in card["controls"]} == {"publish_subset", "overfit", "single", "disjoint", "permuted"}
    assert {one["attack"] for one in card["findings"]} == {"lira", "loss_threshold", "idlg"}
    assert sum(one["confirmatory"] for one in card["findings"]) == 3
    assert card["release"]["runs"] == 6
    arrays = [name.partition("/")[0] for name in card["details"]["arrays"]]
    assert arrays.count("truth") == 6 + 1
    assert arrays.count("scores") == 3 * 6 + 3 + 1  # two attacks, disjoint; controls; gradients
    assert arrays.count("cache") == len(list((folder / "cache").glob("*.npz"))) > 0
    page = (folder / "card.html").read_text()
    assert card["verdict"].partition(":")[0] in page
    assert "<script" not in page
    assert "://" not in page


def test_published_records_are_found_by_the_exact_test(done: tuple[Path, int]) -> None:
    found = next(one for one in card_of(done[0])["controls"] if one["name"] == "publish_subset")
    assert found["passed"]
    assert found["p"] < 1e-3


def test_labels_of_single_gradients_are_read_off(done: tuple[Path, int]) -> None:
    found = {one["metric"]: one for one in card_of(done[0])["findings"] if one["attack"] == "idlg"}
    assert found["label_accuracy"]["estimate"]["value"] == 1.0
    assert found["label_accuracy"]["estimate"]["n"] == 3
    assert found["identification"]["null"] == pytest.approx(1 / found["identification"]["details"]["among"])


def test_a_finished_audit_is_not_made_again(done: tuple[Path, int]) -> None:
    folder, code = done
    before = (folder / "card.json").stat().st_mtime_ns
    assert audit(tiny(), folder.parent.parent) == (folder, code)
    assert (folder / "card.json").stat().st_mtime_ns == before


def test_a_lost_card_is_the_same_again(done: tuple[Path, int], tmp_path: Path) -> None:
    """What a kill before the last step leaves: everything but the card."""
    copy = tmp_path / done[0].parent.name / done[0].name
    shutil.copytree(done[0], copy)
    (copy / "card.json").unlink()
    first = next((copy / "scores" / "lira").glob("*.npz"))
    first.unlink()
    audit(tiny(), tmp_path)
    told, again = card_of(done[0]), card_of(copy)
    assert again["findings"] == told["findings"]
    assert again["controls"] == told["controls"]
    assert again["details"]["arrays"] == told["details"]["arrays"]


def test_verify_repeats_every_number(done: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(done[0])]) == 0
    assert "all as on the card" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "said"),
    [(("findings", 0, "estimate", "value"), "findings"), (("controls", 1, "estimate", "high"), "controls[overfit]")],
)
def test_verify_names_an_altered_number(done: tuple[Path, int], tmp_path: Path, path: tuple, said: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done[0], copy, ignore=shutil.ignore_patterns("runs", "flwr"))
    card = card_of(copy)
    place = card
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] += 0.001
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(RunFailed) as raised:
        verify(copy)
    assert said in str(raised.value)
    assert path[-1] in str(raised.value)


@pytest.mark.parametrize("part", ["release", "utility", "accounting"])
def test_verify_names_what_the_runs_do_not_say(
    done: tuple[Path, int], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of(done[0]) | {part: {"epsilon": 0.1}}
    monkeypatch.setattr("fedsim.runs.RunDirectory.read_json", altered(RunDirectory.read_json, card))
    with pytest.raises(RunFailed, match=part):
        verify(done[0])


def altered(read: Any, card: dict[str, Any]) -> Any:
    """`read_json` under which another card lies in the folder."""
    return lambda run, name: card if name == "card" else read(run, name)


def test_verify_says_what_it_could_not_read_again(done: tuple[Path, int], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done[0], copy, ignore=shutil.ignore_patterns("runs", "flwr"))
    shutil.rmtree(copy / "plan")
    assert "its runs are not here: release, accounting and utility were not read again" in verify(copy)


def test_verify_names_an_altered_file(done: tuple[Path, int], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(done[0], copy, ignore=shutil.ignore_patterns("runs", "flwr"))
    shutil.copy(copy / "scores/lira/row_0001.npz", copy / "scores/lira/row_0000.npz")
    with pytest.raises(RunFailed, match=r"scores/lira/row_0000.npz: its fingerprint"):
        verify(copy)
    shutil.copy(done[0] / "scores/lira/row_0000.npz", copy / "scores/lira/row_0000.npz")
    kept = sorted((copy / "cache").glob("*.npz"))
    shutil.copy(kept[0], kept[1])
    with pytest.raises(RunFailed, match=rf"cache/{kept[1].name}: its fingerprint"):
        verify(copy)


def test_two_cards_stand_side_by_side(done: tuple[Path, int]) -> None:
    lines = compare(done[0], done[0]).splitlines()
    assert lines[0].startswith("finding")
    assert len(lines) == len(card_of(done[0])["findings"]) + 3
    assert max(map(len, lines[:-2])) < 300


def test_a_plan_says_what_could_be_found() -> None:
    text = plan(tiny())
    assert "360 members and 360 non-members" in text
    assert "smallest AUC that one target could show: 0.5" in text
    assert "7 runs, 1 at a time: 6 in complementary pairs, publish_subset" in text
    assert "3 gradients of 1 records each; smallest rate of identification among 100" in text
    seconds = [float(one.replace(",", "")) for one in re.findall(r"about ([\d,]+) s", text)]
    assert len(seconds) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rows=11"], "give 12"),
        (["rows=4"], "rows=4: attack lira needs at least 4 runs .* valid: even numbers from 6"),
        (["rows=4", "attacks=[{name: loss_threshold, threshold: shadows}]"], "rows=4: attack loss_threshold needs"),
        (["run.audit.holdout=0"], "run.audit.holdout=0: non-members are held out"),
        (["run.transcript=none"], "nothing released would be kept"),
        (["run.engine=ray"], "valid: local"),
        (["run.partition.clients=1"], "needs sets of another"),
        (["attacks=[]"], "attacks"),
        (["attacks=[{name: lira}, {name: lira}]"], "lira is there twice"),
        (["attacks=[{name: liras}]"], "did you mean 'lira'"),
        (["run.metod=dm"], "did you mean 'method'"),
    ],
)
def test_what_cannot_be_audited_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_audit(QUICK, words)


def test_four_rows_are_enough_where_no_run_is_compared_with_others() -> None:
    assert load_audit(QUICK, ["rows=4", "attacks=[{name: nearest_neighbour}]"]).rows == 4
    assert LEAST_SHADOWED_ROWS == LEAST_SHADOWS + 2


def test_a_client_that_is_not_there_is_refused_before_any_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="valid: 0 to 1"):
        audit(tiny("client=5"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_attacks_of_the_file_can_be_chosen() -> None:
    assert [one.name for one in only(tiny(), ["loss_threshold"]).attacks] == ["loss_threshold"]
    with pytest.raises(UserError, match="valid: lira, loss_threshold, idlg"):
        only(tiny(), ["dlg"])


def test_the_negative_control_needs_sets_of_one_client_alone() -> None:
    """The server's model and the union hold what the audited client sent: there the control would be none."""
    assert disjoint(tiny()).name == "lira"
    assert disjoint(tiny("attacks=[{name: lira, release: final_set}]")) is None
    assert disjoint(tiny("attacks=[{name: lira, release: server_model, statistics: [model]}]")) is None
    assert disjoint(tiny("controls.disjoint=false")) is None


def test_a_file_of_a_run_is_no_audit() -> None:
    with pytest.raises(UserError, match="is no audit"):
        load_audit(Path("configs/quickstart/feddm_digits.yaml"))
