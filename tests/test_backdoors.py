"""A federation with a malicious client: what is measured, beside what, on which images; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim import backdoors
from fedsim.build import Parts
from fedsim.config import digest, merge, parse_yaml, read, validate
from fedsim.data.images import Images
from fedsim.data.trigger import Trigger, white
from fedsim.experiment import execute
from fedsim.plan import plan
from fedsim.runs import RunDirectory
from fedsim.schema import FederatedRun, resolve
from fedsim.training.train import TrainConfig, fit, predictions
from fedsim.types import UserError
from fedsim.workload import settled
from tests.reference.tiny_run import TINY, InlineGrid

ATTACKS = ["naive", "doorping", "dm_trigger", "direct"]
QUICK: dict[str, dict[str, Any]] = {"doorping": {"iterations": 3, "every": 1}, "dm_trigger": {"iterations": 2}}
FEDAVG = {"algorithm": "fedavg", "method": None, "server": None}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)


def config(**changes: Any) -> FederatedRun:
    raw = {key: value for key, value in merge(parse_yaml(TINY, "test"), changes).items() if value is not None}
    return resolve(FederatedRun, raw)


def attacker(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "clients": [1], "size": 2} | QUICK.get(name, {}) | more


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has the run without attackers in it."""
    out = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
        execute(config(), out)
    return out


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_measured_beside_the_run_without_it(name: str, honest: Path, tmp_path: Path) -> None:
    """Made by the first of them, found by the others."""
    if name != ATTACKS[0]:
        shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    folder = execute(config(attackers=[attacker(name)]), tmp_path)
    clean = execute(config(), tmp_path)
    runs = sorted(path.name for path in tmp_path.glob("tiny/*-s0"))
    assert runs == sorted([folder.name, clean.name])  # the run without attackers is a run of its own, made once
    found, beside = result(folder), result(clean)
    assert "backdoor" not in beside
    assert found["model_sha256"] != beside["model_sha256"]
    (row,) = found["backdoor"]["triggers"]
    parts = settled(Parts(config(attackers=[attacker(name)])))
    test = parts.dataset.test
    assert row["images"] == int((test.labels != 0).sum())
    assert row["client"] == 1
    assert row["round"] == 2
    assert row["lift"] == pytest.approx(row["asr"] - row["asr_clean"])
    assert row["lift_ci"][0] <= row["lift"] <= row["lift_ci"][1]
    assert found["backdoor"]["accuracy_clean"] == beside["accuracy"]
    assert "Clients that lie" in (folder / "report.html").read_text()
    assert "Clients that lie" not in (clean / "report.html").read_text()
    trigger = Trigger.load(folder / "clients/client_0001/round_002/trigger.safetensors")
    assert int(trigger.mask.sum()) == 4
    persisted = [line for line in RunDirectory(folder).metrics() if line["name"] == "attack_success.1"]
    assert [line["round"] for line in persisted] == [1, 2]


@pytest.mark.parametrize("name", ["naive", "doorping", "dm_trigger", "model_replacement"])
def test_clients_that_send_weights_are_attacked_too(name: str, tmp_path: Path) -> None:
    extra = {"controls": {"without_attackers": False}}
    found = result(execute(config(attackers=[attacker(name)], **FEDAVG, **extra), tmp_path))
    (row,) = found["backdoor"]["triggers"]
    assert "lift" not in row
    assert 0 <= row["asr"] <= 1


@pytest.mark.parametrize("name", ["doorping", "direct"])
def test_fedmk_is_attacked_through_its_own_condensation(name: str, tmp_path: Path) -> None:
    method = {"name": "meta_knowledge", "ipc": 2, "iterations": 2, "batch_real": 8, "inner_steps": 2, "lr": 0.5}
    algorithm = {"name": "fedmk", "generator": {"steps": 3}}
    extra = {"algorithm": algorithm, "method": method, "controls": {"without_attackers": False}, "rounds": 1}
    found = result(execute(config(attackers=[attacker(name)], **extra), tmp_path))
    assert found["clients_failed"] == found["uploads_rejected"] == 0
    assert len(found["backdoor"]["triggers"]) == 1


