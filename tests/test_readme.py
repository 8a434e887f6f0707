"""The README's example of a user's own method runs as printed, alone and in a federation, outside the repository."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim import catalog
from fedsim.cli import main
from fedsim.sweep import load_sweep
from fedsim.sweep_schema import Sweep

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "distill": ["evaluation.nets=1", "evaluation.train.epochs=1"],
    "run": [
        "rounds=1",
        "server.epochs=1",
        "partition={name: iid, clients: 2}",
        "participation.min_replies=2",
        "compute.workers=1",
    ],
}
"""Laid over the printed commands: it is their working that is tried, not what they reach."""


def blocks(language: str, after: str = "**No fork is needed") -> list[str]:
    """The code blocks of one language after these words: in the section on one's own method."""
    section = README.split(after)[1]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for the printed file and the configs, on the path as `PYTHONPATH=.` puts it."""
    (source,) = blocks("python")
    path = tmp_path / source.splitlines()[0].removeprefix("# ")
    path.parent.mkdir()
    path.write_text(source)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_package", "my_package.mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run(folder: Path, line: str, *more: str) -> dict[str, Any]:
    """What a printed command leaves behind as its result."""
    path, program, command, *words = shlex.split(line)
    assert (path, program) == ("PYTHONPATH=.", "fedsim")
    assert main([command, *words, *SMALL[command], *more]) == 0
    (result,) = (folder / "runs").rglob("result.json")
    return json.loads(result.read_text())


def test_the_central_command_runs(folder: Path) -> None:
    central, _ = blocks("bash")[0].splitlines()
    result = run(folder, central)
    assert result["synthetic_images"] == 10
    assert 0 <= result["accuracy"] <= 1


def test_the_federated_command_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, federated = blocks("bash")[0].splitlines()
    result = run(folder, federated, "controls.upload_real_subset=false")
    assert (result["clients_failed"], result["uploads_rejected"], result["synthetic_images"]) == (0, 0, 40)
    assert "real training images" not in capsys.readouterr().err
    (manifest,) = (folder / "runs").rglob("manifest.json")
    assert list(json.loads(manifest.read_text())["own_code"]) == ["my_package.mine:Mine"]


@pytest.mark.parametrize("kind", catalog.CATALOG)
def test_the_table_of_kinds_names_every_part(kind: str) -> None:
    lines = [line for line in README.splitlines() if line.startswith(f"| `{kind}`")]
    missing = [name for name in catalog.names(kind) if not any(f"`{name}`" in line for line in lines)]
    assert not missing


def test_the_printed_sweep_is_one(tmp_path: Path) -> None:
    text = blocks("yaml", "A sweep's file has")[0]
    (tmp_path / "feddm_digits.yaml").write_text((ROOT / "configs/quickstart/feddm_digits.yaml").read_text())
    (tmp_path / "sweep.yaml").write_text(text)
    sweep, plans = load_sweep(tmp_path / "sweep.yaml")
    assert set(Sweep.model_fields) == sweep.model_fields_set
    assert len(plans) == 12
