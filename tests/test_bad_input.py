"""Bad input of every kind: one clear line on stderr, exit code 2, nothing lost and nothing begun.

What is wrong with a run that was begun (damaged, locked, full disk) is in test_runs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedsim.cli import main
from fedsim.data.synthetic import SyntheticSet
from tests.reference.tiny_run import CENTRAL, TINY

OVERRIDES: dict[str, tuple[str, list[str]]] = {
    "unknown_key": ("model.widht=3", ["model.widht", "did you mean 'width'", "depth"]),
    "unknown_key_in_a_list": ("faults=[{name:_nan,_client:_0,_rond:_1}]", ["faults.0.rond", "'round'"]),
    "unknown_key_in_an_optional_section": ("server.lrr=1", ["server.lrr", "did you mean 'lr'", "epochs"]),
    "wrong_type": ("rounds=many", ["rounds", "'many'", "integer"]),
    "bool_for_a_number": ("seed=true", ["seed", "True", "integer"]),
    "nothing_for_a_number": ("seed=", ["seed", "null", "integer"]),
    "text_for_a_section": (
        "upload_limits=cpu",
        ["upload_limits", "'cpu'", "images, bytes"],
    ),
    "number_or_word": ("compute.chunk=many", ["compute.chunk: got 'many'", "integer or 'auto'"]),
    "zero_clients": ("partition.clients=0", ["partition.clients", "got 0", "equal to 1"]),
    "alpha_zero": ("partition=dirichlet partition.alpha=0", ["partition.alpha", "got 0", "greater than 0"]),
    "ipc_zero": ("method.ipc=0", ["method.ipc", "got 0", "equal to 1"]),
    "ipc_beyond_64_bits": (f"method.ipc={10**30}", ["method.ipc", "64 bits"]),
    "fraction_zero": ("participation.fraction=0", ["participation.fraction", "got 0", "greater than 0"]),
    "fraction_above_one": ("participation.fraction=1.5", ["participation.fraction", "1.5", "equal to 1"]),
    "timeout_zero": ("participation.timeout=0", ["participation.timeout", "got 0", "greater than 0"]),
    "min_replies_above_clients": ("participation.min_replies=3", ["min_replies=3", "valid: 1 to 2"]),
    "batch_norm_together": (
        "method.networks.shared=true participation.per_node=2 model.norm=batch",
        ["method.networks.shared", "batch norm", "per_node=1"],
    ),
    "per_node_zero": ("participation.per_node=0", ["participation.per_node", "got 0", "equal to 1"]),
    "transcript": ("transcript=some", ["transcript", "'some'", "'none', 'uploads' or 'all'"]),
    "unknown_form_of_images": ("wire.images=float64", ["wire.images", "'float64'", "'uint8', 'float32' or 'float16'"]),
    "unknown_form_of_weights": ("wire.weights=int8", ["wire.weights", "'int8'", "'float32' or 'float16'"]),
    "unknown_key_of_wire": ("wire.image=uint8", ["wire.image", "did you mean 'images'", "deflate"]),
    "wire_as_a_word": ("wire=float16", ["wire", "'float16'", "images, weights, deflate"]),
    "images_where_none_travel": (
        "algorithm=fedavg method= server= wire.images=float16",
        ["wire.images", "fedavg sends no images", "wire.weights"],
    ),
    "unknown_trace": (
        "participation.trace=bernouli",
        ["participation.trace.name", "did you mean 'bernoulli'", "cyclic"],
    ),
    "trace_rate": ("participation.trace=bernoulli participation.trace.rate=0", ["participation.trace.rate", "got 0"]),
    "trace_period": (
        "participation.trace=cyclic participation.trace.period=1",
        ["participation.trace.period", "got 1"],
    ),
    "trace_without_path": ("participation.trace=file", ["participation.trace.path", "required"]),
    "trace_not_there": (
        "participation.trace=file participation.trace.path=nowhere.csv",
        ["participation.trace.path: nowhere.csv cannot be read", "CSV or JSON"],
    ),
    "trace_that_is_none": (
        "participation.trace=file participation.trace.path=run.yaml",
        ["participation.trace: run.yaml is no trace", "round,client"],
    ),
    "trace_with_too_few": (
        "participation.trace=cyclic participation.trace.period=2 participation.min_replies=2",
        ["participation.min_replies=2 cannot be reached in round 1: 1 clients", "of the 1", "valid: 1 to 1"],
    ),
    "nan": ("server.lr=.nan", ["server.lr", "nan", "finite"]),
    "infinity": ("participation.timeout=.inf", ["participation.timeout", "inf", "finite"]),
    "negative_seed": ("seed=-1", ["seed", "-1", "equal to 0"]),
    "seed_beyond_64_bits": ("seed=" + "9" * 5000, ["seed=999", "digits"]),
    "slash_in_name": ("name=a/b", ["name", "'a/b'", "A-Za-z0-9"]),
    "long_name": ("name=" + "x" * 300, ["name", "xxx", "0,99"]),
    "val_out_of_range": ("data.val=0.9", ["data.val", "0.9", "0.5"]),
    "federated_without_val": ("data.val=0", ["data.val", "got 0", "0.5"]),
    "threads_that_would_kill_the_process": ("compute.threads=100000", ["compute.threads", "1024"]),
    "override_without_equals": ("seed", ["override 'seed'", "key=value"]),
    "override_with_empty_key": (".seed=1", ["override '.seed=1'", "key=value"]),
    "override_of_a_number_as_section": ("rounds.x=3", ["rounds is 2 (int)", "rounds=VALUE"]),
    "override_that_is_not_yaml": ("seed=[", ["override 'seed=['", "YAML"]),
    "override_with_a_python_tag": ("seed=!!python/name:os.system", ["seed", "YAML", "tag"]),
    "impossible_date": ("seed=2024-99-99", ["seed", "2024-99-99", "integer"]),
    "unknown_data": ("data=digit", ["data.name", "'digit'", "did you mean 'digits'", "image_folder"]),
    "unknown_model": ("model=convnett", ["model.name", "did you mean 'convnet'", "mlp"]),
    "unknown_method": ("method=dmm", ["method.name", "did you mean 'dm'", "random"]),
    "unknown_algorithm": ("algorithm=feddn", ["algorithm.name", "did you mean 'feddm'", "fedavg"]),
    "unknown_partition": ("partition=iidd", ["partition.name", "did you mean 'iid'", "dirichlet"]),
    "unknown_networks": ("method.networks=poool", ["method.networks.name", "did you mean 'pool'", "fresh"]),
    "own_part_that_is_not_there": ("model=nosuch.module:X", ["nosuch.module:X", "package.module:Class"]),
    "own_part_without_config": ("model=os:path", ["os:path", "Config"]),
    "own_part_without_module": ("model=.x:Y", [".x:Y", "package.module:Class"]),
    "algorithm_that_is_none": ("algorithm=fedsim.models.mlp:MLP", ["method_defaults", "fedsim.models.mlp:MLP"]),
    "npz_without_path": ("data=npz", ["data.path", "required"]),
    "npz_not_there": ("data=npz data.path=nowhere.npz", ["nowhere.npz", "x_train"]),
    "image_folder_not_there": ("data=image_folder data.path=nowhere", ["nowhere", "train/CLASS/"]),
    "mnist_not_there": ("data=mnist", ["mnist", "MNIST/raw", "data.download=true"]),
    "more_clients_than_records": ("partition.clients=5000", ["partition.clients=5000", "lower partition.clients"]),
    "min_size_too_large": ("partition=dirichlet partition.min_size=900", ["min_size=900", "lower partition.clients"]),
    "min_size_out_of_reach": ("partition=dirichlet partition.alpha=1e-6", ["alpha=1e-06", "raise partition.alpha"]),
    "too_many_classes": ("partition=classes_per_client partition.classes=11", ["classes=11", "give 1..10"]),
    "min_class_withholds_a_class": ("partition.min_class=100", ["min_class=100", "class 0", "lower"]),
    "fault_of_an_unknown_client": ("faults=[{name:_nan,_client:_9}]", ["client 9", "valid: 0 to 1"]),
    "fault_in_an_unknown_round": ("faults=[{name:_nan,_client:_0,_round:_7}]", ["round 7", "valid: 1 to 2"]),
    "unknown_fault": ("faults=[{name:_rase,_client:_0}]", ["faults.0.name", "'rase'", "'raise'"]),
    "method_given_to_fedavg": ("algorithm=fedavg", ["method and server", "fedavg", "method= server="]),
    "model_too_deep": ("model.depth=4", ["model.depth=4", "8×8", "at most 3"]),
    "images_too_small": ("model=vgg11", ["vgg11", "8×8", "28×28"]),
    "out_is_a_file": ("--out run.yaml", ["--out run.yaml", "is a file", "give a folder"]),
    "out_is_below_a_file": ("--out run.yaml/below", ["run.yaml is a file", "give a folder"]),
    "out_has_too_long_a_name": ("--out " + "x" * 300, ["xxx", "File name too long"]),
    "nothing_to_resume": ("--resume", ["--resume", "no run at", "leave --resume out"]),
    "unknown_option": ("--fast", ["--fast", "fedsim run --help"]),
}

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


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with the two files, and no data anywhere."""
    (tmp_path / "run.yaml").write_text(TINY)
    (tmp_path / "central.yaml").write_text(CENTRAL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str], list[str]], None]:
    """Run the command line on bad input: exit code 2, one line that mentions all of that, and no file touched."""

    def check(words: list[str], mention: list[str]) -> None:
        before = _contents(tmp_path)
        code = main(words)
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.strip()]
        assert (code, len(lines)) == (2, 1), said
        assert len(lines[0]) < 400
        assert "Traceback" not in said
        assert [fragment for fragment in mention if fragment not in lines[0]] == [], lines[0]
        assert _contents(tmp_path) == before

    return check


