"""The sections of docs/results.md on transfer attacks, from the parts that transfer_table.py kept."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from kept_parts import kept
from result_tables import FEWEST, interval, spread, table
from transfer_table import ATTACKS, PARTS, USUAL
from utility_tables import origin

Part = dict[str, Any]
NAMES = {
    "random_sign": "none: random signs", "dm_ipc10": "S, 10 per class", "random_ipc10": "random records, 10 per class",
    "dm_ipc50": "S, 50 per class", "random_ipc50": "random records, 50 per class", "real": "all of D",
}  # fmt: skip
VICTIMS = {"white_box": "the surrogate itself", "convnet": "ConvNet", "resnet18": "ResNet18", "vit": "ViT"}

NOTE = (
    "What the release of a synthetic set S gives to one who wants adversarial images for networks trained on the same records D: his "
    "ConvNet is trained on S (Distribution Matching from noise), on as many random records of D (the control: what a release of "
    "real images would give), or on all of D. Untargeted attacks within ε/255 of each test image, "
    "rounded to bytes, published settings. Success: share of the test images that a victim reads rightly, "
    "which it misreads after the attack. MIST is re-derived from its abstract. The ConvNet victim has the surrogate's "
    "architecture, which favours transfer to it."
)
GREY = " On grey strokes 8/255 and 16/255, the usual budgets of colour photographs, do little to any network, so 32/255 and 64/255 are added."
EIGHT = (
    " On 8×8 the published range of sizes holds 8 alone, so that DI is MI-FGSM here, and no part of means over attacks."
)
LEAST = 0.05
"""What D gives beyond random signs, in every seed, before S's share of it is told: shares of less are noise."""


def transfers() -> list[str]:
    """A section for each data set."""
    return [section(data) for data in ("digits", "mnist", "cifar10_small")]


def section(data: str) -> str:
    """Success by victim and by attack, and what is to be said of it."""
    parts, title = kept("transfer", f"{data}_s"), f"## Transfer attacks from a released set, {data}"
    note = NOTE + ("" if data == "cifar10_small" else GREY) + (EIGHT if data == "digits" else "")
    if not parts:
        return f"{title}\n\n{note}\n\nNot run yet: `python benchmarks/transfer_table.py --data {data}`.\n"
    found, seeds = complete(parts)
    victims = list(parts[0]["asked"]["victims"])
    epsilons = [str(one) for one in parts[0]["asked"]["epsilons"]]
    count = f"{parts[0]['images']} test images, seeds: {len(seeds)} (networks, S and draws; D and test images are the same)."
    said = [
        title, note, count, accuracies(found, victims), by_victim(found, victims, epsilons), by_attack(found, victims, epsilons),
        answer(found, victims, epsilons),
    ]  # fmt: skip
    shown = [part for ones in found.values() for part in ones]
    return "\n\n".join([*said, origin(shown, f"transfer_table.py --data {data}")]) + "\n"


def complete(parts: list[Part]) -> tuple[dict[str, list[Part]], list[int]]:
    """Parts by surrogate, of the seeds that hold all usual surrogates (all seeds where none does), and these seeds."""
    held = {
        seed: {part["surrogate"] for part in parts if part["seed"] == seed} for seed in {one["seed"] for one in parts}
    }
    seeds = sorted([seed for seed, names in held.items() if names.issuperset(USUAL)] or held)
    found = {name: [part for part in parts if part["surrogate"] == name and part["seed"] in seeds] for name in PARTS}
    return {name: ones for name, ones in found.items() if len(ones) == len(seeds)}, seeds


def accuracies(found: dict[str, list[Part]], victims: Sequence[str]) -> str:
    """Clean accuracy of all networks, in words."""
    some = next(iter(found.values()))
    theirs = [f"{VICTIMS[one]} {interval([part['accuracy'][one] for part in some])}" for one in victims]
    own = [
        f"{NAMES[name]} {interval([part['accuracy']['white_box'] for part in parts])}"
        for name, parts in found.items()
        if name != "random_sign"
    ]
    return (
        f"Test accuracy in %. Victims: {', '.join(theirs)}. Surrogates, by what they were trained on: {', '.join(own)}."
    )


def share(part: Part, attack: str, epsilon: str, victims: Sequence[str]) -> float:
    """Mean success over victims."""
    counts = [part["success"][attack][epsilon][one] for one in victims]
    return mean(wrong / right for wrong, right in counts)


