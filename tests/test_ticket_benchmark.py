"""What the benchmark of tickets is made of: poisoned sets, pairs that share nothing, success over other classes."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import ticket_defence_tables as tables
import ticket_likeness
import ticket_tables
import ticket_training
import tickets
from kept_parts import there
from ticket_cases import Bench, poisoned, repeated, success
from ticket_likeness import CLIENTS, PAIRS, dealt, instead, scored, sets, target_of

from defenses.ticket_similarity import Config as DefenceConfig
from defenses.ticket_similarity import ticket_scores
from fedsim.data.images import Images
from fedsim.models.functional import state
from fedsim.seeding import Streams
from fedsim.training.intervals import bounded_ci, wilson
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


def test_the_benchmark_measures_the_filter_that_ships(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """z is that of `ticket_scores` under the shipped settings, whatever the uploads' sizes; here with fewer epochs."""
    quick = DefenceConfig(train=DefenceConfig().train.model_copy(update={"epochs": 1}))
    assert DefenceConfig() == ticket_likeness.FILTER
    monkeypatch.setattr(ticket_likeness, "FILTER", quick)
    some = sets(bench, 0)["a"]
    honest = [some.take(torch.arange(place, 40 + 10 * place)) for place in range(4)]
    attack = some.take(torch.arange(200, 390))
    start = state(bench.fresh(torch.Generator().manual_seed(1)))
    found = scored(bench, honest, {"0.5": attack}, 2, start, 0)
    for name, uploads in {"none": honest, "0.5": [*honest[:2], attack, honest[3]]}.items():
        network = bench.fresh(torch.Generator())
        scores = ticket_scores(network, start, uploads, bench.normalise, quick, Streams(0, ("defence",)))
        assert found[name]["changed_iou"] == [round(float(one), 4) for one in scores.z]
    assert found["none"] != found["0.5"]


def test_the_client_in_question_is_counted_against_the_others() -> None:
    cells = [{"attack": "0.1", "bad": 1, "s": [0.0, -4.0, 1.0]}, {"attack": "0.1", "bad": 0, "s": [0.5, -5.0, 1.0]}]
    area, found, false = tables.judged(cells, "s", 3.5)
    low, high = bounded_ci([1.0, 0.5])[1] or (0.0, 0.0)
    assert area == f"0.75 [{low:.2f}, {high:.2f}], p 0.33"  # of nine choices three: 1 + 1, 1 + ½, ½ + 1
    assert (found, false) == ("1/2", "25.00")
    nobody = [{"attack": "none", "bad": 1, "s": [0.0, -4.0, 1.0, -9.0]}]
    assert tables.judged(nobody, "s", 3.5) == ["", "", "50.00"]


def test_chance_is_over_all_choices_of_a_client() -> None:
    first = {"bad": 3, "s": [float(place) for place in (4, 5, 6, 0, 1, 2, 3, 7)]}
    assert tables.by_chance([first] * 5, "s") == pytest.approx(8**-5)
    assert tables.by_chance([first | {"bad": 7}] * 2, "s") == 1
    assert tables.by_chance([{"bad": 0, "s": [1.0] * 4}] * 3, "s") == 1  # all tie
    rng = np.random.default_rng(0)
    cells = [{"bad": int(rng.integers(4)), "s": rng.normal(size=4).round(0).tolist()} for _ in range(3)]
    reached = sum(tables.areas(cells, "s"))
    every = [
        sum(tables.area(cell["s"], who) for cell, who in zip(cells, choice, strict=True))
        for choice in product(range(4), repeat=3)
    ]
    assert tables.by_chance(cells, "s") == pytest.approx(np.mean([one >= reached - 1e-9 for one in every]))


def lined(place: int, *, seen: bool) -> dict[str, object]:
    """Eight scores; the client in question is last of them, or in the middle."""
    z = [0.5, -0.5, 0.25, -0.25, 1.0, -1.0, 2.0]
    z.insert(place, -9.0 if seen else 0.1)
    return {"bad": place, "changed_iou": z, "masks_hamming": [-one for one in z]}


