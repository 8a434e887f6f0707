"""A central condensation from the command line, its scores and its control; and a run on MNIST."""

from __future__ import annotations

import json
import os

import pytest

from fedsim.cli import main
from tests.reference.tiny_run import CENTRAL
from tests.test_experiment import CONFIG, fedsim, result


def test_a_set_can_be_scored_without_its_control(tmp_path, capsys):
    (tmp_path / "central.yaml").write_text(CENTRAL)
    words = ["distill", str(tmp_path / "central.yaml"), "--out", str(tmp_path)]
    beside, alone = fedsim(capsys, *words), fedsim(capsys, *words, "controls.random_subset=false")
    assert result(beside)["controls"].keys() == {"random_subset"}
    assert result(alone)["controls"] == {}
    assert result(alone)["accuracy"] == result(beside)["accuracy"]
    assert (alone / "report.html").is_file()


def test_a_central_condensation_writes_its_sets_their_score_and_the_control(tmp_path, capsys):
    config = CONFIG.parent / "distill_dm_digits.yaml"
    quick = [
        "method.ipc=5",
        "method.iterations=40",
        "method.networks.size=3",
        "model.width=16",
        "sets=2",
        "evaluation.nets=1",
        "evaluation.train.epochs=30",
        "architectures=[mlp, {name: convnet, depth: 1, width: 8, norm: batch}]",
    ]
    run = fedsim(capsys, "distill", str(config), *quick, "--out", str(tmp_path))
    found = result(run)
    assert found["accuracy_over"] == "2 sets"
    assert found["accuracy_ci"][0] < found["accuracy"] < found["accuracy_ci"][1]
    assert found["accuracy"] > 0.5
    assert len(found["controls"]["random_subset"]["values"]) == 2
    assert [one["model"]["name"] for one in found["architectures"]] == ["mlp", "convnet"]
    for one in found["architectures"]:
        assert one["accuracy_over"] == "2 sets"
        assert 0.2 < one["accuracy"] != found["accuracy"]
        assert len(one["controls"]["random_subset"]["values"]) == 2
    assert found["synthetic_images"] == 50
    names = sorted(path.name for path in (run / "synthetic").iterdir())
    assert names == ["set_000.png", "set_000.safetensors", "set_001.png", "set_001.safetensors"]
    assert (
        main(["evaluate", str(run / "synthetic/set_000.safetensors"), "--data", "digits", "nets=1", "train.epochs=40"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["mean"] > 0.4


@pytest.mark.skipif("FEDSIM_TEST_DATA" not in os.environ, reason="FEDSIM_TEST_DATA does not name the image sets")
def test_mnist_is_condensed_over_flower(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    config = CONFIG.parent.parent / "federated/mnist_feddm.yaml"
    small = ["model.width=8", "method.ipc=1", "method.iterations=10", "method.batch_real=32", "method.networks.size=1"]
    words = [
        "rounds=1",
        "server.epochs=20",
        "partition.clients=3",
        "participation.min_replies=3",
        "compute.workers=0",
        "controls.upload_real_subset=false",
    ]
    path = f"data.path={os.environ['FEDSIM_TEST_DATA']}"
    run = fedsim(capsys, "run", str(config), path, *small, *words, "--out", str(tmp_path))
    found = result(run)
    assert found["real_images"] == 54000
    assert found["accuracy"] > 0.2
