"""What a report says of a private run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.privacy.features import Config as FeaturesConfig
from fedsim.privacy.features import Features
from fedsim.privacy.ledger import Charge
from fedsim.report.collect import collect
from fedsim.report.html import render
from fedsim.report.numbers import short
from fedsim.runs import RunDirectory
from tests.report.pages import page
from tests.report.test_collect import write_run


def private_run(out: Path, noise: Any, clients: int) -> Path:
    """A run of three clients that released twice each; the ledgers of so many of them can be read."""
    agreed = Features(FeaturesConfig(target_epsilon=8.0, public_bound=2000, noise=noise), 2)
    folders = [out / f"ledgers/{noise}/{client}" for client in range(clients)]
    for folder in folders:
        charge = Charge.of("", agreed.mechanism, 2, simulated=noise == "seeded")
        agreed.ledger(folder).once(charge, lambda: {"values": torch.zeros(1)})
    found = agreed.result([(folder, 10) for folder in folders], elsewhere=3 - clients)
    path = write_run(out, noise)
    run = RunDirectory(path)
    told = {"epsilon": found["epsilon"], "delta": 1e-5, "privacy": found}
    run.write_json("result", run.read_json("result") | told | {"small_classes": None, "clients_empty": None})
    return path


@pytest.mark.parametrize(("noise", "label"), [("seeded", "simulated_dp"), ("system", "dp")])
@pytest.mark.parametrize("clients", [3, 0])
def test_a_private_run_shows_its_ledger(tmp_path: Path, noise: str, label: str, clients: int) -> None:
    path = private_run(tmp_path, noise, clients)
    text, shown = render(collect([path])), page(path)
    told = RunDirectory(path).read_json("result")["privacy"]
    for words in (
        "Differential privacy", f"ε {short(told['epsilon'])} for one record of one client", f"label {label}",
        "δ 1e-05", "method gaussian", "adjacency add_remove", f"σ {short(told['sigma'])}",
        "releases 2, each with C = 4", f"ledgers {clients} read", "Not covered", *told["not_covered"],
    ):  # fmt: skip
        assert words in shown.text, words
    for one in told["assumptions"]:
        assert " ".join((one["name"], one["status"], one["evidence"])) in shown.text
    assert (text.count('<b class="alert">violated</b>'), "protects nobody" in text) == (
        (1, True) if noise == "seeded" else (0, False)
    )
    assert ("ledgers stay with the clients" in shown.text) == (clients == 0)
    assert "small cells" not in shown.text
    assert "Who holds what" in shown.text


def test_a_ledger_is_told_where_there_is_one(tmp_path: Path) -> None:
    """Not of an open run; of a result that says little, what it says, escaped."""
    assert "Differential privacy" not in page(write_run(tmp_path)).text
    path = private_run(tmp_path, "system", 1)
    run = RunDirectory(path)
    result = run.read_json("result")
    few = {"planned_epsilon": 8.0, "ledgers": 0, "sigma": 1.0, "label": "<b>dp", "epsilon": 8.0, "evidence": "planned"}
    run.write_json("result", result | {"privacy": few})
    shown = page(path)
    assert "label <b>dp" in shown.text
    assert "0 read; planned" in shown.text
    assert "premise" not in shown.text
