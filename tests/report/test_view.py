"""What follows from a run's folder: class means against a loop, who is shown one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fedsim.data.images import Images
from fedsim.report.collect import collect
from fedsim.report.view import LISTED, class_means
from tests.report.test_collect import write_run


def test_class_means_equal_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 2, 3, 4), generator=rng, dtype=torch.uint8)
    labels = torch.tensor([0, 2, 2, 0, 3, 3, 3, 0, 2])
    means = class_means(Images(pixels, labels), 5)
    for label in range(5):
        held = [pixels[i].double() for i in range(9) if int(labels[i]) == label]
        expected = sum(held) / len(held) if held else torch.zeros(2, 3, 4)
        assert torch.equal(means[label], torch.as_tensor(expected).round().to(torch.uint8))


def test_real_means_are_those_of_the_client(tmp_path: Path) -> None:
    (run,) = collect([write_run(tmp_path)])
    found, whole = run.real_means(1), run.real_means(None)
    assert found is not None
    assert whole is not None
    assert run.table is not None
    assert np.array_equal(found[1], run.table[1])
    assert np.array_equal(whole[1], run.table.sum(0))


def test_only_the_first_clients_are_shown_one_by_one(tmp_path: Path) -> None:
    path = write_run(tmp_path, partition={"name": "iid", "clients": LISTED + 30})
    content = (path / "synthetic/round_002/client_0000.safetensors").read_bytes()
    for client in range(2, LISTED + 30):
        (path / f"synthetic/round_002/client_{client:04d}.safetensors").write_bytes(content)
    (run,) = collect([path])
    assert run.unlisted == 30
    assert sorted(run.uploads) == list(range(LISTED))
    assert run.table is not None
    assert len(run.table) == LISTED + 30
