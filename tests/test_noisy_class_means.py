"""The control `noisy_class_means`: the method at equal ε, paid apart, repeatable, and refused without a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.build import Parts
from fedsim.config import digest, merge, parse_yaml
from fedsim.controls import one_release
from fedsim.experiment import execute
from fedsim.privacy.ledger import Ledger
from fedsim.schema import FederatedRun, resolve
from fedsim.types import UserError
from tests.reference.tiny_run import TINY, InlineGrid

PRIVACY = {"name": "features", "target_epsilon": 8.0, "public_bound": 2000, "noise": "seeded"}
CLIP = 4.0
"""√64/2: the bound of digits of 8×8."""


def config(**changes: Any) -> FederatedRun:
    base = {"privacy": PRIVACY, "method": {"batch_real": 0, "networks": {"size": 2}}}
    raw = merge(merge(parse_yaml(TINY, "test"), base), changes)
    return resolve(FederatedRun, {key: value for key, value in raw.items() if value is not None})


def means(**changes: Any) -> FederatedRun:
    """A run whose own method is the control."""
    raw = merge(parse_yaml(TINY, "test"), {"privacy": PRIVACY | {"clip": CLIP, "kappa": CLIP / 2}, **changes})
    return resolve(FederatedRun, raw | {"method": {"name": "class_means"}})


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def test_it_is_the_run_of_the_method_class_means_at_the_same_epsilon(tmp_path):
    beside = execute(config(), tmp_path)
    itself = result(execute(means(rounds=1), tmp_path))
    control = result(beside)["controls"]["noisy_class_means"]
    assert control["epsilon"] == itself["epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert control["accuracy"] == itself["accuracy"]
    assert control["images"] == itself["synthetic_images"]
    assert control["sigma"] == itself["privacy"]["sigma"]
    assert itself["controls"] == {}  # the run is that control already
    assert "Control <i>noisy class means</i>" in (beside / "report.html").read_text()
    for client in (0, 1):
        apart = Ledger(beside / f"controls/noisy_class_means/client_{client:04d}", 1e-5, "add_remove")
        assert [one.number for one in apart.charges] == [1]
        assert len(Ledger(beside / f"clients/client_{client:04d}", 1e-5, "add_remove").charges) == 4


def test_several_rounds_of_the_method_are_one_release(tmp_path):
    found = result(execute(means(rounds=2), tmp_path))
    assert found["privacy"]["releases"] == 1
    assert found["epsilon"] == pytest.approx(8.0, rel=1e-6)


def test_with_a_given_sigma_it_spends_what_the_run_plans():
    given = Parts(config(privacy={"sigma": 3.0, "target_epsilon": None}))
    assert given.privacy is not None
    agreed = one_release(given.privacy, (1, 8, 8))
    assert agreed.planned() == pytest.approx(given.privacy.planned(), rel=1e-9)
    assert agreed.sigma == pytest.approx(3.0 / 2, rel=1e-6)  # the run releases four times
    assert (agreed.mechanism.clip, agreed.mechanism.kappa) == (CLIP, CLIP / 2)


@pytest.mark.parametrize(
    ("changes", "runs"),
    [({}, True), ({"controls": {"noisy_class_means": False}}, False), ({"privacy": {"noise": "system"}}, False)],
)
def test_by_itself_it_runs_where_the_noise_is_seeded(changes, runs):
    assert config(**changes).means_beside == runs


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"noise": "system"}}, "one more release of the same records, which no ledger pays for"),
        ({"privacy": None, "method": {"batch_real": 256}}, "scored at the epsilon of a private run"),
    ],
)
def test_asked_for_where_it_cannot_be_it_is_refused_in_one_line(changes, says):
    with pytest.raises(UserError, match=f"^controls.noisy_class_means: got true; .*{says}.*valid") as refused:
        config(controls={"noisy_class_means": True}, **changes)
    assert "\n" not in str(refused.value)


def test_left_to_itself_it_does_not_change_what_a_config_is_called():
    raw = parse_yaml(TINY, "test")
    assert digest(resolve(FederatedRun, raw)) == digest(
        resolve(FederatedRun, merge(raw, {"controls": {"noisy_class_means": None}}))
    )
    assert "noisy_class_means" not in resolve(FederatedRun, raw).model_dump()["controls"]


def test_beside_another_mechanism_it_has_an_agreement_of_its_own(tmp_path):
    """Its upload is weighted by noisy counts whatever the run's mechanism sends."""
    method = {"name": "meta_knowledge", "ipc": 1, "iterations": 1, "batch_real": 0, "inner_steps": 1}
    private = {"name": "gradients", "target_epsilon": 8.0, "public_bound": 2000, "noise": "seeded"}
    small = {"name": "fedmk", "generator": {"width": 4, "steps": 2, "batch": 8, "pseudo": 1}}
    raw = merge(parse_yaml(TINY, "test"), {"privacy": private, "rounds": 1, "algorithm": small}) | {"method": method}
    found = json.loads((execute(resolve(FederatedRun, raw), tmp_path) / "result.json").read_text())
    beside = found["controls"]["noisy_class_means"]
    assert beside["epsilon"] == pytest.approx(8.0, abs=1e-6)
    assert 0 < beside["images"] <= 20
