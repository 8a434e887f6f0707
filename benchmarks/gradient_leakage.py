"""DLG and iDLG on CIFAR-10 images as published, all at once: `python benchmarks/gradient_leakage.py --data FILE …`.

LeNetDLG with weights from U(−0.5, 0.5), one record a gradient, a network of its own for each image, pixels in 0..1 that are
not normalised. FILE is an .npz with `x_test` (n, 32, 32, 3) bytes and `y_test`. What is counted: labels that are right, and
images whose mean squared error is below 1e-3, with Clopper and Pearson's 95 % interval. `--activation` changes the network.

`--pairs` times the batched solver against a literal loop over images with torch.optim.LBFGS, as published (lr 1, 20
iterations a step, up to 300 steps, stop at a loss below 1e-6), in turn, in one process. The loop also stops where the loss is
not finite, which the published one does not: that favours it. Figures go to benchmarks/results/gradient_leakage/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pairs import machine
from scipy.stats import beta
from torch import Tensor, nn

from attacks.dlg import DLG
from attacks.dlg import Config as DLGConfig
from attacks.gradient_matching import Observed, Reconstruction, gradient, stack
from attacks.idlg import IDLG
from attacks.idlg import Config as IDLGConfig
from fedsim.audit.image_distances import mean_squared_error, psnr, ssim
from fedsim.config import dump
from fedsim.data.transforms import Normalise
from fedsim.models.functional import state
from fedsim.models.lenet import LeNetDLG, LeNetDLGConfig
from fedsim.models.network import Network, build_network, draw_uniform
from fedsim.seeding import numpy_stream, stream

RESULTS = Path(__file__).parent / "results/gradient_leakage"
SHAPE, CLASSES, SEED = (3, 32, 32), 10, 20
PLAIN = Normalise((0.0,) * 3, (1.0,) * 3)
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "softplus": lambda: nn.Softplus(10.0)}


@dataclass(frozen=True)
class Leaks:
    """Gradients of one image each, and what they came from."""

    observed: Observed
    networks: list[Network]
    pixels: Tensor
    labels: Tensor

    def part(self, rows: slice) -> Leaks:
        """Some of them."""
        seen = self.observed
        chosen = replace(
            seen,
            params={name: value[rows] for name, value in seen.params.items()},
            targets={name: value[rows] for name, value in seen.targets.items()},
        )
        return Leaks(chosen, self.networks[rows], self.pixels[rows], self.labels[rows])


def network(index: int, activation: str, bound: float) -> Network:
    """LeNetDLG number `index`."""
    made = build_network(LeNetDLG, LeNetDLGConfig(), SHAPE, CLASSES, stream(SEED, "network", index))
    for block in made.blocks:
        block[1] = ACTIVATIONS[activation]()  # pyright: ignore[reportIndexIssue]
    rng = stream(SEED, "weights", index)
    for parameter in made.parameters():
        draw_uniform(parameter, bound, rng)
    return made


def leaks(file: Path, count: int, activation: str, bound: float) -> Leaks:
    """Gradients of `count` random test images."""
    with np.load(file) as data:
        rows = numpy_stream(SEED, "images").permutation(len(data["y_test"]))[:count]
        pixels = torch.from_numpy(data["x_test"][rows]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(data["y_test"][rows]).long()
    networks = [network(index, activation, bound) for index in range(count)]
    targets = [
        gradient(made, state(made), image[None], label[None], torch.zeros(0))
        for made, image, label in zip(networks, pixels, labels, strict=True)
    ]
    observed = Observed(networks[0], stack([state(made) for made in networks]), stack(targets), SHAPE, CLASSES, PLAIN)
    return Leaks(observed, networks, pixels, labels)


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0


def summary(images: Tensor, found: Tensor, loss: Tensor, truth: Leaks) -> dict[str, Any]:
    """What was recovered."""
    errors = mean_squared_error(images, truth.pixels)
    hits = int((errors < 1e-3).sum())
    return {
        "images": len(errors),
        "labels_right": float((found == truth.labels).float().mean()),
        "recovered": hits,
        "recovered_share": hits / len(errors),
        "recovered_interval": clopper_pearson(hits, len(errors)),
        "median_mse": float(errors.median()),
        "median_psnr": float(psnr(images, truth.pixels).median()),
        "median_ssim": float(ssim(images, truth.pixels).median()),
        "median_gradient_loss": float(loss.median()),
        "mse": [float(f"{error:.3g}") for error in errors.tolist()],
        "gradient_loss": [float(f"{one:.3g}") for one in loss.tolist()],
    }


def attack(name: str, settings: dict[str, Any]) -> IDLG | DLG:
    """The attack by name."""
    return IDLG(IDLGConfig(**settings)) if name == "idlg" else DLG(DLGConfig(**settings))


def batched(truth: Leaks, attacker: IDLG | DLG) -> tuple[Reconstruction, dict[str, float]]:
    """All images at once, and the seconds it took."""
    clock, work = time.perf_counter(), time.process_time()
    found = attacker.reconstruct(truth.observed, None, stream(SEED, "start"))
    return found, {"wall": time.perf_counter() - clock, "cpu": time.process_time() - work}


def literal(truth: Leaks, name: str, index: int) -> tuple[Tensor, int, float, dict[str, float]]:
    """One image as published: pixels, label, loss, seconds."""
    made = truth.networks[index]
    weights = dict(made.named_parameters())
    targets = [truth.observed.targets[key][index] for key in weights]
    rng = stream(SEED, "literal", index)
    image = torch.randn(1, *SHAPE, generator=rng).requires_grad_()
    logits = torch.randn(1, CLASSES, generator=rng).requires_grad_()
    label = targets[list(weights).index("head.weight")].sum(1).argmin().view(1)
    unknown = [image] if name == "idlg" else [image, logits]
    clock, work = time.perf_counter(), time.process_time()
    optimiser = torch.optim.LBFGS(unknown, lr=1)

    def closure() -> Tensor:
        optimiser.zero_grad()
        share = label if name == "idlg" else logits.softmax(-1)
        ours = torch.autograd.grad(F.cross_entropy(made(image), share), list(weights.values()), create_graph=True)
        loss = torch.stack([(one - other).square().sum() for one, other in zip(ours, targets, strict=True)]).sum()
        loss.backward(inputs=unknown)
        return loss

    loss = float("inf")
    for _ in range(300):
        loss = float(optimiser.step(closure))  # pyright: ignore[reportArgumentType]
        if loss < 1e-6 or not np.isfinite(loss):
            break
    seconds = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - work}
    found = int(label if name == "idlg" else logits.argmax())
    return image.detach()[0].nan_to_num(nan=1e6), found, loss, seconds


def pairs(truth: Leaks, name: str, attacker: IDLG | DLG, turns: int, few: int) -> dict[str, Any]:
    """Turn by turn: `few` images by the literal loop, then all images of the turn, those among them, at once."""
    size = len(truth.labels) // turns
    slow: list[tuple[int, Tensor, int, float]] = []
    rows: list[dict[str, Any]] = []
    fast: list[Reconstruction] = []
    for turn in range(turns):
        first = turn * size
        seconds: list[dict[str, float]] = []
        for index in range(first, first + few):
            *found, spent = literal(truth, name, index)
            slow.append((index, *found))
            seconds.append(spent)
        recovered, spent = batched(truth.part(slice(first, first + size)), attacker)
        fast.append(recovered)
        row = {
            f"{side}_{clock}_per_image": value
            for clock in ("wall", "cpu")
            for side, value in (("literal", sum(s[clock] for s in seconds) / few), ("batched", spent[clock] / size))
        }
        rows.append(row)
        print(row, flush=True)
    kept = torch.tensor([index for index, *_ in slow])
    chosen = Leaks(truth.observed, truth.networks, truth.pixels[kept], truth.labels[kept])
    losses = torch.tensor([loss for *_, loss in slow])
    parts = [torch.cat([getattr(one, field) for one in fast]) for field in ("images", "labels", "gradient_loss")]
    whole = Leaks(truth.observed, truth.networks, truth.pixels[: size * turns], truth.labels[: size * turns])
    return {
        "turns": rows,
        "images_per_minute": {
            side: {clock: 60 / median(row[f"{side}_{clock}_per_image"] for row in rows) for clock in ("wall", "cpu")}
            for side in ("literal", "batched")
        },
        "ratio": {
            clock: median(row[f"literal_{clock}_per_image"] / row[f"batched_{clock}_per_image"] for row in rows)
            for clock in ("wall", "cpu")
        },
        "literal": summary(torch.stack([image for _, image, *_ in slow]), torch.tensor([x[2] for x in slow]), losses, chosen),
        "batched": summary(parts[0][:, 0], parts[1][:, 0], parts[2], whole),
    }  # fmt: skip


def main() -> None:
    """One attack, or the pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--attack", choices=("idlg", "dlg"), default="idlg")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="sigmoid")
    parser.add_argument("--bound", type=float, default=0.5, help="weights are drawn from U(−bound, bound)")
    parser.add_argument("--softplus", type=float, nargs="*", default=[], help="sharpness of the stages")
    parser.add_argument("--iterations", type=int, default=2500)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=0, metavar="TURNS")
    parser.add_argument("--few", type=int, default=4, help="images of a turn for the literal loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", required=True, help="of the file of results")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    names = ("iterations", "restarts", "tolerance", "width")
    attacker = attack(chosen.attack, {key: getattr(chosen, key) for key in names} | {"softplus": chosen.softplus})
    truth = leaks(chosen.data, chosen.images, chosen.activation, chosen.bound)
    if chosen.pairs:
        result = pairs(truth, chosen.attack, attacker, chosen.pairs, chosen.few)
    else:
        found, seconds = batched(truth, attacker)
        result = summary(found.images[:, 0], found.labels[:, 0], found.gradient_loss, truth)
        result |= {"seconds": seconds, "steps": found.iterations.tolist()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    network_of = {"name": "lenet_dlg", "activation": chosen.activation, "bound": chosen.bound}
    config = {"attack": dump(attacker.config), "network": network_of, "seed": SEED, "data": chosen.data.name}
    RESULTS.mkdir(parents=True, exist_ok=True)
    values = {"config": config, "commit": commit, "machine": machine(chosen.threads), **result}
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(values, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, list)}, indent=1))


if __name__ == "__main__":
    main()
