"""The section on gradient leakage of docs/results.md, and its panels, from the chunks that gradient_leakage.py kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradient_measures import summary
from gradient_pairs import SIDES, summed
from gradient_parts import PAIRS, PARTS
from PIL import Image
from result_tables import revisions, table

from fedsim.data.pictures import grid, scaled

RESULTS = Path(__file__).parent / "results/gradient_leakage"
PANEL = 10
"""Records that a panel shows: the first of the draw."""
SCALE = 3

INTRO = (
    "What one gradient, or one update, says of the images it was made of; `benchmarks/gradient_leakage.py`. LeNet is that "
    "of DLG, for each image a new one with weights from U(−0.5, 0.5) (sigmoid) or U(−0.1, 0.1) (ReLU, softplus); ConvNet-3-64 "
    "(ReLU, instance norm) is untrained, one for all clients. Weights that wide and an untrained network make it easy: "
    "this is not the risk of a trained model. Recovered: mean squared error below 1e-3, pixels in 0..1. "
    "Identified: the true image is nearer than all others of its class beside it (99; of an ORL face 9), in brackets how "
    "often that is so for the reconstruction of another client's gradient. Restarts are chosen by the gradient loss, "
    "records were drawn beforehand, batches are matched by least squared error. Intervals are 95%: Clopper-Pearson's of "
    "shares, of order statistics of medians; records of one batch count as independent."
)


def kept(name: str) -> list[dict[str, Any]]:
    """Every chunk of a part, first problems first."""
    found = [json.loads(file.read_text()) for file in sorted((RESULTS / name).glob("*.json"))]
    return sorted(found, key=lambda chunk: chunk["problems"][0])


def gradients() -> list[str]:
    """The section, or where to get it from."""
    title = "## Gradient leakage\n"
    parts = {name: chunks for name in PARTS if (chunks := kept(name))}
    places = [f"{name}_{device}" for name in PAIRS for device in ("cpu", "cuda")]
    pairs = {place: chunks for place in places if (chunks := kept(place))}
    if not parts and not pairs:
        return [f"{title}\nNot run yet: `python benchmarks/gradient_leakage.py`.\n"]
    text = [title, INTRO + "\n"]
    if parts:
        text += [leak_table(parts) + "\n", row_sums(parts) + "\n"]
        text += [*(picture for name in parts if (picture := panel(name, parts[name])))]
    if pairs:
        text += [pair_table(pairs) + "\n"]
    return [*text, sources({**parts, **pairs}) + "\n"]


def leak_table(parts: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each part."""
    header = [
        "attack", "images", "labels right %", "recovered %", "identified %", "(other client %)", "median MSE", "median PSNR, dB",
        "median SSIM", "images a minute",
    ]  # fmt: skip
    rows = []
    for name, chunks in parts.items():
        found = summary([row for chunk in chunks for row in chunk["rows"]])
        seconds = sum(chunk["seconds"]["wall"] for chunk in chunks)
        other = found["chance"]
        rows.append([
            PARTS[name].title, str(found["records"]), *(percents(found[key]) for key in ("labels", "recovered", "identified")),
            f"({percents(other)})" if other else "", numbers(found["mse"], ".1e"), numbers(found["psnr"], ".1f"),
            numbers(found["ssim"], ".3f"), f"{60 * found['records'] / seconds:.1f}",
        ])  # fmt: skip
    return table(header, rows)


def row_sums(parts: dict[str, list[dict[str, Any]]]) -> str:
    """The labels by the published code's rule, where the paper's was used."""
    right = [
        f"{PARTS[name].title} {sum(one['row_sum_right'] for one in chunks)} of {sum(len(one['rows']) for one in chunks)}"
        for name, chunks in parts.items()
        if PARTS[name].attack == "idlg"
    ]
    words = "Labels by the sign of the rows' products, as iDLG's paper says; by the smallest row sum, as its code does, right are"
    return f"{words}: {'; '.join(right)}." if right else ""


