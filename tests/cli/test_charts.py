"""Charts draw the numbers they are given, to scale, and nothing that comes from data is markup."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files
from xml.etree import ElementTree

import pytest

from cab_ops.cli.audit.html.charts import WIDTH, Bar, Column, Part, bars, lines, stacked_columns

PARTS = (Part("issued", "issued"), Part("refused", "refused"))
HOSTILE = '<script>alert("1")</script>'


def marks(chart: str, tag: str) -> list[dict[str, str]]:
    """The attributes of every mark of a kind, with its tooltip; fails when the chart is not well-formed."""
    root = ElementTree.fromstring(chart)  # noqa: S314 - our own output
    return [{**mark.attrib, "tip": mark.findtext("title") or ""} for mark in root.iter(tag)]


def test_columns_are_stacked_to_scale() -> None:
    chart = stacked_columns("n", PARTS, [Column("a", (30, 10)), Column("b", (0, 20))])
    first, second, third = marks(chart, "rect")
    heights = [float(mark["height"]) for mark in (first, second, third)]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)
    assert heights[2] == pytest.approx(2 * heights[1], rel=0.01)
    assert float(first["y"]) == pytest.approx(float(second["y"]) + heights[1], abs=0.11)
    assert [mark["tip"] for mark in (first, second, third)] == ["a: 30 issued", "a: 10 refused", "b: 20 refused"]


def test_bars_lie_side_by_side_with_their_sum() -> None:
    chart = bars("n", PARTS, [Bar("x", (3, 1)), Bar("y", (2, 0))])
    first, second, third = marks(chart, "rect")
    assert float(first["width"]) == pytest.approx(3 * float(second["width"]), rel=0.01)
    assert float(second["x"]) == pytest.approx(float(first["x"]) + float(first["width"]), abs=0.11)
    assert float(third["width"]) == pytest.approx(2 * float(second["width"]), rel=0.01)
    assert re.findall(r'class="value"[^>]*>([^<]+)<', chart) == ["4", "2"]


def test_lines_have_a_dot_for_every_value_and_join_them() -> None:
    chart = lines("n", PARTS, [Column("a", (1, 9)), Column("b", (2, 8)), Column("c", (3, 7))], unit=" ms")
    assert len(marks(chart, "circle")) == 6
    assert len([mark for mark in marks(chart, "line") if "stroke" in mark["class"]]) == 4
    assert marks(chart, "circle")[0]["tip"] == "a: issued 1 ms"


@pytest.mark.parametrize("count", [1, 24, 72, 365])
def test_time_labels_never_run_into_each_other_or_out_of_the_chart(count: int) -> None:
    chart = stacked_columns("n", PARTS, [Column(f"Nov {number}, 10:00", (1, 0)) for number in range(count)])
    places = [float(x) for x in re.findall(r'x="([\d.]+)" y="\d+" text-anchor="middle"', chart)]
    assert places
    assert all(right - left > 80 for left, right in itertools.pairwise(places))
    assert max(places) + 40 <= WIDTH


@pytest.mark.parametrize(
    ("largest", "top"), [(0, "2"), (1, "2"), (3, "3"), (9, "10"), (115, "120"), (1001, "1,200"), (99_999, "100,000")]
)
def test_the_axis_ends_at_a_round_number(largest: int, top: str) -> None:
    ticks = re.findall(
        r'class="tick"[^>]*text-anchor="end">([^<]+)<', stacked_columns("n", PARTS, [Column("a", (largest, 0))])
    )
    assert ticks[-1] == top


def test_what_comes_from_data_is_text() -> None:
    for chart in (
        bars(HOSTILE, PARTS, [Bar(HOSTILE, (1, 1))]),
        stacked_columns(HOSTILE, PARTS, [Column(HOSTILE, (1, 1))]),
        lines(HOSTILE, PARTS, [Column(HOSTILE, (1, 1))]),
    ):
        assert "<script" not in chart
        assert not list(ElementTree.fromstring(chart).iter("script"))  # noqa: S314 - our own output


def test_nothing_to_draw_is_an_empty_chart() -> None:
    assert marks(stacked_columns("n", PARTS, []), "rect") == []
    assert marks(bars("n", PARTS, []), "rect") == []
    assert marks(lines("n", PARTS, []), "circle") == []


def test_a_chart_is_whole_at_the_width_of_a_phone() -> None:
    """It shrinks with the page instead of being scrolled, so a bar takes all the width and its label stands above it."""
    css = files("cab_ops.cli.audit.html").joinpath("report.css").read_text("utf-8")
    assert "min-width" not in css.partition("svg {")[2].partition("}")[0]
    drawn = str(bars("n", [Part("issued", "issued")], [Bar("a" * 44, (2.0,)), Bar("b", (1.0,))]))
    assert [float(x) for x in re.findall(r'<rect class="issued" x="([\d.]+)"', drawn)] == [0.0, 0.0]
    assert 'class="label" x="0"' in drawn
    week = [Column(f"Nov {day}", (1.0,)) for day in range(19, 26)]
    shown = re.findall(
        r'class="tick( between)?"[^>]*>(Nov \d+)<', str(stacked_columns("n", [Part("issued", "i")], week))
    )
    assert [label for between, label in shown if not between] == ["Nov 19", "Nov 21", "Nov 23", "Nov 25"]
