"""What `fedsim run` and `fedsim distill` print at the end: a result in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedsim.report.table import model_label


def summary(result: dict[str, Any]) -> list[str]:
    """What a reader wants to know at the end, in a few lines."""
    interval = result["accuracy_ci"]
    spread = f" [{interval[0]:.4f}, {interval[1]:.4f}] over {result['accuracy_over']}" if interval else ""
    lines = [f"test accuracy {result['accuracy']:.4f}{spread}"]
    if paid := result.get("privacy"):
        broken = [one["name"] for one in paid.get("assumptions", ()) if one["status"] == "violated"]
        more = f"; violated: {', '.join(broken)}" if broken else ""
        lines.append(
            f"  epsilon {result['epsilon']:.4g}, delta {result['delta']:g} for one record: {paid['label']}{more}"
        )
    for name, control in result["controls"].items():
        labels = control.get("labels", "hard")
        apart = f" ({labels} labels)" if labels != result["protocol"]["labels"] else ""
        apart = " (usual steps)" if "steps" in control else apart
        lines.append(f"  control {name}{apart}: {control['accuracy']:.4f}")
    if found := result.get("backdoor"):
        lines += _attacked(found)
    lines += _left_out(result.get("defenses", ()))
    for other in result.get("architectures") or ():
        lines.append(f"  {model_label(other['model'])}: {other['accuracy']:.4f}")
    if found := result.get("ranking"):
        lines.append(f"  label-robust {found['lrs']:.4f}, augmentation-robust {found['ars']:.4f} (hard labels)")
    if found := result.get("diversity"):
        means = ["no pair" if one["mean"] is None else f"{one['mean']:.4f}" for one in found["sets"]]
        lines.append(f"  mean cosine within classes, set by set: {', '.join(means)}")
    if result["synthetic_images"]:
        made, real = result["synthetic_images"], result["real_images"]
        lines.append(f"  {made} synthetic for {real} real images ({made / real:.3g} each)")
        if (released := result.get("synthetic_images_released", made)) > made:
            lines[-1] += f" a round, {released} released in all ({released / real:.3g} each)"
    if result.get("uplink_bytes"):
        lines.append(f"  uplink {result['uplink_bytes']:,} bytes, downlink {result['downlink_bytes']:,} bytes")
        lines.append(f"  {result['clients_failed']} clients failed, {result['uploads_rejected']} uploads rejected")
    return lines


def _attacked(found: dict[str, Any]) -> list[str]:
    """The backdoor in a line for each trigger."""
    lines = []
    for row in found["triggers"]:
        low, high = row["asr_ci"]
        text = (
            f"  backdoor of client {row['client']}: {row['asr']:.4f} [{low:.4f}, {high:.4f}] of {row['images']} stamped"
        )
        text += f" images taken for class {row['target']}; with a random patch {row['asr_random_patch']:.4f}"
        if "lift" in row:
            low, high = row["lift_ci"]
            text += f"; without attackers {row['asr_clean']:.4f}; lift {row['lift']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(text)
    return lines or [f"  backdoor: not measured, {found['why']}"]


def _left_out(rounds: Sequence[dict[str, dict[str, Any]]]) -> list[str]:
    """Whose uploads each filter left out, round by round."""
    lines = []
    for name in dict.fromkeys(name for verdicts in rounds for name in verdicts):
        flags = [[client for client, said in one.get(name, {}).items() if said[1]] for one in rounds]
        counts = [f"round {number}: {', '.join(clients)}" for number, clients in enumerate(flags, 1) if clients]
        whom = f"the uploads of clients ({'; '.join(counts)})" if counts else "nobody"
        lines.append(f"  defence {name} left out {whom}")
    return lines
