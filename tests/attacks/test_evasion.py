"""An adaptive attacker: its images are less suspicious to the filter that it knows, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.evasion import Evading, suspicion_of
from defenses.upload_checks import Config as ChecksConfig
from defenses.upload_checks import UploadChecks
from fedsim import catalog
from fedsim.build import Parts
from fedsim.config import merge, parse_yaml
from fedsim.data.images import Dataset
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.trigger import white
from fedsim.distill.drive import condense
from fedsim.experiment import execute
from fedsim.federated.base import Upload
from fedsim.federated.upload_rows import rows_of
from fedsim.models.functional import state
from fedsim.schema import FederatedRun, resolve
from fedsim.seeding import Streams
from fedsim.types import UserError
from fedsim.workload import settled
from tests.attacks.test_restamping import digits, method, task_of  # noqa: F401 - a fixture is used by its name
from tests.reference.tiny_run import TINY, InlineGrid


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def config(**changes: Any) -> FederatedRun:
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    return resolve(FederatedRun, raw)


def test_its_score_falls_and_without_a_penalty_nothing_changes(digits: Dataset) -> None:  # noqa: F811
    parts = settled(Parts(config()))
    setting, task = parts.setting, task_of(digits, white((1, 8, 8), 2, 0), torch.arange(5, 60))
    honest = task_of(digits, white((1, 8, 8), 2, 0), torch.arange(0))
    normalise = setting.normalise

    def made(wrapped: Any, one: Any, seed: int) -> SyntheticSet:
        return condense(wrapped, one, 6, Streams(seed))[0]

    others = [Upload(-1 - seed, 1, 1, synthetic=made(method(), honest, seed)) for seed in (1, 2, 3)]
    defence = UploadChecks(ChecksConfig())
    suspicion = suspicion_of(defence, setting, {}, others)
    plain, evaded = made(method(), task, 9), made(Evading(method(), suspicion, 0.1), task, 9)
    before, after = (float(suspicion(normalise(one.images), one.labels)) for one in (plain, evaded))
    assert after < before
    assert torch.equal(made(Evading(method(), suspicion, 0.0), task, 9).images, plain.images)


def uploads_of(folder: Path) -> dict[int, SyntheticSet]:
    """Every client's set of the first round."""
    paths = sorted(folder.glob("synthetic/round_001/client_*.safetensors"))
    return {int(path.stem.removeprefix("client_")): SyntheticSet.load(path) for path in paths}


def score_of(defence: str, sets: dict[int, SyntheticSet], client: int) -> float:
    """What the server's defence says of that client, before any round."""
    kind = catalog.resolve("defense", defence)
    parts = settled(Parts(config()))
    rows = rows_of(parts.setting, [Upload(one, 1, 1, synthetic=made) for one, made in sets.items()])
    with torch.no_grad():
        scores = kind(kind.Config()).score(parts.setting, state(parts.setting.first_network()), rows)
    return float(scores[list(sets).index(client)])


@pytest.mark.parametrize("defence", ["spectral_signatures", "robust_aggregation"])
def test_it_lowers_its_score_in_a_federation(defence: str, tmp_path: Path) -> None:
    attacker = {"name": "naive", "clients": [1], "size": 2, "adaptive_to": defence}
    words: dict[str, Any] = {"rounds": 1, "method": {"ipc": 3, "iterations": 6}, "partition": {"clients": 4}}
    words["controls"] = {"without_attackers": False}
    folder = execute(config(attackers=[attacker], **words), tmp_path)
    plain = execute(config(attackers=[attacker | {"adaptive_to": None}], **words), tmp_path)
    evaded, naive = (uploads_of(one) for one in (folder, plain))
    assert all(torch.equal(evaded[one].images, naive[one].images) for one in evaded if one != 1)
    assert torch.equal(evaded[1].labels, naive[1].labels)
    assert score_of(defence, evaded, 1) < score_of(defence, naive, 1)


BAD = [
    ({"adaptive_to": "ticket_similarity"}, {}, "ticket_similarity gives no score with a gradient"),
    (
        {"adaptive_to": "influence"},
        {},
        "influence gives .* upload_checks, spectral_signatures, activation_clustering, robust_aggregation$",
    ),
    ({"adaptive_to": "upload_checks"}, {"algorithm": "fedavg", "method": None, "server": None}, "send weights"),
    (
        {"adaptive_to": "upload_checks"},
        {"method": "idc"},
        "valid with method.formation: 1",
    ),
    ({"adaptive_to": "upload_check"}, {}, "unknown defense 'upload_check' .did you mean 'upload_checks'"),
]


@pytest.mark.parametrize(("more", "changes", "line"), BAD)
def test_what_cannot_be_evaded_is_one_line(
    more: dict[str, Any], changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    attacker = {"name": "naive", "clients": [1], "size": 2} | more
    with pytest.raises(UserError, match=line):
        execute(config(attackers=[attacker], controls={"without_attackers": False}, **changes), tmp_path)
