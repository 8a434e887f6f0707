"""Learned step sizes from the config to the report: networks take just these steps, their control the usual ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedsim import api
from fedsim.config import digest, merge, parse_yaml, validate
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.coresets.random import Config as RandomConfig
from fedsim.experiment import execute
from fedsim.report.collect import collect, incomparable
from fedsim.report.html import write_report
from fedsim.report.table import rows
from fedsim.schema import Distillation, resolve
from fedsim.training.evaluate import EvaluationConfig, score
from fedsim.training.train import follow
from fedsim.types import UserError
from tests.data.test_rates import SET
from tests.reference import dm as problem
from tests.reference.dd import part
from tests.reference.tiny_run import CENTRAL

METHOD = {"name": "dd", "ipc": 2, "iterations": 2, "epochs": 2, "rate": 0.5, "batch_real": 8}
PIXELS = 20 * 64 * 8


def distilled(out: Path, method: dict[str, Any] = METHOD, **evaluation: Any) -> tuple[Path, dict[str, Any]]:
    raw = parse_yaml(CENTRAL, "test") | {"method": method, "evaluation": {"nets": 1, "train": {"epochs": 5}}}
    run = execute(resolve(Distillation, merge(raw, {"evaluation": evaluation})), out)
    return run, json.loads((run / "result.json").read_text())


def test_the_steps_are_those_of_plain_sgd_on_the_parts() -> None:
    followed, by_hand = problem.convnet(classes=2), problem.convnet(classes=2)
    assert SET.rates is not None
    last = follow(followed, SET.as_images(), SET.normalise())
    pixels, labels = SET.normalise()(SET.images), SET.labels
    for number, rate in enumerate(SET.rates.flatten().tolist()):
        of = part(labels.tolist(), number % 2, 2)
        loss = F.cross_entropy(by_hand(pixels[of]), labels[of])
        for weight, step in zip(
            by_hand.parameters(), torch.autograd.grad(loss, list(by_hand.parameters())), strict=True
        ):
            weight.data -= rate * step
    for ours, theirs in zip(followed.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    assert last == pytest.approx(float(loss.detach()))
    assert not followed.training


def test_a_run_is_scored_by_its_learned_steps_and_its_control_by_the_usual_ones(tmp_path: Path) -> None:
    (learned, scored), (usual, plain) = (distilled(tmp_path, steps=one) for one in ("learned", "train"))
    assert [one["protocol"]["steps"] for one in (scored, plain)] == ["learned", "train"]
    assert [one["controls"]["random_subset"].get("steps") for one in (scored, plain)] == ["train", None]
    assert scored["controls"]["random_subset"]["values"] == plain["controls"]["random_subset"]["values"]
    assert scored["accuracy"] != plain["accuracy"]
    assert [one["storage_bits"] for one in (scored, plain)] == [PIXELS + 20 * 4 + 32 * 4, PIXELS + 20 * 4]
    sets = [SyntheticSet.load(run / "synthetic/set_000.safetensors") for run in (learned, usual)]
    assert torch.equal(sets[0].images, sets[1].images)
    table = rows([learned, usual])
    assert [row.labels for row in table] == ["hard, learned steps", "hard"]
    assert [row.control.endswith(" (usual steps)") for row in table] == [True, False]
    assert incomparable(collect([learned, usual])) == ["kind of training (learned steps or usual ones)"]
    write_report([learned, usual], tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert all(words in page for words in ("by learned steps", "(usual steps)", ", learned steps"))

    file, words = learned / "synthetic/set_000.safetensors", ["nets=1"]
    found = api.evaluate_file(file, "digits", words, 0)
    assert (found["protocol"]["steps"], found["bits"]) == ("learned", scored["storage_bits"])
    as_usual = api.evaluate_file(file, "digits", [*words, "steps=train"], 0)
    assert (as_usual["protocol"]["steps"], as_usual["bits"]) == ("train", plain["storage_bits"])
    assert as_usual["values"] != found["values"]


def test_networks_of_one_set_are_trained_one_after_another_under_vmap_too(tmp_path: Path) -> None:
    found = distilled(tmp_path, steps="learned", nets=2)[1]["accuracy_values"]
    raw = parse_yaml(CENTRAL, "test") | {
        "method": METHOD,
        "evaluation": {"nets": 2, "steps": "learned", "train": {"epochs": 5}},
    }
    run = execute(resolve(Distillation, merge(raw, {"compute": {"ensemble": "vmap"}})), tmp_path / "vmap")
    assert json.loads((run / "result.json").read_text())["accuracy_values"] == found


def test_what_has_no_learned_steps_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^evaluation.steps: learned .* learns none; give train, or method dd$"):
        distilled(tmp_path, RandomConfig(ipc=1).model_dump(), steps="learned")
    with pytest.raises(UserError, match=r"^steps: got 'learned' .* labels is teacher; valid: labels=hard$"):
        validate(EvaluationConfig, {"steps": "learned", "labels": "teacher"})
    bare = problem.images((1, 1))
    with pytest.raises(UserError, match=r"^steps=learned: the set has no step sizes of its own; give steps=train$"):
        score(
            [bare], bare, problem.NORMALISE, EvaluationConfig(steps="learned"), lambda rng: problem.convnet(classes=2),
            api.Streams(0),
        )  # fmt: skip


def test_the_default_leaves_hashes_as_they_were() -> None:
    assert digest(EvaluationConfig()) != digest(EvaluationConfig(steps="learned"))
    raw = parse_yaml(CENTRAL, "test")
    config = resolve(Distillation, raw)
    explicit = resolve(Distillation, merge(raw, {"evaluation": {"steps": "train"}}))
    assert "steps" in config.evaluation.later
    assert digest(config) == digest(explicit)
