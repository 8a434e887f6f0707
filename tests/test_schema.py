"""The two files a user writes: what is filled in, what is refused because its parts do not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsim.audit.schema import AuditRun, load_audit
from fedsim.config import digest, dump, merge, parse_yaml, to_yaml, validate
from fedsim.federated.algorithms.feddm import FedDM
from fedsim.schema import Distillation, FederatedRun, load_distillation, load_run, resolve
from fedsim.sweep import load_sweep
from fedsim.types import UserError
from tests.reference.tiny_run import CENTRAL, TINY

FOLDER = Path(__file__).parent.parent / "configs"
AUDITS = sorted(FOLDER.glob("audit/*.yaml"))
OTHERS = [path for path in FOLDER.rglob("*.yaml") if path not in AUDITS]
SWEEPS = sorted(path for path in OTHERS if "rows" in yaml.safe_load(path.read_text()))
CONFIGS = sorted(path for path in OTHERS if path not in SWEEPS)


def raw(text: str = TINY, **changes: Any) -> dict[str, Any]:
    return merge(yaml.safe_load(text), changes)


@pytest.mark.parametrize("path", AUDITS, ids=lambda path: path.stem)
def test_every_audit_of_the_repository_loads_and_is_written_back_as_it_is(path):
    config = load_audit(path)
    again = validate(AuditRun, parse_yaml(to_yaml(config), "test"))
    assert again == config
    assert digest(again) == digest(config)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_loads(path):
    sweep, plans = load_sweep(path)
    assert sweep.name == path.stem
    assert len(plans) == len(sweep.rows) * len(sweep.columns) * len(sweep.seeds)
    assert len({digest(plan.config) for plan in plans}) == len(sweep.rows) * len(sweep.columns)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_loads_and_is_written_back_as_it_is(path):
    federated = "algorithm" in yaml.safe_load(path.read_text()) or "extends" in path.read_text()
    load = load_run if federated else load_distillation
    config = load(path)
    schema = FederatedRun if federated else Distillation
    again = resolve(schema, parse_yaml(to_yaml(config), "test"))
    assert again == config
    assert digest(again) == digest(config)
    assert {name for name, value in dump(config)["compute"].items() if value == "auto"} <= {
        "compile",
        "channels_last",
        "ensemble",
    }


def test_feddm_brings_the_settings_of_its_paper():
    config = resolve(FederatedRun, {key: value for key, value in raw().items() if key not in {"method", "server"}})
    method = dump(config)["method"]
    assert {key: method[key] for key in ("name", "match", "iterations")} == {
        "name": "dm",
        "match": ["embedding", "logits"],
        "iterations": 1000,
    }
    assert method["networks"] == {"name": "perturb", "radius": {"absolute": 5.0, "relative": None}}
    assert config.server is not None
    assert config.server.epochs == 500


@pytest.mark.parametrize("method", [None, "dm", {"name": "dm"}, {"lr": 3.0}, {"name": "dm", "networks": "fresh"}])
def test_what_is_given_lies_on_the_settings_of_the_paper(method):
    chosen: Any = resolve(FederatedRun, raw() | {"method": method}).method
    assert chosen.match == ("embedding", "logits")
    given = method if isinstance(method, dict) else {}
    assert chosen.lr == given.get("lr", 1.0)
    assert chosen.networks.name == given.get("networks", "perturb")


def test_another_method_has_nothing_of_the_papers():
    chosen: Any = resolve(FederatedRun, raw() | {"method": {"name": "random", "ipc": 3}}).method
    assert (chosen.name, chosen.ipc, chosen.iterations) == ("random", 3, 1)


def test_the_defaults_of_an_algorithm_are_never_written_to():
    before = repr(FedDM.method_defaults)
    resolve(FederatedRun, raw(method={"name": "dm", "networks": {"name": "perturb", "radius": {"absolute": 1.0}}}))
    assert repr(FedDM.method_defaults) == before


def test_fedavg_needs_neither_method_nor_server():
    plain = {key: value for key, value in raw().items() if key not in {"method", "server"}}
    config = resolve(FederatedRun, plain | {"algorithm": "fedavg"})
    assert config.method is None
    assert config.server is None
    for key, value in {"method": "dm", "server": {"epochs": 1}}.items():
        with pytest.raises(UserError, match=f"^{key}: algorithm fedavg uploads no synthetic images"):
            resolve(FederatedRun, plain | {"algorithm": "fedavg", key: value})


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("plain", "plain"),
        ("my first config", "my_first_config"),
        ("äöü", "run"),
        (".hidden", "hidden"),
        ("a.b-c", "a.b-c"),
    ],
)
def test_a_file_without_a_name_is_named_after_itself(tmp_path, stem, name):
    path = tmp_path / f"{stem}.yaml"
    path.write_text(TINY.replace("name: tiny\n", ""))
    assert load_run(path).name == name


def test_overrides_reach_every_depth(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    words = [
        "seed=7",
        "name=other",
        "method.networks.radius={absolute: 2}",
        "compute.workers=3",
        "faults=[{name: nan, client: 1}]",
    ]
    config: Any = load_run(tmp_path / "tiny.yaml", words)
    assert (config.seed, config.name, config.compute.workers) == (7, "other", 3)
    assert config.method.networks.radius.absolute == 2
    assert (config.faults[0].name, config.faults[0].client, config.faults[0].round) == ("nan", 1, 1)


def test_a_file_of_the_other_kind(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "central.yaml").write_text(CENTRAL)
    assert isinstance(load_distillation(tmp_path / "central.yaml"), Distillation)
    with pytest.raises(UserError, match=r"it has no algorithm, but a method\), .*; use fedsim distill"):
        load_run(tmp_path / "central.yaml")
    with pytest.raises(UserError, match=r"it has an algorithm\), .*; use fedsim run"):
        load_distillation(tmp_path / "tiny.yaml")


def test_a_misspelt_algorithm_is_no_central_condensation(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY.replace("algorithm:", "algoritm:"))
    with pytest.raises(UserError, match=r"algoritm: unknown key \(did you mean 'algorithm'\?\)"):
        load_run(tmp_path / "tiny.yaml")
    (tmp_path / "none.yaml").write_text("\n".join(one for one in TINY.splitlines() if "algorithm:" not in one))
    with pytest.raises(UserError, match=r"has no algorithm; give algorithm: NAME"):
        load_run(tmp_path / "none.yaml")


def test_a_server_needs_val_and_a_central_run_does_not():
    with pytest.raises(UserError, match=r"data.val: got 0; .* more than 0"):
        resolve(FederatedRun, raw(data={"val": 0}))
    assert resolve(Distillation, raw(CENTRAL, data={"val": 0})).data.val == 0


@pytest.mark.parametrize("networks", ["perturb", {"name": "pool", "around": "server", "radius": {"absolute": 1.0}}])
def test_a_central_run_has_no_server_to_draw_networks_around(networks):
    with pytest.raises(UserError, match=r"^method.networks: .*valid here: fresh, or pool"):
        resolve(Distillation, raw(CENTRAL) | {"method": {"name": "dm", "networks": networks}})
