"""Files that are not what they should be: configs, data, synthetic sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedsim.data.synthetic import SyntheticSet
from tests.reference.tiny_run import CENTRAL, TINY

FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["bad.yaml", "is empty", "mapping of sections"]),
    "list": (b"- 1\n- 2\n", ["bad.yaml", "holds a list", "mapping of sections"]),
    "syntax": (b"a: [1\nb: 2\n", ["bad.yaml", "not valid YAML", "line 2"]),
    "binary": (bytes(range(256)), ["bad.yaml", "not UTF-8", "give a YAML file"]),
    "nul_byte": (b"a\0b", ["bad.yaml", "not valid YAML", "x0000"]),
    "duplicate_key": (TINY.encode() + b"seed: 1\nseed: 2\n", ["bad.yaml", "'seed' is given twice", "line 13"]),
    "nested_too_deeply": (b"a: " + b"[" * 3000 + b"]" * 3000, ["bad.yaml", "recursion"]),
    "contains_itself": (b"a: &x {b: *x}", ["bad.yaml", "recursive"]),
    "extends_in_a_cycle": (b"extends: cycle.yaml", ["bad.yaml → cycle.yaml → bad.yaml", "remove"]),
    "extends_what_is_missing": (b"extends: gone.yaml", ["gone.yaml", "does not exist"]),
    "extends_nothing": (b"extends:", ["bad.yaml", "extends is null", "give the name"]),
    "without_rounds": (TINY.replace("rounds: 2\n", "").encode(), ["rounds", "required"]),
    "central_file": (CENTRAL.encode(), ["has no algorithm", "fedsim distill"]),
}

Arrays = dict[str, Any]

NPZ: dict[str, tuple[Callable[[Arrays], Arrays], list[str]]] = {
    "array_missing": (lambda a: {k: v for k, v in a.items() if k != "y_test"}, ["no y_test", "x_train"]),
    "label_too_large": (lambda a: a | {"y_test": np.full(4, 7)}, ["y_test", "7", "give 0..1"]),
    "negative_label": (lambda a: a | {"y_train": a["y_train"] - 1}, ["y_train", "-1", "0..k-1"]),
    "gap_in_labels": (lambda a: a | {"y_train": a["y_train"] * 3}, ["y_train", "up to 3", "number them 0..1"]),
    "one_class": (lambda a: a | {"y_train": a["y_train"] * 0}, ["class 0 alone", "at least 2 classes"]),
    "float_pixels": (lambda a: a | {"x_train": a["x_train"] / 255}, ["x_train is float64", "uint8"]),
    "python_objects": (lambda a: a | {"classes": np.array([None, {}])}, ["cannot be read", "without Python objects"]),
}


@pytest.mark.parametrize(("content", "mention"), FILES.values(), ids=FILES)
def test_config_file(refused, tmp_path, content, mention):
    (tmp_path / "bad.yaml").write_bytes(content)
    (tmp_path / "cycle.yaml").write_text("extends: bad.yaml")
    refused(["run", "bad.yaml"], mention)


@pytest.mark.parametrize(("change", "mention"), NPZ.values(), ids=NPZ)
def test_npz(refused, tmp_path, change, mention):
    pixels = np.arange(24 * 64, dtype=np.uint8).reshape(24, 8, 8)
    good = {"x_train": pixels[:20], "y_train": np.arange(20) % 2, "x_test": pixels[20:], "y_test": np.arange(4) % 2}
    np.savez(tmp_path / "own.npz", **change(good))
    refused(["run", "run.yaml", "data=npz", "data.path=own.npz"], mention)


def test_corrupt_npz(refused, tmp_path):
    (tmp_path / "own.npz").write_bytes(b"PK\3\4" + bytes(60))
    refused(["run", "run.yaml", "data=npz", "data.path=own.npz"], ["own.npz", "cannot be read"])


@pytest.mark.parametrize("where", ["nowhere.yaml", ".", "run.yaml/below", "loop.yaml"])
def test_config_path(refused, tmp_path, where):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    refused(["run", where], ["config file", "such as configs/quickstart"])


def _set(side: int) -> SyntheticSet:
    images = torch.zeros((2, 1, side, side), dtype=torch.uint8)
    return SyntheticSet(images, torch.tensor([0, 1]), tuple("0123456789"), (0.3,), (0.3,))


SETS: dict[str, tuple[bytes | None, list[str], list[str]]] = {
    "not_there": (None, [], ["bad.safetensors", "does not exist"]),
    "empty": (b"", [], ["bad.safetensors", "cannot be read"]),
    "truncated": (_set(8).encode()[:-40], [], ["bad.safetensors", "cannot be read"]),
    "foreign": (save({"weight": torch.zeros(3)}), [], ["bad.safetensors", "not a synthetic set"]),
    "of_another_size": (_set(9).encode(), [], ["does not fit", "(1, 9, 9)", "(1, 8, 8)"]),
    "unknown_setting": (_set(8).encode(), ["epochs=3"], ["epochs", "unknown key", "nets"]),
    "no_networks": (_set(8).encode(), ["nets=0"], ["nets", "got 0", "equal to 1"]),
    "model_too_deep": (_set(8).encode(), ["model.depth=4"], ["model.depth=4", "8×8", "at most 3"]),
    "negative_seed": (_set(8).encode(), ["--seed", "-1"], ["--seed", "-1", "fedsim evaluate --help"]),
}


@pytest.mark.parametrize(("content", "words", "mention"), SETS.values(), ids=SETS)
def test_evaluate(refused, tmp_path, content, words, mention):
    if content is not None:
        (tmp_path / "bad.safetensors").write_bytes(content)
    refused(["evaluate", "bad.safetensors", "--data", "digits", *words], mention)
