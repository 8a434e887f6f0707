"""An empty workplace with two configs, and the check that bad input is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.cli import main
from tests.reference.tiny_run import CENTRAL, TINY


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the two files, and no data anywhere."""
    (tmp_path / "run.yaml").write_text(TINY)
    (tmp_path / "central.yaml").write_text(CENTRAL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], list[str]], None]:
    """Run the command line on bad input: exit code 2, one line that mentions all of that, and no file touched."""

    def check(words: list[str], mention: list[str]) -> None:
        before = _contents(tmp_path)
        code = main(words)
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.strip()]
        assert (code, len(lines)) == (2, 1), said
        assert len(lines[0]) < 400
        assert "Traceback" not in said
        assert [fragment for fragment in mention if fragment not in lines[0]] == [], lines[0]
        assert _contents(tmp_path) == before

    return check


def _contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