def overall(part: Part, epsilon: str, victims: Sequence[str]) -> float:
    """Mean success over attacks and victims; diverse inputs that change nothing are MI-FGSM and do not count twice."""
    found = part["success"]
    twice = {"diverse_inputs"} if "mi_fgsm" in found and found["mi_fgsm"] == found.get("diverse_inputs") else set()
    return mean(share(part, attack, epsilon, victims) for attack in found if attack not in twice)


def by_victim(found: dict[str, list[Part]], victims: Sequence[str], epsilons: Sequence[str]) -> str:
    """MI-FGSM: rows ε and surrogate, columns the networks that read the images."""
    rows = []
    for epsilon in epsilons:
        for name, parts in found.items():
            attack = "random_sign" if name == "random_sign" else "mi_fgsm"
            cells = [
                interval([share(part, attack, epsilon, [one]) for part in parts])
                if one in parts[0]["success"][attack][epsilon] else "" for one in ("white_box", *victims)
            ]  # fmt: skip
            rows.append([epsilon, NAMES[name], *cells])
    header = ["ε, of 255", "surrogate trained on", *(f"{VICTIMS[one]} %" for one in ("white_box", *victims))]
    return f"MI-FGSM, success by network:\n\n{table(header, rows)}"


def by_attack(found: dict[str, list[Part]], victims: Sequence[str], epsilons: Sequence[str]) -> str:
    """Mean over victims: rows ε and surrogate, columns attacks."""
    rows = []
    for epsilon in epsilons:
        for name, parts in found.items():
            if name != "random_sign":
                cells = [interval([share(part, attack, epsilon, victims) for part in parts]) for attack in ATTACKS]
                rows.append([epsilon, NAMES[name], *cells])
    header = ["ε, of 255", "surrogate trained on", "MI-FGSM %", "DI %", "Admix %", "MIST %"]
    return f"Mean over victims, by attack:\n\n{table(header, rows)}"


def answer(found: dict[str, list[Part]], victims: Sequence[str], epsilons: Sequence[str]) -> str:
    """For every ε the mean over attacks and victims, and paired differences over seeds."""
    lines = ["How much attack capability does the release of S give? Mean success over all attacks and victims, in %:"]
    rows, same, better, worse, few = [], [], [], [], []
    for epsilon in epsilons:
        values = {name: [overall(part, epsilon, victims) for part in parts] for name, parts in found.items()}
        apart_by = paired(values, "random_ipc10")
        ends = spread(apart_by) if apart_by else None
        if ends is not None:
            (better if ends[0] > 0 else worse if ends[1] < 0 else same).append(epsilon)
        elif 0 < len(apart_by) < FEWEST:
            few.append(epsilon)
        rows.append([epsilon, *(interval(values[name]) for name in values), *apart(values)])
    header = [
        "ε, of 255",
        *(NAMES[name] for name in found),
        "S less random records",
        "S less all of D",
        "share of what D gives, %",
    ]
    words = {
        "the interval holds zero: S is not shown to give more or less than as many random records": same,
        "S gives more than as many random records": better, "S gives less than as many random records": worse, "too few seeds": few,
    }  # fmt: skip
    plain = [f"At ε of {', '.join(ones)}: {what}." for what, ones in words.items() if ones]
    return "\n\n".join([*lines, table(header, rows), " ".join([READING, *plain])])


READING = (
    "S is `S, 10 per class`; differences are paired by seed, in points. The last column: success with S beyond that of random signs, as "
    f"a share of success with all of D beyond it, seed by seed; empty where D gives less than {100 * LEAST:g} points in some seed."
)


def paired(values: dict[str, list[float]], name: str) -> list[float]:
    """S less another surrogate, seed by seed; nothing where one of them was not run."""
    if "dm_ipc10" not in values or name not in values:
        return []
    return [a - b for a, b in zip(values["dm_ipc10"], values[name], strict=True)]


def apart(values: dict[str, list[float]]) -> list[str]:
    """S less its control, S less D, and the share of D's gain over random signs that S gives, in per cent."""
    differences = [paired(values, name) for name in ("random_ipc10", "real")]
    return [*(interval(one) if one else "" for one in differences), shared(values)]


def shared(values: dict[str, list[float]]) -> str:
    """The share of D's gain over random signs that S gives, over seeds; empty where that gain is small in some seed."""
    if not {"dm_ipc10", "real", "random_sign"} <= values.keys():
        return ""
    gains = [
        (ours - floor, most - floor)
        for ours, most, floor in zip(values["dm_ipc10"], values["real"], values["random_sign"], strict=True)
    ]
    return interval([ours / most for ours, most in gains]) if min(most for _, most in gains) >= LEAST else ""
