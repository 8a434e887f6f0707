from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsim.report.heat_map import heat_map
from fedsim.report.plots import (
    Axis,
    Interval,
    Series,
    forest,
    line_chart,
    log_ticks,
    nice_ticks,
    wide_range,
)

PLAIN = Axis("x", str)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
@example(0.0, 5e-324)
def test_nice_ticks_enclose_the_range_evenly(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1e-12)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 12
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e6))
def test_log_ticks_are_positive_and_ascend(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert 2 <= len(ticks) <= 12
    assert all(a < b for a, b in zip([0.0, *ticks], ticks, strict=False))


def test_known_ticks() -> None:
    assert nice_ticks(0.81, 0.99) == [0.8, 0.85, 0.9, 0.95, 1.0]
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert Axis("round", str, whole=True).layout([1, 2, 3])[0] == [1, 2, 3]
    assert Axis("accuracy", str, share=True).layout([1.0])[0][-1] == 1.0
    assert Axis("accuracy", str, share=True).layout([0.0])[0][0] == 0.0


def test_axis_places_ends_and_middle() -> None:
    _, linear = Axis("x", str).layout([0.0, 10.0])
    _, log = Axis("x", str, log=True).layout([1.0, 100.0])
    assert (linear(0), linear(5), linear(10)) == (0, 0.5, 1)
    assert log(10) == pytest.approx(0.5)


def test_wide_range() -> None:
    assert wide_range([1, 11])
    assert wide_range([1, 11, math.nan])
    assert not wide_range([1, 9])
    assert not wide_range([0, 100])
    assert not wide_range([])


def test_lines_fall_where_their_values_are() -> None:
    svg = line_chart("t", [Series("a", [(0, 0), (10, 10)])], PLAIN, PLAIN)
    path = next(e for e in ElementTree.fromstring(svg).iter("path") if e.get("class") == "line c0")
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d") or "")]
    assert numbers == [54.0, 250.0, 416.0, 36.0]


def test_dashes_markers_and_hover_values() -> None:
    shown = [Series("a", [(1, 2), (2, 3)]), Series("b", [(1, 1), (2, 1)], 1, dashed=True)]
    svg = line_chart("Accuracy", shown, PLAIN, PLAIN)
    assert "line c1 dashed" in svg
    assert svg.count('class="mark c0"') == 2
    assert svg.count('class="mark c1 hollow"') == 2
    assert "<title>Accuracy</title>" in svg
    assert "a: 2, 3" in svg
    assert {"a", "b"} <= set(texts(svg))


def test_points_that_are_not_finite_are_left_out() -> None:
    svg = line_chart("t", [Series("a", [(1, math.nan), (2, 1.0), (3, math.inf)])], PLAIN, PLAIN)
    assert "nan" not in svg
    assert "inf" not in svg
    assert svg.count('class="mark') == 1
    assert line_chart("t", [Series("a", [(1, math.nan)])], PLAIN, PLAIN) == ""
    assert line_chart("t", [], PLAIN, PLAIN) == ""


@pytest.mark.parametrize("value", [0.05, 0.95])
def test_end_labels_do_not_cover_each_other(value: float) -> None:
    many = [Series(f"s{n}", [(0, 0.5), (1, value)], n) for n in range(5)]
    root = ElementTree.fromstring(line_chart("t", many, PLAIN, Axis("y", str)))
    places = sorted(float(e.get("y", 0)) for e in root.iter("text") if "label" in e.get("class", ""))
    assert len(places) == 5
    assert min(np.diff(places)) >= 16.9


def test_words_are_escaped() -> None:
    bad = '<script>alert("x")</script>'
    drawn = [
        line_chart(bad, [Series(bad, [(1, 1)], title=bad)], Axis(bad, str), Axis(bad, str)),
        heat_map(bad, np.array([[1]]), [bad], [bad], [[""]]),
        forest(bad, [Interval(bad, 0.5, (0.4, 0.6))], str, str),
    ]
    for svg in drawn:
        ElementTree.fromstring(svg)
        assert "<script" not in svg


def test_heat_map_shows_counts_sums_and_marks() -> None:
    svg = heat_map("t", np.array([[3, 0], [40, 5]]), ["0", "1"], ["cat", "dog"], [["tiny", ""], ["", "small"]])
    assert svg.count("<rect") == 3
    assert {"3", "40", "5", "45", "cat", "dog"} <= set(texts(svg))
    assert 'class="cell tiny"><title>client 0, class cat: 3' in svg
    assert 'class="cell small"><title>client 1, class dog: 5' in svg


def test_heat_map_without_classes_and_long_names() -> None:
    assert "<rect" not in heat_map("t", np.zeros((1, 2), np.int64), ["0"], ["a", "b"], [["", ""]])
    svg = heat_map("t", np.array([[1]]), ["0"], ["a very long class name"], [[""]])
    assert "rotate(-45)" in svg
    assert "a very lo…" in svg


def test_forest_has_whisker_dots_and_hollow_control() -> None:
    rows = [Interval("a", 0.8, (0.7, 0.9), [0.75, 0.85]), Interval("c", 0.6, None, control=True)]
    svg = forest("t", rows, str, lambda value: f"{value:.1f}")
    assert svg.count("whisker") == 1
    assert svg.count("<circle") == 2
    assert svg.count("hollow") == 1
    assert {"a", "c", "0.8", "0.6"} <= set(texts(svg))


def test_long_marks_leave_room_for_one_another() -> None:
    """All have their stroke; those that would run into the one before have no words."""
    axis = Axis("bytes", lambda value: f"{value:.0f}00 kB")
    svg = line_chart("t", [Series("a", [(0, 0), (7, 1)])], axis, PLAIN)
    marks = [one for one in ElementTree.fromstring(svg).iter("text") if one.get("class") == "tick middle"]
    places = [(float(one.get("x") or ""), len(one.text or "") * 9.5 / 2) for one in marks]
    assert len(places) > 2
    assert all(right - half > left + half_left for (left, half_left), (right, half) in pairwise(places))
