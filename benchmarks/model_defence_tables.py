"""A part of docs/results.md: defences on finished models, noise at clients, pruned gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kept_parts import kept
from result_tables import interval, percent, table
from utility_tables import origin

from fedsim.audit.statistics.auc import auc
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.training.calibration import threshold

Part = dict[str, Any]
SCORES = {"index": "anomaly index", "ratio": "median over smallest"}


def share(hits: int, n: int) -> str:
    """With Clopper-Pearson's interval, in percent."""
    found = clopper_pearson(hits, n)
    return f"{hits}/{n}, {100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def limit(clean: Sequence[float], leaving: int) -> float:
    """Threshold from the runs without an attacker of the other seeds, at the smallest rate that they allow."""
    others = np.delete(np.array(clean), leaving)
    return threshold(others, 1 / (len(others) + 1))


def flagged(scores: Sequence[float], clean: Sequence[float]) -> int:
    """Seeds whose score is above the threshold that leaves that seed out."""
    return sum(score > limit(clean, seed) for seed, score in enumerate(scores))


def counted(scores: Sequence[float], clean: Sequence[float]) -> str:
    """How many of the seeds are flagged: they share a threshold, so that no binomial interval holds; one seed has none."""
    return f"{flagged(scores, clean)}/{len(scores)}" if len(clean) > 1 else ""


def above(attacked: Sequence[float], clean: Sequence[float]) -> int:
    """Seeds in which the attacked model scores above the clean one of the same seed."""
    return sum(mine > theirs for mine, theirs in zip(attacked, clean, strict=True))


def by_attack(parts: list[Part], read: Callable[[Part], Any]) -> dict[str, list[Any]]:
    """What is read of each row, seed by seed, for each attack."""
    names = [row["attack"] for row in parts[0]["rows"]]
    return {name: [read(part["rows"][place]) for part in parts] for place, name in enumerate(names)}


def cleansed(parts: list[Part]) -> list[list[str]]:
    """A row for each model and score of Neural Cleanse; attacked ones are held against the clean ones of their kind."""
    rows, lifts = [], by_attack(parts, lambda row: row.get("lift"))
    targets = by_attack(parts, lambda row: row["cleanse"]["class"] == 0)
    twins = {row["attack"]: row["twin"] for row in parts[0]["rows"]}
    for score, name in SCORES.items():
        found = by_attack(parts, lambda row, score=score: row["cleanse"][score])
        for attack, values in found.items():
            twin = twins[attack]
            start = [attack, "" if twin is None else interval(lifts[attack]), name, f"{np.median(values):.2f}"]
            if twin is None:
                rows.append([*start, "", "", "", ""])
                continue
            area = auc(np.array(values), np.array(found[twin]))
            rows.append([
                *start, f"{area:.2f}", share(above(values, found[twin]), len(values)),
                f"{sum(targets[attack])}/{len(values)}", counted(values, found[twin]),
            ])  # fmt: skip
    return rows


def stripped(parts: list[Part]) -> list[list[str]]:
    """A row for each model and pair of weights: images that the model takes for the target, and clean ones."""
    success = by_attack(parts, lambda row: row.get("asr"))
    every = by_attack(parts, lambda row: row["strip"])
    rows = []
    for attack, made in every.items():
        for weights in made[0]:
            found = [one[weights] for one in made]
            areas = [one["auroc"] for one in found if one["auroc"] is not None]
            taken = sum(one["taken"] for one in found)
            rows.append([
                attack, "" if None in success[attack] else interval(success[attack]), weights, str(taken),
                f"{np.mean(areas):.2f} ({min(areas):.2f} to {max(areas):.2f})" if areas else "",
                share(sum(one["found"] for one in found), taken) if taken else "",
                share(sum(one["false"] for one in found), sum(one["plain"] for one in found)),
            ])  # fmt: skip
    return rows


def noised(parts: list[Part]) -> list[list[str]]:
    """A row for each ε."""
    rows = []
    for place, first in enumerate(parts[0]["rows"]):
        found = [part["rows"][place] for part in parts]
        name = "none" if first["epsilon"] is None else f"{first['epsilon']:g}"
        keys = ("accuracy_clean", "accuracy", "asr", "asr_random_patch", "asr_clean", "lift")
        rows.append([name, str(len(found)), *(interval([one[key] for one in found]) for key in keys)])
    return rows


def pruned(parts: list[Part]) -> list[list[str]]:
    """A row for each share that is kept and each attacker."""
    rows = []
    for place, first in enumerate(parts[0]["rows"]):
        found = [part["rows"][place] for part in parts]
        of = sum(one["records"] for one in found)
        rows.append([
            percent(first["keep"]), first["entries"], *(f"{sum(one[name] for one in found)}/{of}" for name in ("identified", "chance", "labels")),
            f"{np.median([one['mse'] for one in found]):.2g}", interval([one["accuracy"] for one in found]),
        ])  # fmt: skip
    return rows


