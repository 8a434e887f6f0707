"""What every filter of the catalog must do: leave the uploads as they are, and a run where it flags nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim import catalog
from fedsim.cli import main
from fedsim.federated.algorithms.feddm import Sets
from fedsim.federated.base import Upload
from fedsim.federated.defences import Aggregation, Filter, kept
from fedsim.federated.upload_rows import Scoring, rows_of
from fedsim.seeding import Streams
from tests.reference import defences as reference

ALL = catalog.names("defense")
FILTERS = [
    name for name in ALL if isinstance(built := catalog.resolve("defense", name), type) and hasattr(built, "inspect")
]
SYNTHETIC = [name for name in FILTERS if catalog.resolve("defense", name).sends == "synthetic"]
RUN: dict[str, Any] = {
    "name": "tiny", "rounds": 1, "data": {"name": "digits"}, "model": {"name": "convnet", "depth": 1, "width": 4},
    "partition": {"name": "iid", "clients": 5}, "algorithm": "feddm", "method": {"name": "random", "ipc": 2},
    "server": {"epochs": 2}, "controls": {"upload_real_subset": False}, "compute": {"chunk": 0, "workers": 0},
}  # fmt: skip


QUICK: dict[str, dict[str, Any]] = {"influence": {"steps": 4}}
NEVER = {name: {"threshold": 0.99 if name == "activation_clustering" else 1e9} for name in SYNTHETIC}


def build(name: str, **settings: Any) -> Any:
    found = catalog.resolve("defense", name)
    return found(found.Config(**QUICK.get(name, {}), **settings))


def content(uploads: Any) -> list[bytes]:
    return [one.encode() for one in Sets(uploads)]


@pytest.mark.parametrize("name", ALL)
def test_a_defence_is_a_filter_or_an_aggregation(name: str) -> None:
    assert isinstance(build(name), Filter) != isinstance(build(name), Aggregation)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_where_none_is_flagged_the_uploads_are_the_very_same_bytes(name: str) -> None:
    here, uploads = reference.setting(), reference.uploads(6)
    before, first = content(uploads), reference.before(here)
    weights = {key: value.clone() for key, value in first.weights.items()}
    found = build(name, **NEVER[name]).inspect(here, first, uploads, Streams(0))
    assert [one.client for one in found] == [one.client for one in uploads]
    assert not any(one.flagged for one in found)
    after = kept(uploads, found)
    assert after is uploads
    assert content(after) == before
    assert all(torch.equal(first.weights[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_flagged_upload_is_left_out_and_the_others_are_the_same_bytes(name: str) -> None:
    here, uploads = reference.setting(), reference.uploads(6)
    uploads[3] = reference.poisoned(uploads[3])
    scores = {one.client: one.score for one in build(name).inspect(here, reference.before(here), uploads, Streams(0))}
    second, worst = sorted(scores.values())[-2:]
    assert scores[13] == worst > second
    strict = build(name, threshold=(second + worst) / 2)
    found = strict.inspect(here, reference.before(here), uploads, Streams(0))
    assert [one.client for one in found if one.flagged] == [13]
    assert content(kept(uploads, found)) == content([one for one in uploads if one.client != 13])


@pytest.mark.parametrize("name", [name for name in SYNTHETIC if isinstance(build(name), Scoring)])
def test_scores_go_with_the_clients_and_are_the_same_again(name: str) -> None:
    here, uploads = reference.setting(), reference.uploads(5)
    uploads[3] = reference.poisoned(uploads[3])
    order = [3, 0, 4, 2, 1]
    weights = reference.before(here).weights

    def scores(given: list[Upload]) -> torch.Tensor:
        with torch.no_grad():
            return build(name).score(here, weights, rows_of(here, given))

    plain, shuffled = scores(uploads), scores([uploads[at] for at in order])
    assert torch.equal(scores(uploads), plain)
    assert torch.allclose(shuffled, plain[order], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", [name for name in SYNTHETIC if isinstance(build(name), Scoring)])
def test_a_score_has_a_gradient_where_the_filter_says_so(name: str) -> None:
    """An attacker that knows a filter descends its score: where there is nothing to descend it is refused."""
    here, uploads, filter_ = reference.setting(), reference.uploads(5), build(name)
    uploads[3] = reference.poisoned(uploads[3])
    rows = rows_of(here, uploads)
    rows = replace(rows, inputs=rows.inputs.requires_grad_())
    score = filter_.score(here, reference.before(here).weights, rows)[3]
    slope = torch.autograd.grad(score, rows.inputs)[0] if score.requires_grad else torch.zeros(1)
    assert bool(slope.isfinite().all())
    assert bool(slope.any()) == filter_.differentiable


def run(folder: Path, defenses: list[Any]) -> dict[str, Any]:
    """result.json of the tiny run."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(json.dumps(RUN | {"defenses": defenses}))  # JSON is YAML
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "runs")]) == 0
    (result,) = (folder / "runs").rglob("result.json")
    rounds = (result.parent / "rounds.jsonl").read_text().splitlines()
    return json.loads(result.read_text()) | {"metrics": [json.loads(one)["metrics"] for one in rounds]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny run without a defence."""
    return run(tmp_path_factory.mktemp("plain"), [])


def test_a_run_in_which_nobody_is_flagged_ends_with_the_same_model(tmp_path: Path, plain: dict[str, Any]) -> None:
    found = run(tmp_path, [{"name": name, **QUICK.get(name, {}), **NEVER[name]} for name in SYNTHETIC])
    assert found["model_sha256"] == plain["model_sha256"]
    for name in SYNTHETIC:
        scores = [key for key in found["metrics"][0] if key.startswith(f"defence.{name}.score.")]
        assert len(scores) == 5
        assert not any(found["metrics"][0][key.replace("score", "flagged")] for key in scores)


def test_a_run_in_which_somebody_is_flagged_does_not(tmp_path: Path, plain: dict[str, Any]) -> None:
    found = run(tmp_path, [{"name": "upload_checks", "threshold": 0.1}])
    assert found["model_sha256"] != plain["model_sha256"]


def test_a_run_with_robust_aggregation(tmp_path: Path, plain: dict[str, Any]) -> None:
    found = run(tmp_path, ["robust_aggregation"])
    assert found["model_sha256"] != plain["model_sha256"]
    shares = [found["metrics"][0][f"defence.robust_aggregation.share.{client}"] for client in range(5)]
    assert sum(shares) == pytest.approx(1)
