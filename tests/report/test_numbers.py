"""Numbers as a reader sees them."""

from __future__ import annotations

from fedsim.report.numbers import count, count_bytes, count_flops, percent, points, short


def test_numbers_as_written() -> None:
    assert (percent(0.8997), points(-0.081), points(0.02), count(1374090)) == (
        "90.0%",
        "−8.1",
        "+2.0",
        "1,374,090",
    )
    operations = [count_flops(value) for value in (0, 999, 1000, 3.14e9, 999_600, 2.5e18)]
    assert operations == ["0", "999", "1 k", "3.14 G", "1 M", "2.5e+03 P"]
    sizes = [count_bytes(value) for value in (0, 999, 1000, 101310, 999_600, 1374090, 2.5e9, 7e12)]
    assert sizes == ["0 B", "999 B", "1 kB", "101 kB", "1 MB", "1.37 MB", "2.5 GB", "7 TB"]
    assert short(-0.0123456) == "−0.01235"