def test_the_answer_is_made_of_the_cells() -> None:
    cells = {
        ("dm10", "equal", start, attack): [lined(place, seen=seen) for place in range(5)]
        for start in ("first weights", "trained")
        for attack, seen in {
            "none": False, "0.1": start == "trained", "0.5": True, "labels": False,
        }.items()
    }  # fmt: skip
    text = tables.answer(cells, 3.5)
    tenth = (
        "a tenth poisoned **no from the first weights, yes from the trained weights** (AUROC 0.57 from the first "
        "weights, 1.00 from the trained weights; left out 5 of 10 times)"
    )
    assert tenth in text
    assert text.index("as it ships") < text.index(tenth) < text.index("the paper's measure")
    assert "a tenth poisoned **no** (AUROC 0.43 from the first weights, 0.00 from the trained" in text  # of the masks
    assert "half poisoned **unlike the others** (AUROC 1.00 from the first weights, 1.00" in text
    assert "0.57 from the first weights (the poisoned one more suspicious in 0 of 5 seeds)" in text
    assert "(the poisoned one more suspicious in 5 of 5 seeds)" in text
    assert "Where nobody attacks 0.00 %" in text
    assert "dm, 10 per class 0.00 instead of 1.00 (0.00 instead of 0.00 %" in text
    unseen = {key: [lined(place, seen=False) for place in range(5)] for key in cells}
    assert "a tenth poisoned **no**" in tables.answer(unseen, 3.5)
    assert "yes" not in tables.answer(unseen, 3.5).partition("\n\n")[2]
    mirrored = {
        key: [one | {"changed_iou": one["masks_hamming"], "masks_hamming": one["changed_iou"]} for one in every]
        for key, every in cells.items()
    }
    assert text.split("measure: hamming`:")[0].count(tenth) == 1
    assert tables.answer(mirrored, 3.5).split("measure: hamming`:")[1].count(tenth) == 1


def test_yes_takes_a_win_over_an_honest_client_with_the_same_labels() -> None:
    seen, other = [lined(place, seen=True) for place in range(5)], [lined(place, seen=False) for place in range(5)]
    assert tables.sight(seen, other, "changed_iou") == "yes"
    assert tables.sight(seen, seen, "changed_iou") == "by its labels"  # all tie
    assert tables.sight(seen, [*other[:4], seen[4]], "changed_iou") == "by its labels"  # four wins and a tie: p 1/16
    assert tables.sight(seen, None, "changed_iou") == "unlike the others"
    assert tables.sight(other, other, "changed_iou") == "no"
    assert tables.wins([1.0] * 5, [0.5] * 5) == pytest.approx(1 / 32)
    assert tables.wins([0.5, 1.0, 1.0], [1.0, 0.5, 0.5]) == pytest.approx(1 / 2)  # two of three or more
    cells = {("dm10", "equal", "trained", name): seen for name in ("none", "0.1", "0.5", "labels")}
    text = tables.answer(cells, 3.5)
    assert "a tenth poisoned **by its labels** (AUROC 1.00" in text
    assert "half poisoned **unlike the others** (AUROC 1.00" in text  # the control has the labels of a tenth


def test_seeds_that_agree_on_a_success_are_as_sure_as_the_images_of_one(bench: Bench) -> None:
    parts = [{"asked": {"data": "digits"}, "target": target} for target in (0, 1)]
    size = min(int((bench.dataset.test.labels != target).sum()) for target in (0, 1))
    low, high = wilson(size, size)
    assert ticket_tables.share(parts, [{"asr": 1.0}] * 2) == f"100.00 [{100 * low:.2f}, {100 * high:.2f}]"
    low, high = wilson(0, 10)
    assert ticket_tables.share(parts, [{"asr": 0.0, "images": 10}, {"asr": 0.0, "images": 20}]).endswith(
        f"{100 * high:.2f}]"
    )
    assert ticket_tables.share(parts, [{"asr": 0.2}, {"asr": 0.4}]) == "30.00 (20.00 to 40.00)"


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
    monkeypatch.setattr(ticket_likeness, "FILTER", DefenceConfig(keep=0.3))
    for part, odd in {"vulnerability": "poison", "defence_real": "defence"}.items():
        with pytest.raises(UserError, match=rf"kept under other settings \({odd}\)"):
            there(tickets.FOLDER / f"digits_{part}_s0.json", tickets.asked(bench, part))
