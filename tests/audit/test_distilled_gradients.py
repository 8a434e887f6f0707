"""Gradients on distilled data are those of the set that was sent; what comes of them is held against D_k and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attacks.dlg import DLG
from attacks.gradient_findings import findings_of
from fedsim.audit.distilled_gradients import DistilledCases
from fedsim.audit.schema import load_audit
from fedsim.audit.targets import Targets
from fedsim.build import Parts
from fedsim.data.synthetic import SyntheticSet
from fedsim.models.functional import state
from fedsim.schema import load_run
from fedsim.seeding import stream
from fedsim.types import UserError
from fedsim.workload import settled

WORDS = (
    "audit.holdout=0.4", "partition={name: iid, clients: 2}", "model={name: mlp, depth: 1, width: 8}",
    "compute={workers: 0, compile: false, chunk: 0}", "method.iterations=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DistilledCases:
    """A set of two real records of each class of client 1."""
    parts = settled(Parts(load_run(Path("configs/quickstart/feddm_digits.yaml"), WORDS)))
    held, labels = parts.split.client[1], parts.dataset.train.labels.numpy()
    rows = np.concatenate([held[labels[held] == label][:2] for label in range(10)])
    images, path = parts.images(rows), tmp_path_factory.mktemp("sets") / "set.safetensors"
    SyntheticSet(images.pixels, images.labels, parts.dataset.classes, (0.3,), (0.4,)).save(path)
    return DistilledCases(parts, [path], 1, 4, 3, seed=0)


def test_gradients_are_those_of_the_set_at_the_given_weights(made: DistilledCases) -> None:
    other = state(made.parts.setting.fresh(stream(5, "other")))
    for weights in (None, other):
        cases = DistilledCases(**{**vars(made), "weights": weights})
        release, truth = cases.release(), cases.truth()
        network = made.parts.setting.first_network()
        network.load_state_dict(release.params)
        pixels, labels = (torch.from_numpy(truth[name][2]) for name in ("images", "labels"))
        loss = F.cross_entropy(network(made.parts.normalise(pixels)), labels)
        literal = torch.autograd.grad(loss, list(network.parameters()))
        for (name, _), one in zip(network.named_parameters(), literal, strict=True):
            torch.testing.assert_close(release.gradients[name][2], one, rtol=1e-4, atol=1e-6)


def test_the_pool_holds_as_many_members_as_others_of_every_class(made: DistilledCases) -> None:
    truth = made.truth()
    members, labels = truth["pool_members"], truth["pool_labels"]
    for label in np.unique(truth["labels"]):
        assert members[labels == label].sum() * 2 == (labels == label).sum() > 0
    assert set(np.unique(labels)) == set(np.unique(truth["labels"]))


def test_copies_of_records_are_nearer_to_members_and_noise_is_not(made: DistilledCases) -> None:
    truth = made.truth()
    scores = {"images": truth["images"].astype(np.float32) / 255, "labels": truth["labels"]}
    found = {one.metric: one for one in findings_of("dlg", DLG.threat, scores, truth)}["nearer_to_member"]
    assert found.estimate.value == 1 == found.details["distilled_images"]["nearer_to_member"] / 12
    assert found.p == 1 / 1000
    rng = np.random.default_rng(0)
    noise = {"images": rng.random(truth["images"].shape, dtype=np.float32), "labels": truth["labels"]}
    found = {one.metric: one for one in findings_of("dlg", DLG.threat, noise, truth)}["nearer_to_member"]
    assert found.p > 0.01


def test_a_run_without_sets_and_too_many_cases_are_refused(made: DistilledCases) -> None:
    with pytest.raises(UserError, match="valid: of=records"):
        DistilledCases(**{**vars(made), "sets": []}).release()
    with pytest.raises(UserError, match="valid: at most 20"):
        DistilledCases(**{**vars(made), "cases": 7}).truth()


def test_an_audit_asks_for_them_by_its_file(made: DistilledCases, tmp_path: Path) -> None:
    config = load_audit(Path("configs/audit/quick.yaml"), ["gradients={of: synthetic, cases: 2}"])
    folder = tmp_path / "synthetic" / "round_001"
    folder.mkdir(parents=True)
    (folder / "client_0000.safetensors").write_bytes(made.sets[0].read_bytes())
    cases = Targets(config, {"row_0000": tmp_path}).cases
    assert isinstance(cases, DistilledCases)
    assert (cases.sets, cases.cases, cases.weights) == ([folder / "client_0000.safetensors"], 2, None)
