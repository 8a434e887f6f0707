"""How numbers are written on a page."""

from __future__ import annotations

Number = float | int


def percent(value: Number) -> str:
    """0.8997 → 90.0%."""
    return f"{100 * value:.1f}%"


def points(difference: Number) -> str:
    """−0.081 → −8.1, percentage points with their sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def axis_percent(value: Number) -> str:
    """0.85 → 85%, as many digits as needed."""
    return f"{100 * value:.6g}%"


def count(value: Number) -> str:
    """1374090 → 1,374,090."""
    return f"{value:,.0f}"


def count_bytes(value: Number) -> str:
    """1374090 → 1.37 MB, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            return f"{value:.3g} {unit}" if unit != "B" else f"{value:.0f} B"
        value /= 1000
    raise AssertionError("unreachable: TB always returns")


def count_flops(value: Number) -> str:
    """3140000000 → 3.14 G: operations, powers of 1000."""
    for unit in ("", " k", " M", " G", " T", " P"):
        if abs(value) < 999.5 or unit == " P":
            return f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError("unreachable: P always returns")


def short(value: Number) -> str:
    """Four significant digits."""
    return f"{value:.4g}".replace("-", "−")
