"""A part of docs/results.md: NaiveAttack and DOORPING by whoever condenses (benchmarks/central_backdoors.py)."""

from __future__ import annotations

import json
from typing import Any

from central_settings import FOLDER, METHODS
from result_tables import interval, table

from fedsim.training.intervals import mean_ci

Seeds = list[dict[str, Any]]
NAMES = {"cifar10": "CIFAR-10 (JPEG)", "mnist": "MNIST"}
FORMS = {"box": "in the box", "open": "out of it"}


def kept_seeds(data: str, part: str, model: str = "convnet_hidden") -> Seeds:
    """The seeds of a part that condensed with `model`, by number, those of several calls merged."""
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob(f"{data}_{part}_*.json")):
        one = json.loads(path.read_text())
        if one["asked"]["model"] == model and path.name.startswith((f"{data}_{part}_s", f"{data}_{part}_{model}_to_")):
            seed = int(path.stem.rpartition("_s")[2])
            place = found.setdefault(seed, {"source": one["source"]})
            for attack in one["asked"]["attacks"]:
                victims = place.get(attack, {}).get("victims", {}) | one[attack]["victims"]
                place[attack] = one[attack] | {"victims": victims}
    return [found[seed] for seed in sorted(found)]


def row(data: str, method: str, form: str, attack: str, victim: str, seeds: Seeds) -> list[str]:
    """Means over seeds, and the lift of each."""
    of = [one[attack]["victims"][victim] for one in seeds]
    lows, highs = zip(*(one[attack]["levels"] for one in seeds), strict=True)
    return [
        NAMES[data], f"`{method}`, {FORMS[form]}", {"naive": "NaiveAttack", "doorping": "DOORPING"}[attack], f"`{victim}`",
        interval([one["accuracy"] for one in of]),
        interval([one["accuracy"] - one["accuracy_clean"] for one in of]),
        interval([one["success"] for one in of]), interval([one["free_success"] for one in of]),
        interval([one["lift"] for one in of]), ", ".join(f"{100 * one['lift']:.1f}" for one in of),
        f"{min(lows):.0f} … {max(highs):.0f}",
        ", ".join(f"{max(one[attack]['carried']):.2f}" for one in seeds),
    ]  # fmt: skip


def rows(data: str) -> list[list[str]]:
    """A row for each method, form, attack and victim that is kept."""
    found = []
    for method in METHODS:
        for form in FORMS:
            seeds = kept_seeds(data, f"{method}_{form}")
            for attack in ("naive", "doorping"):
                here = [one for one in seeds if attack in one]
                for victim in dict.fromkeys(name for one in here for name in one[attack]["victims"]):
                    held = [one for one in here if victim in one[attack]["victims"]]
                    found.append(row(data, method, form, attack, victim, held))
    return found


def differences(data: str, method: str) -> list[str]:
    """What DOORPING lifts beyond NaiveAttack on the same seeds and records, the two in the same form."""
    lines = []
    for form, said in FORMS.items():
        of = [{attack: one[attack]["victims"]["convnet_hidden"]["lift"] for attack in ("naive", "doorping")}
              for one in kept_seeds(data, f"{method}_{form}") if "naive" in one and "doorping" in one]  # fmt: skip
        if len(of) > 1:
            centre, ends = mean_ci([one["doorping"] - one["naive"] for one in of])
            assert ends is not None, "more than one seed"
            lines.append(f"{NAMES[data]}, `{method}`, {said}: DOORPING lifts {100 * centre:.1f} points more than NaiveAttack "
                         f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] (n = {len(of)}, paired by seed).")  # fmt: skip
    return lines


SAID = (
    "Whoever condenses stamps 1 % of 5,000 records with a 4×4 square (white: NaiveAttack) and calls them class 0; ten images a "
    "class; ConvNet-3-16 without norm, with the released 192 hidden units (`convnet_hidden`). `success` is over test images not of "
    "class 0; `lift` is success minus that of networks trained on the unpoisoned set of the same seed under the same trigger, so "
    "that what a trigger does by itself is no success. In the box: trigger and set are bytes; out of it: float32, as in the "
    "released code, which never clamps. `levels` are grey levels of the trigger; `carried`, for each seed, is the share of the "
    "trigger in the class-0 image that holds most of it. Intervals are t over seeds of the mean of two victims each."
)
FOUND = (
    "What is the paper's here, and what is not. The paper condenses with `dc` from noise, 1,000 networks of ten outer steps, on "
    "all records; that was out of reach on one core. `dm`, which it does not have, takes 120 steps (MNIST: 40), all sets of a seed from the "
    "same random clean records. On a newly initialised network α a₀ is within the release's tolerance of the start and the "
    "trigger stays; the first trigger therefore takes up to 2,000 Adam steps (the release: up to 1,000 after each of thousands of outer steps) on a "
    "network that the attacker trained on 500 records, and 20 more on another such network every 40 steps. It "
    "reaches thousands of grey levels; that is what lifts, and no image file can hold it. Networks this narrow learn little of a "
    "hundred CIFAR-10 images and differ by seed: the change of accuracy is known only to its interval. `carried` says little of a "
    "white square, which bright corners resemble."
)
TRIED = (
    "What was tried before, and the choice is not free of it. On val, one seed, one to three victims: `dc` with the trigger updated "
    "after each outer step as released, 20 Adam steps a time from random pixels, 30 outer steps: lift 0; with 1,000 steps first, "
    "20 outer steps: 13 points. `dc` is not reproduced. `dm`, 100 steps of 0.1, trigger of 200 Adam steps: 46 points, that trigger four times as far from grey 128: "
    "100; from records that may be stamped ones, trigger of 1,000 steps: 99 (80 steps of 0.1), 95 (80 of 0.3), 97 (160 of 0.15). On test images, "
    "three victims, the same start: 80 steps of 0.1, two seeds: 93, 57; 120 of 0.2, three seeds: 90, 79, 15. Sets of seeds 0 and 2 held records stamped from the start (lifts 90 and "
    "15; why they differ was not looked into); so the start was made clean, the "
    "image step 0.25, the first trigger 2,000 steps, untried, and the table is of 2,000 test images after the first 4,000, apart from those of "
    "these tries (the first and the last 2,000). In the box, 80 steps of 0.1, one seed: NaiveAttack −12, DOORPING −12. "
    "The release also counts images of the target class and so grants a clean model 10 %. Not run: `dd`, sets made with or for "
    "AlexNet, the invisible trigger, clean labels."
)


def central() -> list[str]:
    """The section."""
    title, command = "## Backdoors by whoever condenses", "`python benchmarks/central_backdoors.py`"
    found = [one for data in NAMES for one in rows(data)]
    if not found:
        return [f"{title}\n\n{SAID}\n\nNot run yet: {command}.\n"]
    header = [
        "data", "method", "attack", "victim", "accuracy %", "change, points", "success %", "free success %", "lift, points",
        "lift of each seed", "levels", "carried",
    ]  # fmt: skip
    lines = [line for data in NAMES for method in METHODS for line in differences(data, method)]
    sources = [json.loads(path.read_text())["source"] for path in sorted(FOLDER.glob("*.json"))]
    commits = ", ".join(sorted({one["commit"][:10] for one in sources}))
    listed = "\n".join(f"- {line}" for line in lines)
    parts = [title, SAID, table(header, found), listed, FOUND, TRIED, f"{command} · commit {commits}"]
    return ["\n\n".join(one for one in parts if one) + "\n"]
