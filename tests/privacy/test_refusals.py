"""What a private run refuses beside its releases: controls, formats, statistics of private images, texts of errors."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedsim import admission
from fedsim.build import Parts
from fedsim.config import merge, parse_yaml, validate
from fedsim.distill import private
from fedsim.distill.distribution import class_means, dm, private_dm
from fedsim.experiment import execute
from fedsim.federated.algorithms.feddm import FedDM
from fedsim.federated.serve import HIDDEN
from fedsim.privacy.features import Config
from fedsim.schema import FederatedRun, resolve
from fedsim.types import RunFailed, UserError
from tests.federated.algorithms import test_private_feddm as private_run
from tests.federated.algorithms.test_private_feddm import config
from tests.reference.tiny_run import TINY

SECRET = "987654321 records"
SYSTEM = {"noise": "system"}
MEANS: Any = {"name": "class_means"}


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", private_run.InlineGrid)


def means(**privacy: Any) -> FederatedRun:
    raw = merge(parse_yaml(TINY, "test"), {"privacy": private_run.PRIVACY | privacy})
    return resolve(FederatedRun, raw | {"method": MEANS})


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"controls": {"centralised": {"epochs": 1}}, "privacy": SYSTEM}, "controls.centralised: got a training"),
        ({"compute": {"precision": "bfloat16"}}, "compute.precision: got bfloat16"),
    ],
)
def test_what_no_ledger_pays_for_is_refused(changes, says):
    with pytest.raises(UserError) as refused:
        config(**changes)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_in_a_simulation_the_centralised_control_is_trained():
    assert config(controls={"centralised": {"epochs": 1}}).controls.centralised is not None


@pytest.mark.parametrize(
    ("privacy", "says"),
    [
        ({"mode": "per_step"}, "privacy.mode: got per_step"),
        ({"subspace": "random", "dimension": 4}, "privacy.subspace: got random"),
        ({"centre": "previous"}, "privacy.centre: got previous"),
    ],
)
def test_class_means_refuse_what_they_would_not_do(privacy, says):
    means()
    with pytest.raises(UserError) as refused:
        means(**privacy)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


class Mine(dm.Config):
    """A user's own, which may take more of real images than `dm` does."""


class MyMeans(class_means.Config):
    """Likewise."""


@pytest.mark.parametrize("method", [Mine(init="noise", batch_real=0), MyMeans()])
def test_a_users_own_method_is_not_run_as_the_one_it_is_derived_from(method):
    agreed = validate(Config, {"name": "features", "sigma": 5.0, "public_bound": 2000})
    with pytest.raises(UserError, match=r"^privacy: method (dm|class_means): .*; valid: dm$"):
        private_dm.check(method, agreed)
    with pytest.raises(UserError, match=r"^privacy: method (dm|class_means): .*; valid: dm$"):
        private.check(agreed, "feddm", method, None, 2)


# --- statistics of the private images ---


def npz(folder: Path, **more: Any) -> str:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), "y_train": np.arange(40) % 2} | more
    arrays |= {"x_test": arrays["x_train"][:8], "y_test": arrays["y_train"][:8]}
    np.savez(folder / "mine.npz", **arrays)
    return str(folder / "mine.npz")


def pictures(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / place).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
    return str(folder)


def check(data: dict[str, Any], **changes: Any) -> Parts:
    raw = parse_yaml(TINY, "test") | {"data": data | {"val": 0.2}}
    parts = Parts(resolve(FederatedRun, merge(merge(raw, private_run.CHANGES), changes)))
    admission.check(parts)
    return parts


NAMED = {"classes": np.array(["cat", "dog"])}
GIVEN = {"mean": [0.5], "std": [0.25]}


@pytest.mark.parametrize(
    ("given", "named", "says"),
    [
        ({}, {}, "mean, std, classes"), (GIVEN, {}, "classes"), ({}, NAMED, "mean, std"),
        ({"mean": [0.5]}, NAMED, "std"),
    ],
)  # fmt: skip
def test_an_npz_whose_statistics_are_of_the_private_images_is_refused(tmp_path, given, named, says):
    with pytest.raises(
        UserError, match=rf"^data: {says} would be computed from the private .*; valid.*mean"
    ) as refused:
        check({"name": "npz", "path": npz(tmp_path, **named)} | given)
    assert "\n" not in str(refused.value)


def test_an_npz_with_public_statistics_is_served(tmp_path):
    parts = check({"name": "npz", "path": npz(tmp_path, **NAMED)} | GIVEN)
    assert parts.privacy is not None
    assert (parts.dataset.mean, parts.dataset.std, parts.privacy.data) == ((0.5,), (0.25,), "enforced")


def test_a_folder_needs_public_statistics_and_its_names_are_assumed_to_be(tmp_path):
    data = {"name": "image_folder", "path": pictures(tmp_path), "size": 8}
    with pytest.raises(UserError, match=r"^data: mean, std would be computed"):
        check(data)
    parts = check(data | {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]})
    assert parts.privacy is not None
    assert (parts.dataset.mean, parts.dataset.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    assert parts.privacy.data == "assumed"


# --- texts of errors ---


def planted(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Client 1 raises it in the midst of its work."""
    honest = FedDM.client

    def client(self: Any, view: Any, *asked: Any) -> Any:
        if view.client == 1:
            raise error
        return honest(self, view, *asked)

    monkeypatch.setattr(FedDM, "client", client)


def told(folder: Path) -> str:
    """Every text of a run's folder but the clients' own."""
    files = (path for path in folder.rglob("*") if path.suffix in {".json", ".jsonl", ".html", ".yaml"})
    return "".join(path.read_text() for path in files if "clients" not in path.relative_to(folder).parts)


def test_why_a_private_client_failed_is_not_told(tmp_path, monkeypatch, capsys):
    planted(monkeypatch, ValueError(f"cannot split {SECRET}"))
    folder = execute(config(rounds=1), tmp_path)
    record = json.loads((folder / "rounds.jsonl").read_text().splitlines()[0])
    assert record["failed"] == {"1": HIDDEN}
    assert SECRET not in told(folder) + "".join(capsys.readouterr())


def test_nor_why_its_whole_node_did(tmp_path, monkeypatch, capsys):
    def failing(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr("fedsim.app.serve", failing)
    with pytest.raises(RunFailed, match="under privacy why is not told") as stopped:
        execute(config(rounds=1), tmp_path)
    assert SECRET not in str(stopped.value) + told(tmp_path) + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "No space left on device"), (987654321, "an error of the")]
)
def test_a_folder_that_fails_a_private_client_is_told_in_the_systems_words(tmp_path, monkeypatch, number, says):
    settings = config(rounds=1)
    error = OSError(number, SECRET)
    error.filename = str(tmp_path / "released")
    planted(monkeypatch, error)
    monkeypatch.setattr("fedsim.federated.client.stops_the_run", lambda *_: True)
    with pytest.raises(UserError, match=f"client 1 cannot use its folder: {says}") as stopped:
        execute(settings, tmp_path)
    assert "987654321" not in str(stopped.value)


def test_a_refusal_of_this_program_is_told(tmp_path, monkeypatch):
    planted(monkeypatch, UserError("privacy: as refused"))
    with pytest.raises(UserError, match="client 1: privacy: as refused"):
        execute(config(rounds=1), tmp_path)
