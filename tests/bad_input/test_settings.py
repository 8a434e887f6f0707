"""Bad input of every kind: one clear line on stderr, exit code 2, nothing lost and nothing begun.

What is wrong with a run that was begun (damaged, locked, full disk) is in test_runs.py.
"""

from __future__ import annotations

import pytest
import torch

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
    "adaptive_to_what_is_not_there": (
        "attackers=[{name:_naive,_clients:_[1],_size:_2,_adaptive_to:_bogus}]",
        ["attackers.0.adaptive_to: unknown defense 'bogus'; valid: upload_checks, spectral_signatures"],
    ),
    "unknown_data": ("data=digit", ["data.name", "'digit'", "did you mean 'digits'", "image_folder"]),
    "unknown_model": ("model=convnett", ["model.name", "did you mean 'convnet'", "mlp"]),
    "unknown_method": ("method=dmm", ["method.name", "did you mean 'dm'", "random"]),
    "unknown_algorithm": ("algorithm=feddn", ["algorithm.name", "did you mean 'feddm'", "fedavg"]),
    "unknown_partition": ("partition=iidd", ["partition.name", "did you mean 'iid'", "dirichlet"]),
    "unknown_networks": ("method.networks=poool", ["method.networks.name", "did you mean 'pool'", "fresh"]),
    "own_part_that_is_not_there": ("model=nosuch.module:X", ["nosuch.module:X", "package.module:Class"]),
    "own_part_without_config": ("model=os:path", ["os:path", "Config"]),
    "own_part_without_module": ("model=.x:Y", [".x:Y", "package.module:Class"]),
    "algorithm_that_is_none": (
        "algorithm=fedsim.models.mlp:MLP",
        ["has no function init, broadcast", "fedsim.models.mlp:MLP"],
    ),
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


@pytest.mark.parametrize(("words", "mention"), OVERRIDES.values(), ids=OVERRIDES)
def test_settings(refused, words, mention):
    refused(["run", "run.yaml", *(word.replace(":_", ": ").replace(",_", ", ") for word in words.split())], mention)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_where_there_is_none(refused):
    refused(["run", "run.yaml", "compute.device=cuda"], ["compute.device", "'cuda'", "no GPU", "auto, cpu"])
