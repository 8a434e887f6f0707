"""Draw the figures of equal_utility.py and gradient_oracle.py as PNG beside their parts: `python benchmarks/utility_figures.py`.

The charts are those of the report (fedsim/report/plots.py); a headless Chromium on the PATH makes pictures of them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from kept_parts import ROOT, kept
from markupsafe import Markup
from PIL import Image
from utility_tables import KINDS, label, named, rate

from fedsim.report.html import png
from fedsim.report.numbers import axis_percent, count_bytes, short
from fedsim.report.plots import Axis, Series, line_chart
from fedsim.types import UserError

SHARE = Axis("share named", axis_percent, share=True)
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{}</title>{}<style>:root {{ color-scheme: light }} '
    "body {{ padding: 20px 24px }} .row {{ display: grid; grid-template-columns: repeat({}, 520px); gap: 26px 44px }} "
    "h3 {{ margin: 0 0 4px; font: 600 15px system-ui, sans-serif }} .row + h3 {{ margin-top: 24px }} img {{ image-rendering: pixelated; height: 52px; margin: 2px }} "
    '</style><div class="row">{}</div>{}</html>'
)


def chart(title: str, drawn: Markup) -> Markup:
    """A chart below its title."""
    return Markup("<div><h3>{}</h3>{}</div>").format(title, drawn)


def equal_charts(data: str) -> list[Markup]:
    """Identification, TPR and bytes over accuracy; hollow: private. Dashed: the null of another client."""
    parts = kept("equal_utility", f"{data}_")
    if not parts:
        return []
    names = sorted({part["settings"]["protocol"] for part in parts})
    x = Axis("accuracy on test, mean over runs", axis_percent)

    def series(of: str) -> list[Series]:
        found = []
        for part in parts:
            rates = rate(part)
            values = {
                "named": named(part["findings"])[0]["estimate"]["high"],
                "tpr": rates["high"] if rates else float("nan"), "bytes": part["uplink_bytes"] + part["downlink_bytes"],
            }  # fmt: skip
            colour, private = names.index(part["settings"]["protocol"]), part["settings"]["epsilon"] is not None
            text = label(part) + ("" if part["rounds"]["near"] else " (not near)")
            found.append(Series(text, [(part["accuracy"], values[of])], colour, dashed=private))
        return found

    nulls = [named(part["null"])[0]["estimate"]["high"] for part in parts]
    spread = [part["accuracy"] for part in parts]
    ends = [(min(spread), float(np.median(nulls))), (max(spread), float(np.median(nulls)))]
    null = Series("null", ends, 7, dashed=True, title="upper limit from another client's first round, median")
    return [
        chart("Named among candidates, upper confidence limit", line_chart("named", [*series("named"), null], x, Axis("upper limit", axis_percent))),
        chart("LiRA, TPR at 1% FPR, upper confidence limit", line_chart("TPR", series("tpr"), x, Axis("upper limit", axis_percent))),
        chart("Bytes up and down until this accuracy", line_chart("bytes", series("bytes"), x, Axis("bytes", count_bytes, log=True))),
    ]  # fmt: skip


def oracle_charts(data: str) -> list[Markup]:
    """Share named over n: inverted, by trace, by the set itself; fidelity of the oracle."""
    parts = kept("gradient_oracle", f"{data}_n")
    if not parts:
        return []
    x = Axis("records of the class, n", short, log=True)

    def lines(kinds: Sequence[str], dashed: str = "", colour: int = 0) -> Markup:
        series = [
            Series(KINDS[kind].partition(",")[0], [(one["records_per_class"], one["identified"][kind][0]) for one in parts],
                   number, dashed=kind == dashed)
            for number, kind in enumerate(kinds, colour)
        ]  # fmt: skip
        return line_chart(", ".join(kinds), series, x, SHARE)

    cosines = [
        Series(f"oracle of {name.upper()}", [(one["records_per_class"], one["cosine"][name][0]) for one in parts], 1 + number)
        for number, name in enumerate(("dm", "dc"))
    ]  # fmt: skip
    return [
        chart("Inverted gradients", lines(("fedsgd", "dm", "dc", "other"), "other")),
        chart("By trace, without inversion", lines(("trace.fedsgd", "trace.dm", "trace.dc"))),
        chart("The set itself, nearest in pixels", lines(("set.dm", "set.dc"), colour=1)),
        chart(
            "Cosine of the oracle's gradient with the true one", line_chart("cosine", cosines, x, Axis("median", short))
        ),
    ]


def examples(data: str) -> Markup:
    """Records of the first client, their sets, and inversions, for n = 1 and 4."""
    found = Markup("")
    for size in (1, 4):
        path = ROOT / "gradient_oracle" / f"{data}_n{size:03d}.npz"
        if path.is_file():
            with np.load(path) as kept_arrays:
                for name in kept_arrays.files:
                    images = torch.from_numpy(kept_arrays[name])
                    row = Markup("").join(Markup('<img src="{}">').format(png(one[None])) for one in images)
                    found += Markup("<h3>n = {}, {}</h3>{}").format(size, name.replace("_", " "), row)
    return found


def picture(path: Path, title: str, charts: list[Markup], below: Markup, columns: int, height: int) -> None:
    """Charts side by side as PNG."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise UserError("figures: no Chromium on the PATH; valid: one of chromium, chromium-browser, google-chrome")
    style = Markup(Environment(loader=PackageLoader("fedsim", "report")).get_template("style.html.j2").render())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(Markup(PAGE).format(title, style, columns, Markup("").join(charts), below), encoding="utf-8")
        size = f"--window-size={columns * 564 + 30},{height}"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={path}", page.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)
    print(path.relative_to(ROOT.parent.parent))


def main() -> None:
    """Every figure that has parts."""
    for data in ("digits", "mnist"):
        if charts := equal_charts(data):
            picture(ROOT / "equal_utility" / f"{data}.png", f"Equal utility, {data}", charts, Markup(""), 3, 400)
    for data in ("digits", "mnist", "cifar10_small"):
        if charts := oracle_charts(data):
            shown = examples(data)
            height = 780 + 92 * shown.count("<h3>")
            picture(ROOT / "gradient_oracle" / f"{data}.png", f"Gradient oracle, {data}", charts, shown, 2, height)


if __name__ == "__main__":
    main()
