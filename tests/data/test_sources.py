from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.catalog import names, resolve
from fedsim.data import sources
from fedsim.data.torchvision_binary import OPERATORS, ensure_operators
from fedsim.types import UserError

ensure_operators()

import torchvision.datasets  # noqa: E402 - only after the operators are declared

TEST_DATA = os.environ.get("FEDSIM_TEST_DATA")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No environment of the user's, no cache of theirs, and any use of the network fails."""
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def write_idx(root: Path, monkeypatch: pytest.MonkeyPatch, number: int = 6) -> Path:
    """A small MNIST of .gz files whose MD5 sums torchvision is told to expect."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for name, _ in torchvision.datasets.MNIST.resources:
        if "images" in name:
            content = struct.pack(">IIII", 2051, number, 28, 28) + bytes(range(number)) * 784
        else:
            content = struct.pack(">II", 2049, number) + bytes(index % 10 for index in range(number))
        (raw / name).write_bytes(gzip.compress(content))
        resources.append((name, md5(raw / name)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    return raw


def mnist(root: Path, **settings: Any) -> sources.MNIST:
    return sources.MNIST(sources.MNIST.Config(path=str(root), **settings))


@pytest.mark.parametrize("name", names("data"))
def test_every_set_of_the_catalog_names_itself(name: str) -> None:
    fields = resolve("data", name).Config.model_fields
    assert fields["name"].default == name
    assert fields["val"].default == 0.1
    assert all(field.description for field in fields.values())


def test_gz_files_are_unpacked_in_the_cache_and_nothing_else_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_idx(tmp_path / "data", monkeypatch)
    before = sorted(file.name for file in raw.iterdir())
    first = mnist(tmp_path / "data").load()
    assert first.image_shape == (1, 28, 28)
    assert first.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(file.name for file in raw.iterdir()) == before
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["MNIST"]
    assert not list((tmp_path / "cache").rglob("*.gz"))
    assert mnist(tmp_path / "data", download=True).load().fingerprint() == first.fingerprint()


def test_a_cache_filled_by_another_process_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "data", monkeypatch)
    real = shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        real(source, target)
        if not (tmp_path / "cache" / "MNIST").exists():
            (tmp_path / "cache" / "MNIST").mkdir()
            monkeypatch.setattr(shutil, "copyfile", real)
            mnist_raw = tmp_path / "cache" / "MNIST" / "raw"
            mnist_raw.mkdir()
            for file in (tmp_path / "data" / "MNIST" / "raw").iterdir():
                (mnist_raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))

    monkeypatch.setattr(shutil, "copyfile", slow)
    assert len(mnist(tmp_path / "data").load().train) == 6


def test_unpacked_files_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_idx(tmp_path / "data", monkeypatch)
    for file in list(raw.iterdir()):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "data"))
    assert len(sources.MNIST(sources.MNIST.Config()).load().train) == 6
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_a_user_error_and_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_idx(tmp_path / "data", monkeypatch)
    gz = raw / "train-images-idx3-ubyte.gz"
    gz.write_bytes(gz.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"not intact.*MNIST/raw.*data\.download=true downloads it"):
        mnist(tmp_path / "data").load()
    for file in list(raw.iterdir()):
        (raw / file.stem).write_bytes(b"\0\0\x08\x03 short")
    with pytest.raises(UserError, match="not intact"):
        mnist(tmp_path / "data").load()


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "data", monkeypatch)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="set FEDSIM_CACHE to a folder"):
        mnist(tmp_path / "data").load()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_missing_sets_say_where_and_what(tmp_path: Path, name: str) -> None:
    source = resolve("data", name)
    with pytest.raises(UserError) as caught:
        source(source.Config(path=str(tmp_path))).load()
    text = str(caught.value)
    assert str(tmp_path) in text
    assert source.FILES in text
    assert "data.download=true" in text
    assert "\n" not in text
    with pytest.raises(UserError, match=r"could not be downloaded .*the network was used") as caught:
        source(source.Config(path=str(tmp_path), download=True)).load()
    assert "\n" not in str(caught.value)


def test_cifar_and_svhn_become_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = {"data": pixels.reshape(5, -1), "labels": [3, 1, 4, 1, 5]}
    (folder / "batch").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    listed = [["batch", md5(folder / "batch")]]
    meta = {"filename": "meta", "key": "label_names", "md5": md5(folder / "meta")}
    for key, value in {"train_list": listed, "test_list": listed, "meta": meta}.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, key, value)
    data = sources.CIFAR10(sources.CIFAR10.Config(path=str(tmp_path))).load()
    assert np.array_equal(data.train.pixels.numpy(), pixels)
    assert (data.train.labels.tolist(), data.classes) == ([3, 1, 4, 1, 5], tuple("abcdefghij"))

    file = tmp_path / "x.mat"
    savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [2], [3], [9]])})
    entry = ["", file.name, md5(file)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", {"train": entry, "test": entry})
    data = sources.SVHN(sources.SVHN.Config(path=str(tmp_path))).load()
    assert np.array_equal(data.test.pixels.numpy(), pixels)
    assert data.test.labels.tolist() == [0, 1, 2, 3, 9]


@pytest.mark.skipif(not TEST_DATA, reason="set FEDSIM_TEST_DATA to a folder with MNIST/raw/*.gz")
def test_real_mnist(tmp_path: Path) -> None:
    data = mnist(Path(TEST_DATA or "")).load()
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.counts(10)[:3].tolist() == [5923, 6742, 5958]
    share = torch.bincount(data.train.pixels.flatten(), minlength=256).double() / data.train.pixels.numel()
    levels = torch.arange(256).double() / 255
    mean = float(share @ levels)
    assert data.mean == pytest.approx((mean,), abs=5e-5)
    assert data.std == pytest.approx((float(share @ (levels - mean) ** 2) ** 0.5,), abs=5e-5)


SCRIPT = """
import torch
from fedsim.data.torchvision_binary import ensure_operators, OPERATORS
declared = ensure_operators()
assert ensure_operators() == ()
assert all(hasattr(torch.ops.torchvision, name) for name in OPERATORS)
import torchvision
from torchvision.extension import _has_ops
assert ensure_operators() == ()
assert set(declared) == (set() if _has_ops() else set(OPERATORS)), declared
print("fine")
"""


def test_torchvision_imports_in_a_fresh_process_and_declaring_twice_is_harmless() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_a_binary_that_loads_leaves_nothing_to_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsim.data import torchvision_binary

    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torchvision_binary, "_missing", lambda: () if loaded else OPERATORS)
    monkeypatch.setattr(torchvision_binary, "_binary", lambda: Path("_C.so"))
    assert ensure_operators() == ()
    assert loaded == ["_C.so"]
