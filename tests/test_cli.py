"""The command line: exit codes, what goes to which stream, and that every command does what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import __version__, catalog
from fedsim.cli import main
from fedsim.data.synthetic import SyntheticSet
from tests.reference.tiny_run import CENTRAL, TINY, InlineGrid


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files in an empty folder; clients answer in this process."""
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "central.yaml").write_text(CENTRAL)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["report", "-h"]])
def test_help(capsys, words):
    assert main(words) == 0
    said = capsys.readouterr()
    assert "Usage: fedsim" in said.out
    assert said.err == ""


@pytest.mark.parametrize("kind", catalog.CATALOG)
@pytest.mark.parametrize("plural", ["", "s"])
def test_list(capsys, kind, plural):
    assert main(["list", kind + plural]) == 0
    assert capsys.readouterr().out.split() == catalog.names(kind)


def test_the_plural_of_privacy(capsys):
    assert main(["list", "privacies"]) == 0
    assert capsys.readouterr().out.split() == catalog.names("privacy")


def test_describe(capsys):
    assert main(["describe", "dm"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("method dm ")
    assert "Distribution Matching" in said
    assert "ipc = 10" in said


def test_a_run_its_repetition_and_its_report(capsys, tmp_path):
    assert main(["run", "tiny.yaml", "rounds=1", "--out", "mit Leerzeichen — é"]) == 0
    said = capsys.readouterr()
    run = Path(said.out.splitlines()[-1])
    assert run.parent == Path("mit Leerzeichen — é/tiny")
    assert "round 1/1" in said.err
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "manifest.json", "metrics.jsonl", "split.npz", "result.json", "report.html"}

    facts = json.loads((run / "manifest.json").read_text())
    assert facts["status"] == "finished"
    assert run.name == f"{facts['config_hash']}-s0"

    assert main(["run", str(run / "config.yaml"), "--resume", "--out", "mit Leerzeichen — é"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(run)
    assert "is finished already" in said.err

    assert main(["report", str(run), "--out", "new/page.html"]) == 0
    assert capsys.readouterr().out == "new/page.html\n"
    assert "<html" in (tmp_path / "new/page.html").read_text()


def test_a_central_condensation_and_its_evaluation(capsys):
    assert main(["distill", "central.yaml", "--out", "runs"]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1])
    (synthetic,) = (run / "synthetic").glob("*.safetensors")
    assert main(["evaluate", str(synthetic), "--data", "digits", "nets=2", "train.epochs=1"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["synthetic_images"] == len(SyntheticSet.load(synthetic)) == 10
    assert 0 <= scored["mean"] <= 1
    assert (scored["n"], scored["over"]) == (2, "networks")
    assert scored["protocol"]["model"]["width"] == 4


def test_dry_run_prints_a_config_that_can_be_run_and_writes_nothing(capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "tiny.yaml", "seed=5", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before
    assert said.err == ""
    (tmp_path / "again.yaml").write_text(said.out)
    assert main(["run", "again.yaml", "--dry-run"]) == 0
    assert _config(capsys.readouterr().out) == _config(said.out)
    assert "seed: 5" in said.out


def _config(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_debug_shows_the_traceback_and_keeps_the_code(capsys):
    assert main(["run", "tiny.yaml", "seed=x", "--debug"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1].startswith("fedsim: seed: got 'x'")


def test_a_run_that_fails_says_why_and_exits_with_1(capsys):
    words = ["run", "tiny.yaml", "faults=[{name: nan, client: 1}]", "participation.min_replies=2"]
    assert main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("fedsim: the run failed: round 1: 1 of 2 uploads were usable")
    (facts,) = Path("runs").rglob("manifest.json")
    assert json.loads(facts.read_text())["status"] == "failed"


def test_a_bug_is_one_short_line_and_1(capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("first line " + "x" * 900 + "\nframe #0: libtorch\n" * 50)

    monkeypatch.setattr("fedsim.experiment.simulate", broken)
    assert main(["run", "tiny.yaml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fedsim: RuntimeError: first line")
    assert said.endswith("(--debug shows where)\n")
    assert said.count("\n") == 1
    assert len(said) < 400


def test_an_interrupt_saves_the_state_and_exits_with_130(capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedsim.experiment.simulate", interrupt)
        assert main(["run", "tiny.yaml"]) == 130
    assert "run the same command again" in capsys.readouterr().err
    (facts,) = Path("runs").rglob("manifest.json")
    assert json.loads(facts.read_text())["status"] == "interrupted"
    assert main(["run", "tiny.yaml", "--resume"]) == 0
    assert json.loads(facts.read_text())["status"] == "finished"


@pytest.mark.parametrize("out", ["folder", "tiny.yaml/page.html"])
def test_a_page_that_cannot_be_written(capsys, tmp_path, out):
    assert main(["run", "tiny.yaml", "rounds=1"]) == 0
    run = capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "folder").mkdir()
    assert main(["report", run, "--out", out]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fedsim: cannot use {out.split('/')[0]}")
    assert "what was stored is intact" in said
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_page_has_the_name_of_one(capsys):
    assert main(["run", "tiny.yaml", "rounds=1"]) == 0
    assert main(["report", capsys.readouterr().out.splitlines()[-1], "--out", "x.pdf"]) == 2
    assert capsys.readouterr().err.startswith("fedsim: --out x.pdf: a page is .html, a table one of .md")
    assert not Path("x.pdf").exists()


def test_several_runs_need_a_page_of_their_own(capsys, tmp_path):
    for seed in ("0", "1"):
        assert main(["run", "tiny.yaml", "rounds=1", f"seed={seed}"]) == 0
    first, second = sorted(map(str, Path("runs/tiny").iterdir()))
    (tmp_path / "runs/tiny/sweep.html").write_text("")
    own = (Path(first) / "report.html").read_bytes()
    capsys.readouterr()
    assert main(["report", first, second]) == 2
    assert capsys.readouterr().err == (
        "fedsim: 2 runs side by side need a page of their own; give --out FILE, such as compare.html\n"
    )
    assert (Path(first) / "report.html").read_bytes() == own

    assert main(["report", first, second, "runs/tiny/sweep.html", "--out", "compare.html"]) == 0
    said = capsys.readouterr()
    assert said.out == "compare.html\n"
    assert said.err == "left out, no run but what a sweep writes beside its runs: runs/tiny/sweep.html\n"
    assert "2 runs side by side" in Path("compare.html").read_text()
    assert main(["report", first]) == 0
    assert capsys.readouterr().out == f"{first}/report.html\n"


def test_as_a_program():
    """Through the interpreter: the exit code and the streams."""
    run = [sys.executable, "-m", "fedsim"]
    done = subprocess.run([*run, "list", "metods"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedsim: unknown kind 'metods' (did you mean 'method'?)")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
