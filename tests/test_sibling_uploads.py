"""Answers that runs of a sweep share: fewer are worked out, and no number changes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim import backdoors
from fedsim.config import parse_yaml, read, to_yaml
from fedsim.experiment import execute
from fedsim.federated import client
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve
from fedsim.sibling_uploads import answers, copy
from tests.reference.tiny_run import TINY, InlineGrid

NAIVE = {"attackers": [{"name": "naive", "clients": [1], "size": 2}]}
DOORPING = {"attackers": [{"name": "doorping", "clients": [1], "size": 2, "iterations": 2}]}
CLIPPED = {"defenses": [{"name": "robust_aggregation", "rule": "norm_clip"}]}
HARMLESS = {"defenses": [{"name": "upload_checks", "threshold": 1e9}]}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Whole runs in this process, from a checkout without changes of its own."""
    patch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    patch.setattr("fedsim.runs._git", lambda: {"commit": "0" * 40, "dirty": False})


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """(client, round) → how often it was worked out."""
    found: Counter[tuple[int, int]] = Counter()
    keep = client.keep

    def counted(node: Any, upload: Any, broadcast: Any, together: Any) -> None:
        found[upload.client, upload.round] += 1
        keep(node, upload, broadcast, together)

    monkeypatch.setattr(client, "keep", counted)
    return found


def tiny(**changes: Any) -> Any:
    return resolve(FederatedRun, parse_yaml(TINY, "test") | changes)


def told(run: Path) -> dict[str, Any]:
    return {name: RunDirectory(run).read_json("result").get(name) for name in ("model_sha256", "accuracy", "backdoor")}


