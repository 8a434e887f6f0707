"""A part of docs/results.md: NaiveAttack and DOORPING by whoever condenses (benchmarks/central_backdoors.py)."""

from __future__ import annotations

from central_cases import ATTACKS, NAMES, Case, cases, kept_parts
from central_settings import FORMS, METHODS
from central_words import PAPER, TRIED, setting
from result_tables import FEWEST, interval, revisions, spread, table


def row(case: Case, attack: str, victim: str) -> list[str]:
    """Means over seeds, and the lift of each."""
    seeds = case.holding(attack, victim)
    of = [one["victims"][victim] for one in seeds]
    lows, highs = zip(*(one["levels"] for one in seeds), strict=True)
    shares = [f"{max(one['carried']):.2f}" for one in seeds if one["carried"]]
    return [
        NAMES[case.data], f"`{case.method}`, {FORMS[case.form]}", str(case.steps), ATTACKS[attack],
        str(case.updates) if attack == "doorping" else "", f"`{case.model}`", f"`{victim}`",
        interval([one["accuracy"] for one in of]),
        interval([one["accuracy"] - one["accuracy_clean"] for one in of]),
        interval([one["success"] for one in of]), interval([one["free_success"] for one in of]),
        interval([one["random_patch"] for one in of]),
        interval([one["lift"] for one in of]), ", ".join(f"{100 * one['lift']:.1f}" for one in of),
        f"{min(lows):.0f} … {max(highs):.0f}", ", ".join(shares),
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
        "success %", "free success %", "random trigger %", "lift, points", "lift of each seed", "levels", "carried",
    ]  # fmt: skip
    listed = "\n".join(f"- {line}" for case in found for line in verdicts(case))
    commits = revisions(source for case in found for one in case.seeds for source in one["sources"])
    parts = [title, setting(found), table(header, rows(found)), listed, PAPER, absent(found), TRIED, f"{command} · commit {commits}"]  # fmt: skip
    return ["\n\n".join(parts) + "\n"]