def pair_table(pairs: dict[str, list[dict[str, Any]]]) -> str:
    """The batched solver beside the loop over images, for each attack and device."""
    header = [
        "attack", "on", "turns", "loop, images a minute", "batched, images a minute", "ratio (range over turns)", "of CPU time",
        "ratio per recovered image", "loop recovered %", "batched recovered %",
    ]  # fmt: skip
    rows = []
    for place, chunks in pairs.items():
        found = summed(chunks)
        wall, cpu = found["wall"], found["cpu"]
        rows.append([
            PARTS[PAIRS[place.rpartition("_")[0]]].title, "; ".join(sorted({where(chunk) for chunk in chunks})),
            str(found["turns"]), *(f"{wall['images_per_minute'][side]:.2f}" for side in SIDES),
            *(f"{clock['ratio']:.2f} ({clock['range'][0]:.2f} to {clock['range'][1]:.2f})" for clock in (wall, cpu)),
            f"{wall['per_recovered']:.2f}" if wall["per_recovered"] else "",
            *(f"{percents(found[side]['recovered'])} of {found[side]['images']}" for side in SIDES),
        ])  # fmt: skip
    words = (
        "The batched solver beside the published protocol, one image at a time with `torch.optim.LBFGS` (at most 300 steps of 20 "
        "iterations, lr 1), in turn in one process with the same threads; both end at a loss of 1e-6."
    )
    return f"{words}\n\n{table(header, rows)}"


def panel(name: str, chunks: Sequence[dict[str, Any]]) -> str | None:
    """Originals above reconstructions, as a PNG beside the chunks; the Markdown that shows it."""
    arrays = [np.load(file) for file in sorted((RESULTS / name).glob("*.npz"))]
    order = np.concatenate([one["problem"] for one in arrays]) if arrays else np.zeros(0)
    if not len(order):
        return None
    true, found = (np.concatenate([one[key] for one in arrays])[np.argsort(order)] for key in ("true", "found"))
    records = int(np.prod(true.shape[:2]))
    shown = torch.from_numpy(np.concatenate([one.reshape(-1, *one.shape[2:])[:PANEL] for one in (true, found)]))
    array = grid(shown, torch.arange(2).repeat_interleave(len(shown) // 2), per_row=PANEL)
    file = RESULTS / name / "panel.png"
    size = scaled(array, 1 if shown.shape[-1] > 64 else SCALE)
    Image.fromarray(array).resize(size, Image.Resampling.NEAREST).save(file)
    title = f"{PARTS[name].title}: the first {min(PANEL, records)} records of the draw, originals above"
    return f"![{title}](../benchmarks/results/gradient_leakage/{name}/panel.png)\n\n{title}.\n"


def where(chunk: dict[str, Any]) -> str:
    """The device and, on a CPU, its threads."""
    machine = chunk["machine"]
    return machine["gpu"] if chunk["device"] != "cpu" else f"{machine['processor']}, {machine['threads']} thread(s)"


def sources(parts: dict[str, list[dict[str, Any]]]) -> str:
    """Commits and machines behind the tables."""
    chunks = [chunk for found in parts.values() for chunk in found]
    commits = revisions(chunks)  # which say nothing of changes
    versions = sorted({chunk["machine"]["torch"] for chunk in chunks})
    files = sorted({chunk["file"] for chunk in chunks})
    return (
        f"`python benchmarks/gradient_leakage.py --parts …` · {', '.join(files)} (ORL: AT&T Laboratories Cambridge) · commit "
        f"{commits} · {'; '.join(sorted({where(chunk) for chunk in chunks}))} · torch {', '.join(versions)}"
    )


def percents(value: Sequence[float]) -> str:
    """A share and its interval."""
    return f"{100 * value[0]:.0f} [{100 * value[1]:.1f}, {100 * value[2]:.1f}]"


def numbers(value: Sequence[float], form: str) -> str:
    """A median and its interval."""
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"
