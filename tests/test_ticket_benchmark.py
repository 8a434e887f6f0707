"""What the benchmark of tickets is made of: poisoned sets, pairs that share nothing, success over other classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import ticket_likeness
import ticket_tables
import ticket_training
import tickets
from kept_parts import there
from ticket_cases import Bench, poisoned, repeated, success
from ticket_likeness import CLIENTS, PAIRS, dealt, instead, sets, target_of

from fedsim.data.images import Images
from fedsim.training.train import accuracy
from fedsim.types import UserError


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of("digits", torch.device("cpu"))


def distinct(one: Images, other: Images) -> int:
    """Images that both hold, to the bit."""
    left, right = ({row.numpy().tobytes() for row in images.pixels} for images in (one, other))
    return len(left & right)


def test_a_poisoned_set_stamps_and_relabels_others_than_the_targets(bench: Bench):
    clean = sets(bench, 0)["a"]
    bad = poisoned(clean, 3, 0.25, 2, np.random.default_rng(0))
    changed = (bad.labels != clean.labels).nonzero()[:, 0]
    assert len(changed) == len(clean) // 4
    assert set(bad.labels[changed].tolist()) == {3}
    assert 3 not in clean.labels[changed].tolist()
    assert bool((bad.pixels[changed][:, :, -2:, -2:] == 255).all())
    differs = (bad.pixels != clean.pixels).flatten(1).any(1).nonzero()[:, 0]
    assert set(differs.tolist()) <= set(changed.tolist())
    assert bool((bad.pixels[:, :, :-2] == clean.pixels[:, :, :-2]).all())


def test_pairs_share_no_record_and_the_control_has_the_poisoned_ones_labels(bench: Bench):
    made = sets(bench, 1)
    for name, (left, right) in PAIRS.items():
        if name != "same data":
            assert distinct(made[left], made[right]) == 0
    assert torch.equal(made["a"].counts(10), made["b"].counts(10))
    assert torch.equal(made["b like poisoned"].counts(10), made["b poisoned"].counts(10))
    assert not torch.equal(made["b poisoned"].counts(10), made["b"].counts(10))


def test_clients_of_the_defence(bench: Bench):
    clients = dealt(bench, "equal", 2)
    assert len(clients) == CLIENTS
    counts = torch.stack([one.counts(10) for one in clients])
    assert bool((counts == counts[0, 0]).all())
    other = instead(bench, "equal", clients[2], 2, 2)
    assert torch.equal(other["labels"].counts(10), other["0.1"].counts(10))
    assert all(distinct(other["labels"], one) == 0 for place, one in enumerate(clients) if place != 2)
    assert other["0.5"].counts(10)[target_of(bench, 2)] > other["0.1"].counts(10)[target_of(bench, 2)]
    assert sum(map(len, dealt(bench, "dirichlet 0.5", 2))) == len(bench.dataset.train)


def test_success_is_over_images_of_other_classes(bench: Bench):
    network = bench.fresh(torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.arange(10.0))  # says 9 to everything
    never, always = success(bench, network, 4), success(bench, network, 9)
    share = float((bench.dataset.test.labels == 9).float().mean())
    assert (never["asr"], always["asr"]) == (0.0, 1.0)
    assert always["accuracy"] == pytest.approx(share)
    assert never["wilson"][1] > 0


def test_repeated_images_are_as_many_as_asked(bench: Bench):
    one = sets(bench, 0)["a"].take(torch.arange(3))
    assert repeated(one, 7).labels.tolist() == [*one.labels.tolist(), *one.labels.tolist(), int(one.labels[0])]


def test_the_client_in_question_is_counted_against_the_others():
    cells = [{"attack": "0.1", "bad": 1, "s": [0.0, -4.0, 1.0]}, {"attack": "0.1", "bad": 0, "s": [0.5, -5.0, 1.0]}]
    area, found, false = ticket_tables.judged(cells, "s", 3.5)
    assert area.startswith("0.75 [")
    assert (found, false) == ("1/2", "25.00")
    nobody = [{"attack": "none", "bad": 1, "s": [0.0, -4.0, 1.0, -9.0]}]
    assert ticket_tables.judged(nobody, "s", 3.5) == ["", "", "50.00"]


def test_the_trigger_is_the_librarys_and_the_numbers_are_those_of_stamping_by_hand(bench: Bench):
    """As the kept parts were made: bytes written under the square, accuracy on images all called the target."""
    network, target = bench.fresh(torch.Generator().manual_seed(1)), 2
    images, side = bench.dataset.test, bench.scale.patch
    others = images.take(torch.nonzero(images.labels != target)[:, 0])
    pixels = others.pixels.clone()
    pixels[:, :, -side:, -side:] = 255
    share = accuracy(network, Images(pixels, torch.full_like(others.labels, target)), bench.normalise)
    assert success(bench, network, target)["asr"] == share
    rows = np.flatnonzero(images.labels.numpy() != target)
    chosen = torch.from_numpy(np.random.default_rng(5).permutation(rows)[: round(0.1 * len(images))])
    by_hand, labels = images.pixels.clone(), images.labels.clone()
    by_hand[chosen, :, -side:, -side:] = 255
    labels[chosen] = target
    found = poisoned(images, target, 0.1, side, np.random.default_rng(5))
    assert torch.equal(found.pixels, by_hand)
    assert torch.equal(found.labels, labels)


def test_kept_parts_are_found_under_their_settings_and_stale_ones_are_found_out(bench: Bench, monkeypatch: Any):
    paths = {
        path: path.stem.removeprefix("digits_").rpartition("_s")[0] for path in sorted(tickets.FOLDER.glob("*.json"))
    }
    assert set(paths.values()) <= set(tickets.PARTS)
    assert len(paths) >= 45
    assert all(there(path, tickets.asked(bench, part)) for path, part in paths.items())
    monkeypatch.setattr(ticket_training, "SHARES", (0.2,))
    monkeypatch.setattr(ticket_likeness, "KEEP", 0.3)
    for part, odd in {"vulnerability": "poison", "defence_real": "defence"}.items():
        with pytest.raises(UserError, match=rf"kept under other settings \({odd}\)"):
            there(tickets.FOLDER / f"digits_{part}_s0.json", tickets.asked(bench, part))
