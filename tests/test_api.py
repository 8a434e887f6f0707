"""The Python interface: load, distil, save, evaluate, simulate, and the one-line errors on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim import api
from fedsim.data.images import Dataset, Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.types import UserError
from tests.reference.tiny_run import InlineGrid

SMALL: dict[str, Any] = {"name": "convnet", "depth": 1, "width": 4}
QUICK: dict[str, Any] = {"nets": 2, "train": {"epochs": 3, "batch_size": 64}}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Every seventh training image and every fourth test image of the digits."""
    full = fedsim.load("digits")
    parts = {"train": full.train.take(torch.arange(0, len(full.train), 7))}
    parts["test"] = full.test.take(torch.arange(0, len(full.test), 4))
    return Dataset(full.name, parts["train"], parts["test"], full.classes, full.mean, full.std)


def made(digits: Dataset, **settings: Any) -> SyntheticSet:
    words: dict[str, Any] = {"ipc": 2, "iterations": 3} | settings
    return fedsim.distill(digits, "dm", model=SMALL, **words)


def test_the_three_lines_of_the_docstring(digits: Dataset, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    synthetic = made(digits)
    assert synthetic.counts().tolist() == [2] * 10
    assert (synthetic.classes, synthetic.mean, synthetic.std) == (digits.classes, digits.mean, digits.std)
    fedsim.save(synthetic, tmp_path / "set.safetensors")
    loaded = fedsim.SyntheticSet.load(tmp_path / "set.safetensors")
    score = fedsim.evaluate(loaded, digits, model=SMALL, **QUICK)
    assert 0 <= score.mean <= 1
    assert (score.n, score.over) == (2, "networks")
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_decides(digits: Dataset) -> None:
    first, again, other = (made(digits, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    scores = [fedsim.evaluate(first, digits, model=SMALL, seed=seed, **QUICK).values for seed in (3, 3, 4)]
    assert scores[0] == scores[1]


def test_random_is_a_method_like_the_others(digits: Dataset) -> None:
    subset = fedsim.distill(digits, "random", model=SMALL, ipc=3)
    assert len(subset) == 30
    known = {image.numpy().tobytes() for image in digits.train.pixels}
    assert all(image.numpy().tobytes() in known for image in subset.images)
    assert subset.provenance["init"] == "real"


def test_a_file_is_scored_by_its_own_architecture_unless_told_otherwise(digits: Dataset, tmp_path: Path) -> None:
    plain = made(digits)
    path = tmp_path / "set.safetensors"
    described = SyntheticSet(
        plain.images, plain.labels, plain.classes, plain.mean, plain.std, plain.provenance, {"model": SMALL}
    )
    described.save(path)
    quick = ["nets=1", "train.epochs=1"]
    result = api.evaluate_file(path, "digits", quick, 0)
    assert SMALL.items() <= result["protocol"]["model"].items()
    assert result["protocol"]["train"]["epochs"] == 1
    assert (result["synthetic_images"], result["bits"]) == (20, plain.bits())
    other = api.evaluate_file(path, "digits", [*quick, "model=mlp"], 0)
    assert other["protocol"]["model"]["name"] == "mlp"
    plain.save(path)
    assert api.evaluate_file(path, "digits", quick, 0)["protocol"]["model"]["name"] == "convnet"
    json.dumps(result)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ({"method": "randon"}, "unknown method 'randon' .did you mean 'random'"),
        ({"ipcs": 3}, "unknown key .did you mean 'ipc'"),
        ({"ipc": 0}, "ipc: got 0"),
        ({"iterations": 1.5}, "iterations: got 1.5"),
        ({"compute": {"device": "tpu"}}, "device: got 'tpu'"),
        ({"model": {"width": 4}}, r"model has no name .got {'width': 4}.; valid: convnet"),
        ({"model": "resnet19"}, "unknown model 'resnet19'"),
        ({"model": {"name": "convnet", "depth": 7}}, "model.depth=7 pools images of 8×8 to nothing"),
        ({"networks": "perturb"}, "central run does not have"),
    ],
)
def test_wrong_words_are_one_line(digits: Dataset, words: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UserError, match=fragment) as refused:
        fedsim.distill(digits, **{"model": SMALL, "ipc": 1, "iterations": 1} | words)
    assert "\n" not in str(refused.value)


def test_unknown_data_and_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown data 'digit' .did you mean 'digits'"):
        fedsim.load("digit")
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        _ = fedsim.destill  # pyright: ignore[reportAttributeAccessIssue]


def test_a_set_that_does_not_fit_the_test_images_is_refused(digits: Dataset) -> None:
    synthetic = made(digits)
    pixels = torch.zeros(4, 1, 9, 9, dtype=torch.uint8)
    larger = Images(pixels, torch.arange(4))
    other = Dataset("other", larger, larger, digits.classes, digits.mean, digits.std)
    with pytest.raises(UserError, match=r"does not fit the test images: image shape is \(1, 8, 8\), not \(1, 9, 9\)"):
        fedsim.evaluate(synthetic, other, model=SMALL, **QUICK)
    fewer = Dataset("fewer", digits.train, digits.test, digits.classes[:5], digits.mean, digits.std)
    with pytest.raises(UserError, match="labels reach from 0 to 9, valid are 0 to 4"):
        fedsim.evaluate(synthetic, fewer, model=SMALL, **QUICK)


def test_a_bare_convnet_fits_small_images(digits: Dataset) -> None:
    assert len(fedsim.distill(digits, ipc=1, iterations=1, batch_real=4)) == 10


def test_simulate_gives_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federated.engines.local.LocalGrid", InlineGrid)
    config = Path(__file__).parents[1] / "configs/quickstart/feddm_digits.yaml"
    run = fedsim.simulate(
        config, "rounds=1", "partition.clients=2", "method.iterations=2", "method.ipc=1", "method.networks.size=1",
        "server.epochs=1", "participation.min_replies=2", "compute.workers=1", out=tmp_path,
    )  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert result["rounds"] == 1
    assert result["clients_failed"] == result["uploads_rejected"] == 0
    assert {path.suffix for path in (run / "synthetic" / "round_001").iterdir()} == {".safetensors"}
    sets = [SyntheticSet.load(path) for path in sorted((run / "synthetic" / "round_001").iterdir())]
    assert [one.provenance["client"] for one in sets] == [0, 1]
    assert sum(len(one) for one in sets) == result["synthetic_images"]


@pytest.mark.parametrize("before", [pytest.param("", marks=pytest.mark.slow), "import fedsim.distill.base"])
def test_distill_is_called_whatever_was_imported_before(before: str) -> None:
    """The function has the name of a subpackage."""
    lines = [
        before,
        "import fedsim",
        "assert callable(fedsim.distill)",
        "fedsim.load",
        "assert callable(fedsim.distill)",
    ]
    lines += [
        "import fedsim.distill.matching as matching",
        "assert matching.class_sums",
        "assert callable(fedsim.distill)",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
