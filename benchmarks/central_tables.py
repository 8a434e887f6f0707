"""A part of docs/results.md: NaiveAttack and DOORPING by whoever condenses (benchmarks/central_backdoors.py)."""

from __future__ import annotations

from typing import Any

from central_cases import ATTACKS, NAMES, Case, cases, kept_parts
from central_settings import FORMS, METHODS
from central_words import PAPER, TRIED, setting
from result_tables import FEWEST, interval, percent, revisions, spread, table

from fedsim.training.intervals import wilson


def shares(case: Case, of: list[dict[str, Any]], name: str) -> str:
    """A share over seeds; of one seed with Wilson's interval over its test images, each counted once for all networks."""
    if len(of) > 1:
        return interval([one[name] for one in of])
    asked, (one,) = case.seeds[0]["asked"], of
    size = asked["networks"] * (asked["test"] if name.startswith("accuracy") else one["images"])
    hits, looked = one.get("counts", {}).get(name) or (round(one[name] * size), size)  # parts from before: exact, too
    low, high = wilson(round(hits / asked["networks"]), looked // asked["networks"])
    return f"{percent(one[name])} [{percent(low)}, {percent(high)}]"


def row(case: Case, attack: str, victim: str) -> list[str]:
    """Means over seeds, and the lift of each."""
    seeds = case.holding(attack, victim)
    of = [one["victims"][victim] for one in seeds]
    lows, highs = zip(*(one["levels"] for one in seeds), strict=True)
    most = [f"{max(one['carried']):.2f}" for one in seeds if one["carried"]]
    return [
        NAMES[case.data], f"`{case.method}`, {FORMS[case.form]}", str(case.steps), ATTACKS[attack],
        str(case.updates) if attack == "doorping" else "", f"`{case.model}`", f"`{victim}`",
        shares(case, of, "accuracy"),
        interval([one["accuracy"] - one["accuracy_clean"] for one in of]),
        *(shares(case, of, name) for name in ("success", "free_success", "random_patch")),
        interval([one["lift"] for one in of]), ", ".join(f"{100 * one['lift']:.1f}" for one in of),
        f"{min(lows):.0f} … {max(highs):.0f}", ", ".join(most),
    ]  # fmt: skip


def rows(all_cases: list[Case]) -> list[list[str]]:
    """A row for each case, attack and victim that is kept."""
    return [row(case, attack, victim) for case in all_cases for attack in ATTACKS for victim in case.victims(attack)]


def points(values: list[float]) -> str:
    """Mean and interval in points."""
    return f"{interval(values, lambda value: f'{100 * value:.1f}')} (n = {len(values)})"


def judged(values: list[float]) -> str:
    """What lifts of some seeds show."""
    if len(values) < FEWEST:
        return "too few seeds"
    ends = spread(values)
    if ends is None:
        return "no interval, since all seeds agree"
    return "a backdoor is shown" if ends[0] > 0 else "no backdoor is shown"


def verdicts(case: Case) -> list[str]:
    """What the seeds of a case show, of each attack and victim, and of the two attacks beside each other."""
    found = []
    for victim in case.victims("doorping") or case.victims("naive"):
        lifts = {attack: case.lifts(attack, victim) for attack in ATTACKS if case.lifts(attack, victim)}
        said = [f"{ATTACKS[attack]} lifts {points(held)}: {judged(held)}" for attack, held in lifts.items()]
        both = [one for one in case.seeds if all(victim in one.get(name, {}).get("victims", {}) for name in ATTACKS)]
        if both:
            pairs = [[one[name]["victims"][victim]["lift"] for name in ("doorping", "naive")] for one in both]
            apart = [ours - theirs for ours, theirs in pairs]
            said.append(f"DOORPING less NaiveAttack, paired by seed: {points(apart)}")
        pair = "" if case.model == victim == "convnet_hidden" else f", `{case.model}` to `{victim}`"
        found.append(f"{case.words}{pair}: {'; '.join(said)}.{triggers(case, victim)}")
    return found


def triggers(case: Case, victim: str) -> str:
    """How far DOORPING's trigger went, and whether it moved while the set was condensed."""
    held = case.holding("doorping", victim)
    if not held:
        return ""
    low, high = min(one["levels"][0] for one in held), max(one["levels"][1] for one in held)
    outside = low < 0 or high > 255
    where = f" Its trigger reaches {low:.0f} … {high:.0f}: no image file can hold it." if outside else ""
    if case.form == "invisible":
        where = f" No pixel changes by more than {max(-low, high):.0f} grey levels."
    if not case.updates:
        return f"{where} So few steps never optimise the trigger again: it is the first one throughout."
    moved = [one["moved"] for one in held if "moved" in one]
    return where + (f" It moved while condensing in {sum(moved)} of {len(moved)} seeds." if moved else "")


def of_bytes(found: list[Case]) -> list[str]:
    """What is to be said of kept triggers that left the box and were compared with bytes, which is no comparison."""
    old = {
        case.words: None
        for case in found if case.form == "open"
        for victim in case.victims("doorping")
        if any("control" not in one["victims"][victim] for one in case.holding("doorping", victim))
    }  # fmt: skip
    if not old:
        return []
    return [
        f"The control trigger of DOORPING was noise of bytes, 0 to 255, in these parts from before it was shuffled: {'; '.join(old)}. Beside values "
        "that far out of the box it says nothing of what any such square does."
    ]


def absent(found: list[Case]) -> str:
    """Methods and forms that no part is kept of, by data set; and pairs of architectures."""
    lines = []
    for data, name in NAMES.items():
        here = {(case.method, case.form) for case in found if case.data == data}
        missing = [f"`{method}` {FORMS[form]}" for method in METHODS for form in FORMS if (method, form) not in here]
        lines.append(f"{name}: {', '.join(missing) or 'nothing'}")
    pairs = {(case.model, victim) for case in found for attack in ATTACKS for victim in case.victims(attack)}
    others = [one for one in (("convnet_hidden", "alexnet"), ("alexnet", "convnet_hidden")) if one not in pairs]
    moves = "".join(f"; condensed with `{one}` for `{other}`" for one, other in others)
    return f"Not run. {'; '.join(lines)}{moves}."


def central() -> list[str]:
    """The section."""
    title, command = "## Backdoors by whoever condenses", "`python benchmarks/central_backdoors.py`"
    found = cases(kept_parts())
    if not found:
        return [f"{title}\n\nNot run yet: {command}.\n"]
    header = [
        "data", "method", "steps", "attack", "updates", "condensed with", "victim", "accuracy %", "change, points",
        "success %", "free success %", "control trigger %", "lift, points", "lift of each seed", "levels", "carried",
    ]  # fmt: skip
    listed = "\n".join(f"- {line}" for case in found for line in verdicts(case))
    commits = revisions(source for case in found for one in case.seeds for source in one["sources"])
    parts = [title, setting(found), table(header, rows(found)), *of_bytes(found), listed, PAPER, absent(found), TRIED, f"{command} · commit {commits}"]  # fmt: skip
    return ["\n\n".join(parts) + "\n"]