def section(title: str, data: str, part: str, note: str, body: Callable[[list[Part]], list[str]]) -> str:
    """Title, note, tables and where they come from."""
    parts, command = kept("model_defences", f"{data}_{part}_"), f"model_defences.py --data {data} --parts {part}"
    if not parts:
        return f"## {title}, {data}\n\n{note}\n\nNot run yet: `python benchmarks/{command}`.\n"
    return "\n\n".join([f"## {title}, {data}", note, *body(parts), origin(parts, command)]) + "\n"


def models_note() -> str:
    """What the first section is of."""
    return (
        "FedDM, two rounds, one client of five (MNIST: ten) with a white square; its model after the last round. `central`: the control that has its "
        "backdoor for certain, a network trained on all records at once, half of them stamped and relabelled, beside one on the clean ones: a defence "
        "that sees nothing there is not shown to see anything. Neural Cleanse and STRIP are given the server's clean held-out images. Neural Cleanse: "
        "the threshold is the largest score of the models of the same kind without an attacker of the other seeds, the smallest rate (1/n) that n seeds "
        "allow; one of n clean models is above it by construction, so that their cell is empty. `flagged`: attacked models above it, a count without an "
        "interval, since nearly all seeds share the one maximum; two seeds at least. AUROC: attacked models against clean ones of all seeds; `above its "
        "twin`: seeds in which the attacked model scores above the clean one of that seed (Clopper-Pearson; ½ where nothing is seen). `target named`: "
        "seeds in which the smallest stamp is that of the target. STRIP, with image and overlay weighed by ½ each or added and clipped (1, 1): test "
        "images of other classes than the target, stamped and taken for it by the model (`taken`), against as they are. Half of the held-out images are "
        "overlays; of the other half those of other classes give the threshold at 5 %, on the model that is looked at: what is exceeded 5 % of the time "
        "over draws of these images, more or less in one seed. AUROC: mean over seeds (least to "
        "largest), below ½ where stamped images have the larger entropy; shares pool seeds, whose images are not independent, so that their intervals "
        "are too short. What a clean model takes for the target carries no backdoor: it is like it, or a bright corner makes it so. The attackers know of "
        "neither defence."
    )


def models(parts: list[Part]) -> list[str]:
    """Both tables of the first section."""
    first = ["model", "lift %", "score", "median", "AUROC", "above its twin %", "target named", "flagged"]
    second = ["model", "attack success %", "weights", "taken", "AUROC of these", "of these above %", "clean above %"]
    return ["Neural Cleanse:", table(first, cleansed(parts)), "STRIP:", table(second, stripped(parts))]


def model_defences() -> list[str]:
    """All sections."""
    noise = (
        "One round of FedDM with `naive` in one client's place; clients give out noisy sums (`privacy: features`, δ = 1e-5, seeded noise: a "
        "simulation). The attackers that craft or optimise are refused there: they would have to leave the protocol, which is what "
        "privacy presumes that nobody does. It is no defence against a client that does; this shows what is left of "
        "one that keeps to it. Noise is not the only thing that changes: the row without privacy is plain `dm`; the others also clip "
        "features around a public centre, divide by noisy counts (κ in each record's vector), weigh images by these and leave classes of few "
        "records out. A model that takes everything for the target has a lift, too: read it beside `random patch` and the accuracy."
    )
    cut = (
        "iDLG on one record's gradient (LeNet with sigmoids, U(−0.5, 0.5)), of which the largest entries of each tensor "
        "are sent; identified among the other records of its class. "
        "Each record of a seed has a network of its own, but every seed has the same ten networks, with other records: counts over seeds are not "
        "of independent cases and have no interval. `chance`: another gradient's reconstruction. `matched`: the attacker "
        "compares whole gradients with the pruned one (`all`), or, where it knows of the pruning, the entries that were sent alone (`sent`, adaptive). Accuracy: FedSGD of a ConvNet, five clients, 200 steps, what is dropped is not sent later."
    )
    noised_header = [
        "ε",
        "n",
        "accuracy without attacker %",
        "with %",
        "attack success %",
        "random patch %",
        "without attackers %",
        "lift %",
    ]
    cut_header = ["kept %", "matched", "identified", "chance", "labels right", "median MSE", "accuracy %"]
    found = []
    for data in ("digits", "mnist"):
        found += [
            section("Defences on finished models", data, "models", models_note(), models),
            section("Noise at clients against a backdoor", data, "privacy", noise, lambda parts: [table(noised_header, noised(parts))]),
            section("Gradient pruning against iDLG", data, "pruning", cut, lambda parts: [table(cut_header, pruned(parts))]),
        ]  # fmt: skip
    return found
