"""The page in a real browser: Chromium lays it out in a frame of exactly the wanted width and measures.

A frame, because a headless window is never narrower than 500 px; media queries follow the frame's width.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedsim.report.html import write_report
from tests.report.test_collect import write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on PATH"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip

MEASURE = """
<script>
const frame = document.querySelector("iframe");
const size = (node) => { const box = node.getBoundingClientRect(); return [box.width, box.height]; };
frame.addEventListener("load", () => {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const found = {inner: view.innerWidth, closed: root.scrollWidth};
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  found.opened = root.scrollWidth;
  found.height = root.scrollHeight;
  found.charts = [...page.querySelectorAll("svg")].map(size);
  found.letters = [...page.querySelectorAll("svg.chart text")].map((one) => size(one)[1]);
  found.broken = [...page.images].filter((one) => !one.complete || one.naturalWidth === 0).length;
  found.images = page.images.length;
  found.requests = view.performance.getEntriesByType("resource").map((one) => one.name);
  found.paper = view.getComputedStyle(page.body).backgroundColor;
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


def browse(page: Path, width: int, *more: str, height: int = 900) -> subprocess.CompletedProcess[str]:
    """Show `page` in a frame of `width` px and do what `more` says (--dump-dom, --screenshot=FILE)."""
    style = f"border:0;width:{width}px;height:{height}px"
    frame = f'<iframe style="{style}" srcdoc="{html.escape(page.read_text())}">'
    outer = page.with_name(f"frame_{width}.html")
    head = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body style="margin:0">'
    outer.write_text(f"{head}{frame}</iframe>{MEASURE}")
    profile = page.parent / f"profile_{len(list(page.parent.iterdir()))}"
    window = f"--window-size={max(width, 500)},{height}"
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", window, *more, outer.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def measured(page: Path, width: int, *more: str) -> dict[str, Any]:
    done = browse(page, width, *more, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("pages")
    long = "<b>a reason without any blank " + "x" * 300
    one, two = write_run(out, "one", reason=long), write_run(out, "a_rather_long_name_of_a_run", done=False)
    paths = {"single": [one], "several": [one, two, two]}
    for name, runs in paths.items():
        write_report(runs, out / name / "page.html")
    return {name: out / name / "page.html" for name in paths}


@pytest.mark.parametrize("name", ["single", "several"])
@pytest.mark.parametrize("width", [1280, 390])
def test_layout(pages: dict[str, Path], name: str, width: int) -> None:
    found = measured(pages[name], width)
    assert found["inner"] == width
    assert found["closed"] <= width
    assert found["opened"] <= width
    assert found["broken"] == 0
    assert found["images"] > 20
    assert all(request.startswith("data:") for request in found["requests"])
    assert len(found["charts"]) >= 7
    assert all(wide >= 150 and high >= 50 for wide, high in found["charts"])
    assert min(found["letters"]) >= 9


def test_a_console_error_would_be_seen(pages: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = pages["single"].read_text()
    broken.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    with pytest.raises(AssertionError, match="CONSOLE"):
        measured(broken, 1280)


def test_a_page_too_wide_would_be_seen(pages: dict[str, Path], tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    text = pages["single"].read_text()
    wide.write_text(text.replace("</main>", '<div style="width:600px">x</div></main>'))
    assert measured(wide, 390)["closed"] > 390


@pytest.mark.parametrize("width", [1280, 390])
def test_screenshots_in_light_and_dark(pages: dict[str, Path], tmp_path: Path, width: int) -> None:
    paper = []
    for scheme in (1, 0):
        file = tmp_path / f"{scheme}.png"
        settings = f"--blink-settings=preferredColorScheme={scheme}"
        browse(pages["single"], width, settings, f"--screenshot={file}", height=2400)
        drawn = np.asarray(Image.open(file).convert("L"))[:2400, :width]
        assert drawn.shape[1] == width
        assert len(np.unique(drawn)) > 50
        assert all(band.std() > 5 for band in np.split(drawn, 4))
        paper.append(int(np.median(drawn)))
    assert paper[0] > 230
    assert paper[1] < 40