ALONE = {"without_attackers": False, "upload_real_subset": False}
"""The run itself is counted, nothing beside it."""
CASES = [
    pytest.param(HARMLESS, {}, 4, id="a filter that flags nobody: nothing is worked out again"),
    pytest.param(CLIPPED, {(0, 2): 1, (1, 2): 1}, 4, id="another server: the first answers"),
    pytest.param(NAIVE, {(1, 1): 1, (0, 2): 1, (1, 2): 1}, 1, id="a liar: the honest client's first answer"),
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        return execute(tiny(controls=ALONE), tmp_path_factory.mktemp("sweep"))


@pytest.mark.parametrize(("change", "again", "copied"), CASES)
def test_shared_answers_change_no_number(
    change: dict[str, Any], again: dict[tuple[int, int], int], copied: int, worked: Counter[tuple[int, int]],
    clean: Path, tmp_path: Path,
) -> None:  # fmt: skip
    config = tiny(controls=ALONE, **change)
    run = execute(config, tmp_path / "shared", siblings=[clean])
    assert worked == again
    assert RunDirectory(run).read_json("manifest")["answers_of"] == {clean.name: copied}
    assert told(run) == told(execute(config, tmp_path / "alone"))


OTHER_SERVER = {(0, 2): 1, (1, 2): 1}
STATEFUL = {
    "algorithm": {
        "name": "scaffold",
        "local": {
            "epochs": 1,
            "lr": 0.1,
            "batch_size": 64,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "schedule": "constant",
        },
    },
    "method": None,
    "server": None,
}
PAIRS = [
    pytest.param(DOORPING, DOORPING | CLIPPED, OTHER_SERVER, id="a trigger made in each round"),
    pytest.param(STATEFUL, STATEFUL | NAIVE, {(1, 1): 1, **OTHER_SERVER}, id="clients that remember"),
]


@pytest.mark.parametrize(("first", "second", "again"), PAIRS)
def test_answers_to_another_server_are_not_used(
    first: dict[str, Any], second: dict[str, Any], again: dict[tuple[int, int], int], worked: Counter[tuple[int, int]],
    tmp_path: Path,
) -> None:  # fmt: skip
    sibling = execute(tiny(controls=ALONE, **first), tmp_path / "shared")
    worked.clear()
    config = tiny(controls=ALONE, **second)
    run = execute(config, tmp_path / "shared", siblings=[sibling])
    assert worked == again
    assert told(run) == told(execute(config, tmp_path / "alone"))


def test_of_a_client_that_fails_nothing_is_left_of_what_was_offered(tmp_path: Path) -> None:
    """Its last trigger is its own of round 1, not the other run's of round 2, which was offered."""
    sibling = execute(tiny(controls=ALONE, **DOORPING), tmp_path / "shared")
    run, config, facts = begun(sibling, tmp_path / "failing", **CLIPPED)
    copy(answers(run, config, facts, [sibling]))
    rounds = run.path / "clients/client_0001"
    assert [path.name for path in sorted(rounds.glob("round_002/offered/*"))] == [
        "trigger.safetensors",
        "upload.safetensors",
    ]
    assert backdoors.left(run, 2) == []
    node: Any = SimpleNamespace(forget=False, folder=lambda _, number: rounds / f"round_{number:03d}")
    other: Any = SimpleNamespace(round=2, sha256="another question")
    assert client.kept(node, 1, other, (1,)) is None
    assert not list(rounds.glob("round_002/*.safetensors"))


def begun(clean: Path, out: Path, **changes: Any) -> tuple[RunDirectory, Any, dict[str, Any]]:
    """A run beside the clean one that has not begun, its settings, and the facts of the clean one."""
    config = resolve(FederatedRun, read(clean / "config.yaml") | changes)
    return RunDirectory.open(out, config, "other", config.seed), config, RunDirectory(clean).read_json("manifest")


OTHERWISE: list[dict[str, Any]] = [{"seed": 1}, {"server": {"epochs": 2}}, {"rounds": 1}]


@pytest.mark.parametrize("changes", OTHERWISE)
def test_nothing_is_shared_under_other_settings(changes: dict[str, Any], clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **changes)
    assert answers(run, config, facts, [clean]) == []


@pytest.mark.parametrize("name", ["git", "versions", "data", "own_code", "device"])
def test_nothing_is_shared_with_a_run_made_otherwise(name: str, clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **HARMLESS)
    assert answers(run, config, facts | {name: {"other": 1}}, [clean]) == []
    assert len(answers(run, config, facts, [clean])) == 4


def test_nothing_is_shared_from_a_checkout_with_changes(clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **HARMLESS)
    changed = {"git": {"commit": "0" * 40, "dirty": True}}
    assert answers(run, config, facts | changed, [clean]) == []
    sibling = tmp_path / clean.name
    shutil.copytree(clean, sibling)
    told = {"sessions": [*facts["sessions"], facts["sessions"][0] | changed]}  # resumed under other code
    (sibling / "manifest.json").write_text(json.dumps(facts | told))
    assert answers(run, config, facts, [sibling]) == []


def test_a_checkout_with_changes_is_told_why_all_is_worked_out_again(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "nothing is taken over from other runs: the checkout has changes of its own (see git status)"
    prepare(monkeypatch)
    execute(tiny(controls=ALONE, **HARMLESS), tmp_path / "clean", siblings=[clean])
    assert said not in capsys.readouterr().err
    monkeypatch.setattr("fedsim.runs._git", lambda: {"commit": "0" * 40, "dirty": True})
    execute(tiny(controls=ALONE, **HARMLESS), tmp_path / "changed", siblings=[clean])
    assert said in capsys.readouterr().err


def test_a_run_that_has_begun_is_left_alone(clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **HARMLESS)
    (run.path / "clients/client_0000").mkdir(parents=True)
    assert answers(run, config, facts, [clean]) == []


def test_only_a_whole_answer_is_copied(clean: Path, tmp_path: Path) -> None:
    sibling = tmp_path / clean.name
    shutil.copytree(clean, sibling)
    (sibling / "clients/client_0001/round_001/upload.safetensors").unlink()
    run, config, facts = begun(sibling, tmp_path, **HARMLESS)
    copy(answers(run, config, facts, [sibling]))
    found = sorted(
        path.parent.parent.parent.name + path.parent.parent.name
        for path in run.path.glob("clients/*/*/offered/upload*")
    )
    assert found == ["client_0000round_001", "client_0000round_002", "client_0001round_002"]


def test_releases_under_privacy_are_not_shared(clean: Path, tmp_path: Path) -> None:
    privacy = {"name": "features", "target_epsilon": 10, "clip": 8.0, "kappa": 2.0, "public_bound": 2000}
    pool = {"name": "pool", "size": 1}
    method = {"name": "dm", "ipc": 1, "init": "noise", "batch_real": 0, "networks": pool}
    shutil.copytree(clean, tmp_path / clean.name)
    run, config, facts = begun(clean, tmp_path, privacy=privacy, method=method)
    (tmp_path / clean.name / "config.yaml").write_text(to_yaml(config))
    assert answers(run, config, facts, [tmp_path / clean.name]) == []
