"""The transfer benchmark: what it counts, what it hands to the attacks, what its section says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import UserError

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import transfer_page
import transfer_table
from kept_parts import there

CPU = torch.device("cpu")


def images(count: int) -> Images:
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2) * 10
    return Images(pixels.contiguous(), torch.arange(count) % 2)


def bright(pixels: Tensor) -> Tensor:
    """Class 1 where the mean pixel is above 0.1."""
    level = pixels.mean((1, 2, 3)) - 0.1
    return torch.stack([-level, level], 1)


def test_success_is_of_what_was_rightly_read():
    test = images(6)  # levels 0 to 50 of 255; read as 1 from 30 on, so that 0, 2, 3 and 5 are right
    right = transfer_table.read(bright, test.pixels, CPU) == test.labels
    assert right.tolist() == [True, False, True, True, False, True]
    darker = (test.pixels - test.pixels).clone()
    assert transfer_table.success(bright, test, darker, right, CPU) == [2, 4]
    assert transfer_table.success(bright, test, test.pixels, right, CPU) == [0, 4]


def test_random_signs_stay_in_the_ball_and_the_box():
    dataset = transfer_table.loaded("digits")
    bench = transfer_table.Bench(dataset, transfer_table.SETUPS["digits"], CPU, (), (16,))
    make = transfer_table.maker(bench, None, "random_sign", 16 / 255)
    test = dataset.test.take(torch.arange(120))
    found = transfer_table.attacked(make, test, Streams(0), CPU)
    moved = found.int() - test.pixels.int()
    inside = (test.pixels >= 16) & (test.pixels <= 239)
    assert moved[inside].unique().tolist() == [-16, 16]
    assert int(moved.abs().max()) == 16
    assert float((moved[inside] > 0).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_the_digits_are_split_into_records_and_five_hundred_test_images():
    once, again = (transfer_table.loaded("digits") for _ in range(2))
    assert (len(once.train), len(once.test)) == (1297, 500)
    assert torch.equal(once.test.pixels, again.test.pixels)
    together = torch.cat([once.train.pixels, once.test.pixels]).flatten(1).double()
    whole = transfer_table.api.load("digits")
    assert together.sum() == whole.train.pixels.double().sum() + whole.test.pixels.double().sum()


def test_a_part_holds_counts_of_every_attack_budget_and_network(monkeypatch):
    quick = TrainConfig(epochs=1, lr=0.01, batch_size=64)
    monkeypatch.setattr(transfer_table, "SMALL", quick)
    monkeypatch.setitem(transfer_table.CONDENSE, "iterations", 2)
    setup = replace(transfer_table.SETUPS["digits"], training=dict.fromkeys(transfer_table.VICTIMS, quick))
    whole = transfer_table.loaded("digits")
    few = replace(whole, train=whole.train.take(torch.arange(80)), test=whole.test.take(torch.arange(20)))
    bench = transfer_table.Bench(few, setup, CPU, ("convnet", "vit"), (16,))
    for name in ("random_sign", "dm_ipc10", "random_ipc10", "real"):
        found = transfer_table.part(bench, name, 0)
        attacks = ["random_sign"] if name == "random_sign" else list(transfer_table.ATTACKS)
        assert list(found["success"]) == attacks
        networks = {"convnet", "vit"} | ({"white_box"} if name != "random_sign" else set())
        for budgets in found["success"].values():
            assert list(budgets) == ["16"]
            for counts in budgets.values():
                assert counts.keys() == networks
                assert all(0 <= wrong <= right for wrong, right in counts.values())
                assert all(counts[one][1] == round(20 * found["accuracy"][one]) for one in networks)
    real = bench.network(setup.convnet, few.train, quick, Streams(0, ("transfer", "real", "surrogate")))
    victim = bench.victims_of(0)["convnet"]
    assert not torch.equal(real.head.weight, victim.head.weight)  # white_box is no victim


def test_kept_parts_are_found_under_their_settings_and_stale_ones_are_found_out(monkeypatch):
    victims, epsilons = transfer_table.VICTIMS, (8, 16, 32, 64)
    dataset, setup = transfer_table.loaded("digits"), transfer_table.SETUPS["digits"]
    bench = transfer_table.Bench(dataset, setup, CPU, victims, epsilons)
    paths = sorted(transfer_table.FOLDER.glob("digits_*.json"))
    assert len(paths) >= 12
    assert all(there(path, transfer_table.asked(bench)) for path in paths)
    monkeypatch.setattr(transfer_table, "SMALL", TrainConfig(epochs=299))
    with pytest.raises(UserError, match=r"kept under other settings \(small\)"):
        there(paths[0], transfer_table.asked(bench))


def fake(name: str, seed: int, success: float) -> dict[str, Any]:
    networks = ("convnet", "vit") if name == "random_sign" else ("white_box", "convnet", "vit")
    attacks = ["random_sign"] if name == "random_sign" else list(transfer_table.ATTACKS)
    counts = {one: [round(1000 * success), 1000] for one in networks}
    return {
        "surrogate": name, "seed": seed, "images": 500, "accuracy": dict.fromkeys(networks, 0.9), "seconds": 1.0,
        "source": {"commit": "0123456789abc", "device": "x", "torch": "2"},
        "asked": {"victims": ["convnet", "vit"], "epsilons": [8]},
        "success": {attack: {"8": counts} for attack in attacks},
    }  # fmt: skip


def test_the_section_says_what_s_gives_beyond_random_signs(monkeypatch):
    levels = {"random_sign": 0.1, "dm_ipc10": 0.4, "random_ipc10": 0.35, "real": 0.6}
    slopes = dict.fromkeys(levels, 0.01) | {"random_ipc10": 0.012}
    parts = [fake(name, seed, level + slopes[name] * seed) for name, level in levels.items() for seed in range(3)]
    monkeypatch.setattr(transfer_page, "kept", lambda folder, prefix: parts)
    said = transfer_page.section("digits")
    row = next(line for line in said.splitlines() if "60.00 (all equal) |" in line)  # (0.4 − 0.1) / (0.6 − 0.1)
    assert "4.80 [4.30, 5.30]" in row  # S less random records
    assert "-20.00 (all equal)" in row  # S less all of D
    assert "41.00 [38.52, 43.48]" in row  # t interval of 0.40, 0.41, 0.42
    assert "At ε of 8: S gives more than as many random records." in transfer_page.section("digits")
    monkeypatch.setattr(transfer_page, "kept", lambda folder, prefix: [])
    assert "Not run yet" in transfer_page.section("mnist")
    unfinished = [part for part in parts if (part["surrogate"], part["seed"]) != ("real", 2)]
    monkeypatch.setattr(transfer_page, "kept", lambda folder, prefix: unfinished)
    two = transfer_page.section("digits")
    assert "seeds: 2 (" in two  # a seed that is not finished is left out
    assert "At ε of 8: too few seeds." in two
    assert "random records." not in two
    monkeypatch.setattr(
        transfer_page, "kept", lambda folder, prefix: [one for one in parts if one["surrogate"] != "real"]
    )
    without = transfer_page.section("digits")
    assert "seeds: 3 (" in without
    assert "all of D | " not in without.split("How much")[0]


def test_the_share_of_what_d_gives_is_over_seeds_and_of_a_gain_that_is_seen():
    values = {"random_sign": [0.1, 0.1, 0.0], "dm_ipc10": [0.3, 0.4, 0.2], "real": [0.5, 0.5, 0.5]}
    assert transfer_page.shared(values) == transfer_page.interval([0.5, 0.75, 0.4])
    assert transfer_page.shared(values | {"real": [0.5, 0.5, 0.04]}) == ""  # one seed is enough
    assert transfer_page.shared({"dm_ipc10": [0.3], "real": [0.5]}) == ""


def test_diverse_inputs_that_change_nothing_count_once():
    counts = {"mi_fgsm": 10, "diverse_inputs": 10, "admix": 40, "mist": 70}
    found = {"success": {name: {"8": {"vit": [wrong, 100]}} for name, wrong in counts.items()}}
    assert transfer_page.overall(found, "8", ["vit"]) == pytest.approx(0.4)
    found["success"]["diverse_inputs"]["8"]["vit"] = [20, 100]
    assert transfer_page.overall(found, "8", ["vit"]) == pytest.approx(0.35)
    signs = {"success": {"random_sign": {"8": {"vit": [5, 100]}}}}
    assert transfer_page.overall(signs, "8", ["vit"]) == 0.05
