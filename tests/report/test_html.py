from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedsim.experiment import execute
from fedsim.federated.record import read_records, write_records
from fedsim.report.charts import loss_charts
from fedsim.report.collect import collect
from fedsim.report.html import png, render, write_report
from fedsim.runs import RunDirectory
from fedsim.schema import Distillation, FederatedRun, resolve
from fedsim.types import UserError
from tests.report.pages import Page, page
from tests.report.test_collect import write_run


def test_one_run_says_what_a_reader_needs(tmp_path: Path) -> None:
    shown = page(write_run(tmp_path))
    for words in (
        "fake", "75.0 % test accuracy", "95% interval 70.0% to 80.0%, over 359 test images", "87.5%",
        "12.5 points below it", "40 synthetic for 1,294 real", "0.031 each", "seed 0 · finished", "2.5 s",
        "2 small cells", "no protection", "client 1, class 4, n = 1", "not uploaded, shown for comparison",
        "What was uploaded in round 2", "name: feddm", "ab" * 32, "2,500", "no reply", "it broke", "rejected",
    ):  # fmt: skip
        assert words in shown.text.replace("\xa0", " "), words
    assert shown.tags.count("svg") == 8
    assert "Comparison" not in shown.text


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = render(collect([write_run(tmp_path)]))
    assert all(address.startswith(("data:", "#")) for address in Page(text).addresses)
    assert "script" not in Page(text).tags
    assert re.findall(r"url\(|@import|https?://", text) == []
    assert text == render(collect([next(tmp_path.glob("fake/*"))]))


def test_words_from_clients_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script><img src=x onerror=y>"
    text = render(collect([write_run(tmp_path, reason=bad)]))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") == 2
    assert bad in Page(text).text


def test_errors_and_class_names_are_escaped(tmp_path: Path) -> None:
    path = write_run(tmp_path, done=False)
    run = RunDirectory(path)
    run.write_json("manifest", run.read_json("manifest") | {"status": "failed", "error": "<script>no</script>"})
    shown = page(path)
    assert "script" not in shown.tags
    assert "<script>no</script>" in shown.text


def test_several_runs_are_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path, "one")
    two = write_run(tmp_path, "two", done=False)
    three = write_run(tmp_path, "three", algorithm={"name": "fedavg"}, method=None)
    shown = page(one, two, three)
    assert "3 runs side by side" in shown.text
    table = re.findall(r"<tbody>(.*?)</tbody>", render(collect([one, two, three])), re.S)[0]
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in table.split("</tr>")[:3]]
    accuracies = "75.0% 70.0% to 80.0% 87.5% −12.5"
    assert rows[0].startswith(f"A one, seed 0 feddm · dm {accuracies} 2 4 kB 24 kB 6 G 2 40 1 1 none")
    assert rows[1].startswith("B two, seed 0 feddm · dm interrupted – – – 2 of 2 4 kB 24 kB 6 G – – 1 1 none")
    assert "C fedavg" in shown.text
    assert {"A control", "B feddm"} <= {word.strip() for word in shown.words}


def test_who_lies_and_what_defends_is_said_beside_the_accuracy(tmp_path: Path) -> None:
    liars = [{"name": "naive", "clients": [1]}, {"name": "direct", "clients": [2, 3]}]
    attacked = write_run(tmp_path, "attacked", done=False, attackers=liars, defenses=[{"name": "upload_checks"}])
    shown = page(write_run(tmp_path, "plain"), attacked)
    assert shown.text.count("attackers naive in the place of client 1; direct in the place of clients 2, 3") == 1
    assert shown.text.count("defences upload_checks") == 1


def test_runs_on_other_terms_are_called_incomparable(tmp_path: Path) -> None:
    shown = page(write_run(tmp_path, "one"), write_run(tmp_path, "two", model={"name": "lenet"}))
    assert "These runs differ in their scored model" in shown.text