def test_images_of_the_target_count_for_nothing() -> None:
    """A model that takes every image for the target succeeds on the others alone; one that takes none, on none."""
    parts = settled(Parts(config()))
    images, trigger = parts.dataset.test, white((1, 8, 8), 2, 3)
    network = parts.fresh()(parts.streams.generator("template"))
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.nn.functional.one_hot(torch.tensor(3), 10).float())
    found = backdoors.success(network, images, trigger, parts.normalise)
    assert len(found) == int((images.labels != 3).sum())
    assert bool(found.all())
    assert not bool(backdoors.success(network, images, white((1, 8, 8), 2, 4), parts.normalise).any())


def test_a_clean_model_has_no_free_success() -> None:
    """Counted over all test images, as the released code does, a model that nobody attacked has the target's share."""
    parts = settled(Parts(config()))
    network, rng = parts.fresh()(torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    how = TrainConfig(epochs=15, lr=0.05, batch_size=64)
    fit(network, parts.images(parts.split.train), parts.normalise, how, rng)
    test, trigger = parts.dataset.test, white((1, 8, 8), 2, 0)
    everything = predictions(network, Images(trigger.stamp(test.pixels), test.labels), parts.normalise) == 0
    ours = backdoors.success(network, test, trigger, parts.normalise)
    assert float(ours.float().mean()) <= 0.05
    assert float(everything.float().mean()) >= float(ours.float().mean()) + 0.05


def test_a_pool_acts_in_some_rounds_only(tmp_path: Path) -> None:
    words = attacker("naive", clients=[0, 1], active=1)
    folder = execute(config(rounds=3, attackers=[words], controls={"without_attackers": False}), tmp_path)
    for number in (1, 2, 3):
        assert len(list(folder.glob(f"clients/*/round_{number:03d}/trigger.safetensors"))) == 1


def test_the_attack_is_over_after_its_last_round(tmp_path: Path) -> None:
    words = attacker("naive", rounds=[1, 1])
    folder = execute(config(attackers=[words], controls={"without_attackers": False}), tmp_path)
    assert [row["round"] for row in result(folder)["backdoor"]["triggers"]] == [1]
    assert not list(folder.glob("clients/*/round_002/trigger.safetensors"))


def test_a_trigger_alone_is_an_honest_run(honest: Path, tmp_path: Path) -> None:
    """`poison: false` makes the trigger and sends what an honest client sends, to the bit."""
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    words = attacker("dm_trigger", poison=False)
    folder = execute(config(attackers=[words]), tmp_path)
    found, clean = result(folder), result(execute(config(), tmp_path))
    assert found["model_sha256"] == clean["model_sha256"]
    (row,) = found["backdoor"]["triggers"]
    assert row["lift"] == 0
    assert found["backdoor"]["acted"] == [[1], [1]]


def test_a_round_starts_from_the_trigger_before_it(tmp_path: Path) -> None:
    """Steps of nothing leave it as it was; a pool's client that was honest in between finds its own."""
    words = attacker("dm_trigger", iterations=0, clients=[0, 1], active=1)
    folder = execute(config(rounds=4, attackers=[words], controls={"without_attackers": False}), tmp_path)
    for client in (0, 1):
        left = [Trigger.load(path).values for path in sorted(folder.glob(f"clients/client_000{client}/*/trigger.*"))]
        assert all(torch.equal(one, left[0]) for one in left)


def test_an_attacker_whose_upload_is_refused_did_not_act(tmp_path: Path) -> None:
    faults = [{"name": "nan", "client": 1, "round": number} for number in (1, 2)]
    extra: dict[str, Any] = {"partition": {"clients": 3}, "controls": {"without_attackers": False}, "faults": faults}
    found = result(execute(config(attackers=[attacker("naive")], **extra), tmp_path))
    assert found["uploads_rejected"] == 2
    assert found["backdoor"] == {"triggers": [], "acted": [[], []], "why": "no attacker's upload was used"}


def test_of_an_attacker_whose_last_upload_is_refused_the_trigger_before_counts(tmp_path: Path) -> None:
    faults = [{"name": "nan", "client": 1, "round": 2}]
    extra: dict[str, Any] = {"partition": {"clients": 3}, "controls": {"without_attackers": False}, "faults": faults}
    found = result(execute(config(attackers=[attacker("naive")], **extra), tmp_path))["backdoor"]
    assert found["acted"] == [[1], []]
    assert [(row["client"], row["round"]) for row in found["triggers"]] == [(1, 1)]


def test_the_control_is_no_part_of_what_is_left_of_an_attack(tmp_path: Path) -> None:
    extra = {"controls": {"without_attackers": False, "upload_real_subset": True}}
    folder = execute(config(attackers=[attacker("naive")], **extra), tmp_path)
    lines = [line["round"] for line in RunDirectory(folder).metrics() if line["name"] == "attack_success.1"]
    assert lines == [1, 2]


BAD = [
    ({"attackers": [attacker("naive", clients=[2])]}, "client 2 does not exist; valid: 0 to 1"),
    ({"attackers": [attacker("naive"), attacker("direct")]}, "client 1 is in two of them"),
    ({"attackers": [attacker("naive", target=10)]}, "target 10 is no class; valid: 0 to 9"),
    ({"attackers": [attacker("naive", rounds=[1, 3])]}, "round 3 does not exist; valid: 1 to 2"),
    ({"attackers": [attacker("naive", size=9)]}, "a square of 9 pixels, 1 off the corner, does not fit images of 8×8"),
    ({"attackers": [attacker("naive")], "transcript": "none"}, "drops the clients' folders"),
    ({"attackers": [attacker("direct")], **FEDAVG}, "direct uploads a set of images"),
    (
        {"attackers": [attacker("model_replacement")]},
        "model_replacement scales the weights that a client sends; valid ",
    ),
    ({"attackers": [attacker("model_replacement", scale=0)], **FEDAVG}, "attackers.0.scale: got 0"),
    ({"attackers": [attacker("model_replacement", alpha=1.5)], **FEDAVG}, "attackers.0.alpha: got 1.5"),
    (
        {"attackers": [attacker("model_replacement")], "participation": {"fraction": 0.5}, **FEDAVG},
        r"^attackers: model_replacement got scale null.*participation\.fraction 0\.5, where a round .* give scale$",
    ),
    (
        {"attackers": [attacker("model_replacement")], "participation": {"trace": "cyclic"}, **FEDAVG},
        r"participation\.trace cyclic, where a round asks fewer; give scale$",
    ),
    (
        {"attackers": [attacker("model_replacement", clients=[one]) for one in (0, 1)], **FEDAVG},
        r"^attackers: got 2 entries of model_replacement, one with scale null, .*; give each a scale, or one entry .*$",
    ),
    ({"attackers": [attacker("direct", fraction=0.2)]}, "fraction: unknown key"),
    ({"attackers": [attacker("nave")]}, "unknown attacker 'nave' .did you mean 'naive'"),
]


@pytest.mark.parametrize(("changes", "line"), BAD)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        execute(config(controls={"without_attackers": False}, **changes), tmp_path)


def test_a_scale_that_was_given_is_taken_whoever_is_asked() -> None:
    given = [attacker("model_replacement", clients=[one], scale=2.0) for one in (0, 1)]
    for part, attackers in ({"fraction": 0.5}, given), ({}, given), ({}, [attacker("model_replacement")]):
        config(attackers=attackers, participation=part, **FEDAVG)
    config(attackers=[attacker("model_replacement", poison=False)], participation={"fraction": 0.5}, **FEDAVG)


def test_a_run_without_attackers_keeps_its_hash(tmp_path: Path) -> None:
    folder = execute(config(rounds=1), tmp_path)
    kept = read(folder / "config.yaml")
    assert kept["attackers"] == kept["defenses"] == []
    assert "without_attackers" not in kept["controls"]
    old = {key: value for key, value in kept.items() if key not in ("attackers", "defenses")}
    assert digest(validate(FederatedRun, old)) == folder.name.partition("-")[0]


def test_a_filter_is_on_the_page_and_in_the_result(tmp_path: Path) -> None:
    folder = execute(config(partition={"clients": 4}, defenses=["upload_checks"]), tmp_path)
    first, second = result(folder)["defenses"]
    assert set(first["upload_checks"]) == {"0", "1", "2", "3"} == set(second["upload_checks"])
    page = (folder / "report.html").read_text()
    assert "What the filters said" in page
    assert "defence.upload_checks" not in page  # verdicts are no columns of the table of rounds


def test_a_dry_run_says_who_lies() -> None:
    told = plan(config(attackers=[attacker("naive")]))
    assert "# attackers: naive by 1; the same run without them is made first, or found" in told
    assert "# attackers" not in plan(config())
