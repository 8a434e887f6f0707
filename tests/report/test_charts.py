"""What the report draws."""

from __future__ import annotations

import re
from pathlib import Path

from fedsim.federated.record import read_records, write_records
from fedsim.report.charts import accuracy_chart, loss_charts
from fedsim.report.collect import collect
from fedsim.report.html import render
from tests.report.test_collect import write_run


def test_the_median_of_the_clients_losses(tmp_path: Path) -> None:
    (chart,) = loss_charts(collect([write_run(tmp_path)])[0])
    assert "median of clients: 1, 3<" in chart
    assert "median of clients: 10, 1.25<" in chart


def test_accuracy_is_drawn_over_rounds_bytes_and_operations(tmp_path: Path) -> None:
    """Rounds of 1500 and 2500 bytes up, 12000 down each, and of 2 and 4 billion operations."""
    runs = collect([write_run(tmp_path)])
    places = {
        "round": ("round", ["1", "2"]),
        "bytes": ("bytes up and down", ["13.5 kB", "28 kB"]),
        "flops": ("client FLOPs", ["2 G", "6 G"]),
    }
    for over, (name, xs) in places.items():
        chart = accuracy_chart(runs, over)  # pyright: ignore[reportArgumentType]
        assert f"Accuracy on val by {name}" in chart
        for x, y in zip(xs, ("60%", "80%"), strict=True):
            assert re.search(rf"<title>[^<]*: {re.escape(x)}, {y}</title>", chart), (over, x)
        assert ("with random real images uploaded instead" in chart) == (over != "flops")


def test_operations_that_were_not_counted_are_not_drawn(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    records = read_records(path)
    for record in records:
        record.client_flops = None
    write_records(path, records)
    runs = collect([path])
    assert accuracy_chart(runs, "flops") == ""
    assert runs[0].client_flops is None
    assert "By what the clients computed" not in render(runs)
    assert "By what travelled, up and down" in render(runs)
