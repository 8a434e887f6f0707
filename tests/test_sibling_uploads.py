"""Answers that runs of a sweep share: fewer are worked out, and no number changes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedsim.config import parse_yaml, read, to_yaml
from fedsim.experiment import execute
from fedsim.federated import client
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve
from fedsim.sibling_uploads import share
from tests.reference.tiny_run import TINY, InlineGrid

NAIVE = {"attackers": [{"name": "naive", "clients": [1], "size": 2}]}
CLIPPED = {"defenses": [{"name": "robust_aggregation", "rule": "norm_clip"}]}
HARMLESS = {"defenses": [{"name": "upload_checks", "threshold": 1e9}]}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


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
    return {name: RunDirectory(run).read_json("result")[name] for name in ("model_sha256", "accuracy")}


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
        patch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
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


def begun(clean: Path, out: Path, **changes: Any) -> tuple[RunDirectory, Any, dict[str, Any]]:
    """A run beside the clean one that has not begun, its settings, and the facts of the clean one."""
    config = resolve(FederatedRun, read(clean / "config.yaml") | changes)
    return RunDirectory.open(out, config, "other", config.seed), config, RunDirectory(clean).read_json("manifest")


OTHERWISE: list[dict[str, Any]] = [{"seed": 1}, {"server": {"epochs": 2}}, {"rounds": 1}]


@pytest.mark.parametrize("changes", OTHERWISE)
def test_nothing_is_shared_under_other_settings(changes: dict[str, Any], clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **changes)
    assert share(run, config, facts, [clean]) == {}


@pytest.mark.parametrize("name", ["git", "versions", "data", "own_code", "device"])
def test_nothing_is_shared_with_a_run_made_otherwise(name: str, clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **HARMLESS)
    assert share(run, config, facts | {name: "other"}, [clean]) == {}
    assert share(run, config, facts, [clean]) == {clean.name: 4}


def test_a_run_that_has_begun_is_left_alone(clean: Path, tmp_path: Path) -> None:
    run, config, facts = begun(clean, tmp_path, **HARMLESS)
    (run.path / "clients/client_0000").mkdir(parents=True)
    assert share(run, config, facts, [clean]) == {}


def test_only_a_whole_answer_is_copied(clean: Path, tmp_path: Path) -> None:
    sibling = tmp_path / clean.name
    shutil.copytree(clean, sibling)
    (sibling / "clients/client_0001/round_001/upload.safetensors").unlink()
    run, config, facts = begun(sibling, tmp_path, **HARMLESS)
    assert share(run, config, facts, [sibling]) == {sibling.name: 3}
    assert not (run.path / "clients/client_0001/round_001").exists()


def test_releases_under_privacy_are_not_shared(clean: Path, tmp_path: Path) -> None:
    privacy = {"name": "features", "target_epsilon": 10, "clip": 8.0, "kappa": 2.0, "public_bound": 2000}
    pool = {"name": "pool", "size": 1}
    method = {"name": "dm", "ipc": 1, "init": "noise", "batch_real": 0, "networks": pool}
    shutil.copytree(clean, tmp_path / clean.name)
    run, config, facts = begun(clean, tmp_path, privacy=privacy, method=method)
    (tmp_path / clean.name / "config.yaml").write_text(to_yaml(config))
    assert share(run, config, facts, [tmp_path / clean.name]) == {}
