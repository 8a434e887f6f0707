"""What the section on central backdoors says of the parts that are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # its modules know one another by plain names

import central_backdoors
import central_cases
import central_settings
import central_tables

from fedsim.training.intervals import wilson
from fedsim.types import UserError


def kept(lift: float, attack: str = "doorping", form: str = "box", **more: Any) -> dict[str, Any]:
    """A part as it is kept, of one attack and victim."""
    options = central_backdoors.arguments(["--data", "mnist", "--attacks", attack])
    asked = json.loads(json.dumps(central_settings.asked(options, f"dm_{form}"))) | more
    shares = {"accuracy": 0.8, "accuracy_clean": 0.8, "success": lift, "free_success": 0.0, "random_patch": 0.0}
    victims = {"convnet_hidden": shares | {"lift": lift, "images": 5}}
    one = {"levels": [0.0, 300.0 if form == "open" else 200.0], "carried": [0.5], "moved": True, "victims": victims}
    return {"source": {"commit": "0123456789ab"}, "asked": asked, attack: one}


def test_verdicts_are_read_off_the_parts() -> None:
    shown = [(seed, kept(lift, form="open")) for seed, lift in enumerate((0.9, 0.92, 0.94))]
    (case,) = central_cases.cases(shown)
    (line,) = central_tables.verdicts(case)
    assert line == (
        "MNIST, `dm`, 120 steps, out of it: DOORPING lifts 92.0 [87.0, 97.0] (n = 3): a backdoor is shown. Its trigger "
        "reaches 0 … 300: no image file can hold it. It moved while condensing in 3 of 3 seeds."
    )
    (case,) = central_cases.cases([(seed, kept(lift)) for seed, lift in enumerate((0.1, -0.1, 0.0))])
    assert "no backdoor is shown" in central_tables.verdicts(case)[0]
    assert "no image file" not in central_tables.verdicts(case)[0]
    for few, said in {(0.5,): "50.0 (n = 1)", (0.5, 0.51): "50.5 (50.0 to 51.0) (n = 2)"}.items():
        (case,) = central_cases.cases([(seed, kept(lift)) for seed, lift in enumerate(few)])
        assert f"DOORPING lifts {said}: too few seeds." in central_tables.verdicts(case)[0]
    assert central_tables.judged([1.0, 1.0, 1.0]) == "no interval, since all seeds agree"


def test_seeds_of_one_case_are_of_one_setting() -> None:
    moved = [(0, kept(0.1)), (0, kept(0.2, "naive")), (1, kept(0.1, victim=["alexnet"], models={"alexnet": {}}))]
    (case,) = central_cases.cases(moved)
    assert [set(one) - {"asked", "sources"} for one in case.seeds] == [{"doorping", "naive"}, {"doorping"}]
    assert [len(one["sources"]) for one in case.seeds] == [2, 1]
    for odd in ({"epochs": 3}, {"networks": 1, "epochs": 3}):
        with pytest.raises(UserError, match=rf"mnist dm box 120 .*different settings \({', '.join(sorted(odd))}\)"):
            central_cases.cases([(0, kept(0.1)), (1, kept(0.1, **odd))])


def test_what_was_not_run_and_how_often_a_trigger_is_updated_is_read_off_too() -> None:
    few = kept(0.1)
    few["asked"]["method"]["iterations"] = 40
    found = central_cases.cases([(0, kept(0.1)), (0, few)])
    assert [(case.steps, case.updates) for case in found] == [(40, 0), (120, 2)]
    assert central_cases.settings_text(found, "method", "iterations") == "40 or 120"
    assert "never optimise the trigger again" in central_tables.verdicts(found[0])[0]
    said = central_tables.absent(found)
    assert "`dm` in the box" not in said.split("MNIST")[1]
    assert "`dm` in the box" in said.split("MNIST")[0]
    assert "condensed with `alexnet` for `convnet_hidden`" in said


def test_shares_of_one_seed_have_the_interval_of_its_images() -> None:
    (case,) = central_cases.cases([(0, kept(0.4))])  # two victims, 2,000 test images, five of other classes
    of = [one["victims"]["convnet_hidden"] for one in case.holding("doorping", "convnet_hidden")]
    low, high = wilson(1600, 2000)
    assert central_tables.shares(case, of, "accuracy") == f"80.00 [{100 * low:.2f}, {100 * high:.2f}]"
    low, high = wilson(2, 5)
    assert central_tables.shares(case, of, "success") == f"40.00 [{100 * low:.2f}, {100 * high:.2f}]"
    counted = [of[0] | {"counts": {"success": [4, 10]}}]
    assert central_tables.shares(case, counted, "success") == central_tables.shares(case, of, "success")
    assert central_tables.shares(case, [*of, of[0] | {"success": 0.6}], "success") == "50.00 (40.00 to 60.00)"


def test_the_page_says_which_parts_were_compared_with_bytes() -> None:
    old = kept(0.9, form="open")
    (said,) = central_tables.of_bytes(central_cases.cases([(0, old), (1, kept(0.9))]))
    assert "MNIST, `dm`, 120 steps, out of it. Beside" in said
    new = kept(0.9, form="open")
    new["doorping"]["victims"]["convnet_hidden"]["control"] = "shuffled"
    assert central_tables.of_bytes(central_cases.cases([(0, new), (1, kept(0.9))])) == []
    assert len(central_tables.of_bytes(central_cases.cases([(0, new), (1, old)]))) == 1
