"""One-shot distillation: one upload, nothing received; FedDM with one round and fresh networks in the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli import main

CONFIG = str(Path(__file__).parents[3] / "configs/quickstart/one_shot_digits.yaml")
QUICK = ["method.iterations=3", "method.ipc=2", "method.networks=fresh", "server.epochs=2", "compute.workers=0"]
QUICK += ["partition.clients=3", "participation.min_replies=3", "controls.upload_real_subset=false", "compute.chunk=0"]


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["run", CONFIG, *QUICK, *words]) == 0
    return json.loads((Path(capsys.readouterr().out.strip().splitlines()[-1]) / "result.json").read_text())


def test_it_is_one_round_of_feddm_with_fresh_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["method.match=[embedding]", "name=x", "--out", str(tmp_path)]
    once, feddm = ran(capsys, *settings), ran(capsys, "algorithm=feddm", *settings)
    assert once["model_sha256"] == feddm["model_sha256"]
    assert once["uplink_bytes"] == feddm["uplink_bytes"]
    assert once["downlink_bytes"] < 300 < feddm["downlink_bytes"] / 100  # envelopes of three clients, and no weights


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("rounds=2", "rounds: got 2; one_shot has 1 by definition"),
        ("method.networks=perturb", "draws around the server's weights, which one_shot does not send"),
        ("method.networks={name: pool, around: server}", "which one_shot does not send; valid here: fresh"),
    ],
)
def test_what_it_cannot_do_is_refused_before_any_work(
    word: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", CONFIG, *QUICK, word, "--out", str(tmp_path)]) == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