def test_a_run_without_result_or_data_is_still_a_page(tmp_path: Path) -> None:
    path = write_run(tmp_path, done=False)
    assert "80.0% on val after round 2 of 2" in page(path).text
    rounds = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    rounds[-1]["metrics"] = {}  # nobody answered in the round in which the run failed
    (path / "rounds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rounds))
    assert "on val after round 1 of 2" in page(path).text
    for file in (
        *path.glob("checkpoints/*"),
        path / "manifest.json",
        path / "split.npz",
        path / "metrics.jsonl",
    ):
        file.unlink()
    shown = page(path)
    assert "seed 0 · unfinished" in shown.text
    assert "The private images cannot be shown for comparison" in shown.text
    assert "The data could not be loaded, so the real means are missing." in shown.text


def test_many_clients_are_folded_away(tmp_path: Path) -> None:
    path = write_run(tmp_path, partition={"name": "iid", "clients": 60})
    uploads = path / "synthetic" / "round_002"
    for client in range(2, 20):
        (uploads / f"client_{client:04d}.safetensors").write_bytes((uploads / "client_0000.safetensors").read_bytes())
    shown = page(path)
    assert "8 more" in shown.text
    assert "1 more blocks of 50 clients" in shown.text


def test_of_very_many_clients_the_first_are_listed_and_the_page_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path, partition={"name": "iid", "clients": 260})
    records = read_records(path)
    for record in records:
        record.asked = list(range(260))
        record.losses = {client: [(1, 2.0), (10, 1.0 + (client == 250))] for client in range(260)}
    write_records(path, records)
    shown = page(path)
    assert "The first 100 of 260 clients are shown one by one" in shown.text
    assert "1 more blocks of 50 clients" in shown.text
    (chart,) = loss_charts(collect([path])[0])
    assert "client 99<" in chart
    assert "client 100<" not in chart
    assert "client 250" in chart  # the worst of all
    assert "<td>99</td>" in (source := render(collect([path])))
    assert "<td>100</td>" not in source


def test_the_picture_of_a_column() -> None:
    images = torch.arange(3 * 2 * 2 * 5, dtype=torch.uint8).reshape(2, 3, 2, 5)
    for shown in (images, images[:, :1]):
        data = base64.b64decode(png(shown).removeprefix("data:image/png;base64,"))
        drawn = np.asarray(Image.open(io.BytesIO(data)))
        assert drawn.shape == (5, 5, 4)
        assert np.array_equal(drawn[:2, :, 1], shown[0, shown.shape[1] // 2])
        assert np.array_equal(drawn[3:, :, 0], shown[1, 0])
        assert drawn[2, :, 3].max() == 0


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run's folder"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_real_condensation(tmp_path: Path) -> None:
    raw = {
        "name": "central", "sets": 2, "data": {"name": "digits", "val": 0.1}, "model": {"name": "mlp"},
        "method": {"name": "dm", "ipc": 2, "iterations": 3},
        "evaluation": {"nets": 2, "train": {"epochs": 1}},
    }  # fmt: skip
    path = execute(resolve(Distillation, raw), tmp_path)
    shown = Page((path / "report.html").read_text())
    assert "The synthetic sets" in shown.text
    assert {"set 0", "set 1"} <= {word.strip() for word in shown.words}
    assert "Accuracy of each network" in shown.text
    assert "control: random subset" in shown.text
    assert "not uploaded" not in shown.text
    assert shown.tags.count("svg") == 2


@pytest.mark.slow
def test_a_real_federated_run_with_faults(tmp_path: Path) -> None:
    raw = {
        "name": "real", "rounds": 1, "data": {"name": "digits", "val": 0.1},
        "partition": {"name": "iid", "clients": 3}, "model": {"name": "mlp"}, "algorithm": {"name": "feddm"},
        "method": {"name": "dm", "ipc": 2, "iterations": 3}, "server": {"epochs": 1},
        "faults": [{"name": "nan", "client": 1}, {"name": "raise", "client": 2}],
    }  # fmt: skip
    path = execute(resolve(FederatedRun, raw), tmp_path)
    shown = Page((path / "report.html").read_text())
    assert "planned fault: client 2 raises in round 1" in shown.text
    assert "pixel values are not finite" in shown.text


def test_who_was_there_is_said_under_a_trace(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    records = read_records(path)
    records[0].available = [0, 1, 2, 5]
    write_records(path, records)
    assert "3 of 4 there" in Page(render(collect([path]))).text