def _contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("words", "mention"), OVERRIDES.values(), ids=OVERRIDES)
def test_settings(refused, words, mention):
    refused(["run", "run.yaml", *(word.replace(":_", ": ").replace(",_", ", ") for word in words.split())], mention)


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_where_there_is_none(refused):
    refused(["run", "run.yaml", "compute.device=cuda"], ["compute.device", "'cuda'", "no GPU", "auto, cpu"])


CENTRALLY = {
    "run_file": (["run.yaml"], ["has an algorithm", "fedsim run"]),
    "around_a_server": (["central.yaml", "method.networks.around=server"], ["method.networks", "central", "fresh"]),
    "shared_with_nobody": (["central.yaml", "method.networks.shared=true"], ["method.networks.shared", "leave it out"]),
    "perturbed": (["central.yaml", "method.networks=perturb"], ["method.networks", "central", "fresh"]),
    "federated_key": (["central.yaml", "rounds=2"], ["rounds", "unknown key", "evaluation"]),
    "no_method": (["central.yaml", "method="], ["method", "needs a name", "dm"]),
}


@pytest.mark.parametrize(("words", "mention"), CENTRALLY.values(), ids=CENTRALLY)
def test_central_condensation(refused, words, mention):
    refused(["distill", *words], mention)


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


WORDS = {
    "nothing": ([], ["valid: run, distill", "fedsim --help"]),
    "unknown_command": (["runn"], ["'runn'", "valid: run, distill", "fedsim --help"]),
    "no_config": (["run"], ["CONFIG", "fedsim run --help"]),
    "unknown_kind": (["list", "metods"], ["'metod'", "did you mean 'method'", "partition"]),
    "unknown_part": (["describe", "dmm"], ["'dmm'", "did you mean 'dm'", "fedsim list"]),
    "report_on_a_folder": (["report", "."], ["config.yaml", "give"]),
    "report_on_nothing": (["report", "nowhere"], ["nowhere", "config.yaml", "give"]),
    "evaluate_without_data": (["evaluate", "x.safetensors"], ["--data", "fedsim evaluate --help"]),
}


@pytest.mark.parametrize(("words", "mention"), WORDS.values(), ids=WORDS)
def test_command_line(refused, words, mention):
    refused(words, mention)
