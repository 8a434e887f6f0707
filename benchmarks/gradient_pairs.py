"""The batched solver against a loop over images with torch.optim.LBFGS, in turn, in one process, with the same threads.

The loop is the published protocol: lr 1, 20 iterations a step, up to 300 steps, stop at a loss below 1e-6. It also stops
where the loss is not finite, which the published one does not: that favours it. A turn is a few images of the loop, then
all images of the turn at once, those among them; both sides are asked to end at the same loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from gradient_cases import SEED, Leaks, Pool, leaks
from gradient_measures import RECOVERED, finite
from gradient_parts import PAIRS, PARTS
from torch import Tensor

from attacks.gradient_matching import Matching, Observed
from attacks.unfolded import unfolded
from fedsim.audit.image_distances import mean_squared_error
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.privacy.owner import full_precision
from fedsim.seeding import stream

STEPS, TOLERANCE = 300, 1e-6
SIDES = ("literal", "batched")


def literal(truth: Leaks, attack: str, at: int, index: int) -> tuple[Tensor, int, float]:
    """One image as published: pixels (c, h, w), how often the gradient was asked for, loss."""
    made, seen = truth.networks[at], truth.observed
    weights = dict(made.named_parameters())
    targets = [seen.targets[name][at] for name in weights]
    device, rng = targets[0].device, stream(SEED, "literal", index)
    image = torch.randn(1, *seen.image_shape, generator=rng).to(device).requires_grad_()
    logits = torch.randn(1, seen.num_classes, generator=rng).to(device).requires_grad_()
    label = seen.targets["head.weight"][at].sum(1).argmin().view(1)
    unknown = [image] if attack == "idlg" else [image, logits]
    optimiser, asked = torch.optim.LBFGS(unknown, lr=1), 0

    def closure() -> Tensor:
        nonlocal asked
        asked += 1
        optimiser.zero_grad()
        share = label if attack == "idlg" else logits.softmax(-1)
        ours = torch.autograd.grad(F.cross_entropy(made(image), share), list(weights.values()), create_graph=True)
        loss = torch.stack([(one - other).square().sum() for one, other in zip(ours, targets, strict=True)]).sum()
        loss.backward(inputs=unknown)
        return loss

    loss = math.inf
    with full_precision():
        for _ in range(STEPS):
            loss = float(optimiser.step(closure).detach())  # pyright: ignore[reportArgumentType]
            if loss < TOLERANCE or not math.isfinite(loss):
                break
    return finite(image.detach()[0].cpu()), asked, loss


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it gives, and its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return made, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def quicker(truth: Leaks) -> tuple[Observed, str]:
    """What the attacker holds, with the network in the form whose gradient this device matches in less time.

    On a CPU as it is; on a GPU that, or with unfolded convolutions, whichever took less in three evaluations.
    """
    seen = truth.observed
    plain = next(iter(seen.targets.values()))
    if plain.device.type == "cpu":
        return seen, "as they are"
    forms = {"as they are": seen, "unfolded": replace(seen, network=unfolded(seen.network))}
    rows = torch.arange(seen.problems, device=plain.device)
    points = torch.randn(seen.problems, truth.pixels[0].numel(), generator=stream(SEED, "timing")).to(plain)
    seconds = {}
    for name, form in forms.items():
        matching = Matching(form, truth.labels.to(plain.device))
        matching(rows, points)
        _, spent = timed(lambda matching=matching: [matching(rows, points) for _ in range(3)])
        seconds[name] = spent["wall"] / 3
    print("seconds of an evaluation, convolutions", seconds, flush=True)
    name = min(seconds, key=lambda form: seconds[form])
    return forms[name], name


def turn(name: str, held: Pool, problems: Sequence[int], few: int, device: torch.device) -> dict[str, Any]:
    """One turn of the part `name`: its seconds an image on either side, and what each recovered."""
    part = PARTS[PAIRS[name]]
    truth = leaks(part, held, problems, device)
    slow, slow_seconds = timed(lambda: [literal(truth, part.attack, at, problems[at]) for at in range(few)])
    attacker, (seen, form) = part.attacker(len(problems)), quicker(truth)
    found, fast_seconds = timed(lambda: attacker.reconstruct(seen, None, stream(SEED, name, problems[0])))
    images = finite(found.images[:, 0].cpu())
    sides = {
        "literal": (torch.stack([image for image, *_ in slow]), slow_seconds, [asked for _, asked, _ in slow]),
        "batched": (images, fast_seconds, found.iterations.tolist()),
    }
    row: dict[str, Any] = {"problems": list(problems), "convolutions": form}
    for side, (made, seconds, steps) in sides.items():
        errors = mean_squared_error(made, truth.pixels[: len(made), 0])
        row[side] = {
            "images": len(made), "seconds": seconds, "steps": steps,
            "mse": [float(f"{error:.3g}") for error in errors.tolist()],
        }  # fmt: skip
    return row


def summed(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All turns: images a minute and their ratio, the median over turns and its range; what each side recovered.

    `per_recovered` is the ratio of the seconds spent on an image that was recovered, over all turns: an image that is
    given up early is no success.
    """
    found: dict[str, Any] = {"turns": len(turns)}
    hits = {}
    for side in SIDES:
        errors = [error for one in turns for error in one[side]["mse"]]
        hits[side] = sum(error < RECOVERED for error in errors)
        share = clopper_pearson(hits[side], len(errors))
        found[side] = {"images": len(errors), "recovered": [share.value, share.low, share.high]}
    for clock in ("wall", "cpu"):
        each = {side: [one[side]["seconds"][clock] / one[side]["images"] for one in turns] for side in SIDES}
        ratios = [slow / fast for slow, fast in zip(each["literal"], each["batched"], strict=True)]
        spent = {side: sum(one[side]["seconds"][clock] for one in turns) for side in SIDES}
        found[clock] = {
            "ratio": median(ratios), "range": [min(ratios), max(ratios)],
            "images_per_minute": {side: 60 / median(values) for side, values in each.items()},
            "per_recovered": (spent["literal"] / hits["literal"]) / (spent["batched"] / hits["batched"])
            if all(hits.values()) else None,
        }  # fmt: skip
    return found
