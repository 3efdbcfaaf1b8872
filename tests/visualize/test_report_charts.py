"""Charts as SVG: places are those of the values, gaps stay gaps, nothing to draw is an error; markup escapes."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.visualize.report.charts import (
    Scale,
    Series,
    bar_chart,
    difference_chart,
    legend,
    line_chart,
    scatter_chart,
)
from medssl_monai.visualize.report.embedding import tsne_map
from medssl_monai.visualize.report.markup import Markup, prose, tag, text
from medssl_monai.visualize.report.study_parts import budget_listing
from medssl_monai.visualize.report.words import count, duration, is_full, listing, number, percent, plural, span

WORDS = {"title": "A title", "description": "What it shows."}
AXES = {"x_label": "x", "y_label": "y"}


def test_a_scale_is_linear_or_logarithmic() -> None:
    assert [Scale(0, 10, 100, 200)(value) for value in (0, 2.5, 10)] == [100, 125, 200]
    assert [Scale(10, 1000, 0, 100, log=True)(value) for value in (10, 100, 1000)] == [0, 50, 100]
    assert Scale(0, 1, 300, 0)(0.25) == 225  # upwards
    assert all(value == int(value) for value in Scale(0.5, 4.5, 0, 1).ticks(5, integer=True))


def test_marks_lie_where_their_values_say() -> None:
    values = [0.2, 0.8, None, 0.5]
    one = Series("s", [(float(k), value) for k, value in enumerate(values)], intervals=[(0.0, 0.1, 0.3)])
    chart = line_chart([one], **WORDS, **AXES, y_range=(0.0, 1.0))
    marks = [(float(x), float(y)) for x, y in re.findall(r'd="M([\d.]+) ([\d.]+)m[^"]*" class="mark"', chart)]
    xs, ys = np.array(marks).T
    assert len(marks) == 3
    known = np.array([0.2, 0.8, 0.5])
    slope = (ys[1] - ys[0]) / 0.6
    np.testing.assert_allclose(ys, ys[0] + slope * (known - 0.2), atol=0.1)
    np.testing.assert_allclose((xs - xs[0]) / (xs[-1] - xs[0]), [0, 1 / 3, 1], atol=0.001)
    line = re.search(r'<path d="([^"]*)" class="curve"', chart)
    assert line is not None
    assert re.sub(r"[\d. ]+", "", line.group(1)) == "MLM"  # the gap is not bridged
    whisker = re.search(r'd="M[\d.]+ ([\d.]+)V([\d.]+)m', chart)
    assert whisker is not None
    np.testing.assert_allclose([float(y) for y in whisker.groups()], ys[0] + slope * np.array([-0.1, 0.1]), atol=0.1)


@pytest.mark.parametrize("high", [0.0372, 0.0745, 0.14, 0.28, 9.4])  # the last tick lies near the right end
def test_no_tick_of_a_difference_is_cut_off(high: float) -> None:
    chart = difference_chart([("5 %", high / 2, None, (-high / 3, high))], **WORDS, x_label="x")
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', chart).group(1))  # type: ignore[union-attr]
    ticks = re.findall(r'<text x="([\d.]+)"[^>]*class="tick">([^<]+)<', chart)
    assert len(ticks) >= 3
    for x, label in ticks:
        half = 7.5 * len(label) / 2  # a digit of 12 px is narrower than that in every usual font
        assert half <= float(x) <= width - half, label


@pytest.mark.parametrize("ends", [(0.69, 0.81), (0.0, 0.0004), (0.0, 11.0), (0.2, 0.9), (-0.05, 0.05)])
def test_an_axis_says_its_ticks_as_they_are(ends: tuple[float, float]) -> None:
    one = Series("s", [(0.0, ends[0]), (1.0, ends[1])])
    chart = line_chart([one], **WORDS, **AXES, y_range=ends)
    labels = [float(text.replace("−", "-")) for text in re.findall(r'text-anchor="end" class="tick">([^<]*)<', chart)]
    assert len(labels) >= 4
    # ticks are evenly spaced; rounded ones (0.73 for 0.725) would not be
    np.testing.assert_allclose(np.diff(labels), labels[1] - labels[0], rtol=1e-6)


def test_the_range_of_an_axis_can_be_given() -> None:
    one = Series("s", [(99.0, 0.2), (101.0, 0.4)])
    chart = line_chart([one], **WORDS, **AXES, x_log=True, x_range=(50.0, 200.0), x_ticks={100.0: "100\nall"})
    a, b = (float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+m[^"]*" class="mark"', chart))
    middle = float(re.findall(r'd="M([\d.]+) [\d.]+v4"', chart)[0])
    assert a < middle < b
    assert b - a < 10
    assert chart.count(">all</text>") == 1


def test_differences_lie_about_zero() -> None:
    rows = [("a", 0.1, [0.05, 0.15], [0.0, 0.2]), ("b", -0.1, None, None)]
    chart = difference_chart(rows, **WORDS, x_label="x")
    zero = float(re.findall(r'd="M([\d.]+) 8V\d+" class="axis"', chart)[0])
    marks = [float(x) for x in re.findall(r'd="M([\d.]+) \d+m[^"]*" class="mark"', chart)]
    assert marks[0] - zero == pytest.approx(zero - marks[1], abs=0.2)
    thick, thin = re.findall(r'd="M([\d.]+) \d+H([\d.]+)" class="whisker( thick)?"', chart)
    assert thick[2] == " thick"
    assert float(thin[0]) == zero
    assert float(thin[1]) - zero == pytest.approx(2 * (marks[0] - zero), abs=0.3)


def test_bars_are_as_high_as_their_counts() -> None:
    chart = bar_chart([0.0, 0.5, 1.0], [[3, 6], [0, 2]], **WORDS, labels=("x", "y"))
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="bar"', chart)]
    np.testing.assert_allclose(np.array(heights) / heights[1], [0.5, 1, 0, 1 / 3], atol=0.003)


def test_more_names_than_colours_differ_by_shape() -> None:
    names = [(f"n{k}", k) for k in range(20)]
    items = re.findall(r'<span class="(s\d)">.*?d="M20 8(m[^"]*)"', legend(names, lines=False))
    assert len(items) == len(set(items)) == 20
    chart = scatter_chart({name: [(float(k), 0.0)] for name, k in names}, **WORDS)
    assert len(set(re.findall(r'class="(s\d)"', chart))) == 7


@pytest.mark.parametrize(
    "draw",
    [
        lambda: line_chart([Series("a", [(0.0, None)])], **WORDS, **AXES),
        lambda: line_chart([], **WORDS, **AXES),
        lambda: difference_chart([], **WORDS, x_label="x"),
        lambda: scatter_chart({"a": []}, **WORDS),
        lambda: bar_chart([0.0, 1.0], [[0]], **WORDS, labels=("x", "y")),
    ],
)
def test_nothing_to_draw(draw) -> None:
    with pytest.raises(ValueError, match=r"^no values to draw$"):
        draw()


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-9, 1e6])
def test_one_value_alone_can_be_drawn(value: float) -> None:
    chart = line_chart([Series("a", [(1.0, value)])], **WORDS, **AXES)
    assert "nan" not in chart
    assert len(re.findall('class="tick"', chart)) >= 3


def test_a_map_is_the_same_every_time_and_keeps_neighbours() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 8)) + 30 * np.repeat(np.eye(3, 8), 20, axis=0)
    places = tsne_map(z.astype(np.float32))
    np.testing.assert_array_equal(places, tsne_map(z.astype(np.float32)))
    group = np.repeat(np.arange(3), 20)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(60, np.inf))
    assert (group[distance.argmin(axis=1)] == group).all()
    np.testing.assert_array_equal(tsne_map(np.ones((12, 4), np.float32)), np.zeros((12, 2)))


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.words += data


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))), st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_any_text_comes_back_as_it_was(words: str, value: str) -> None:
    page = Reader(tag("p", words, title=value))
    assert page.found == [("p", [("title", value)])]
    assert page.words == words


def test_markup() -> None:
    assert tag("p", ["a", None, Markup("<b>"), 3], class_="x", hidden=True, id=None) == '<p class="x" hidden>a<b>3</p>'
    assert tag("br") == "<br>"
    assert tag("meta", name="a", http_equiv="b") == '<meta name="a" http-equiv="b">'
    assert text("a\x00\ud800b") == "a\ufffd\ufffdb"
    assert prose("run `a < b` now") == "run <code>a &lt; b</code> now"
    assert prose("one ` only") == "one ` only"


def test_numbers_in_words() -> None:
    assert number(-0.1234, signed=True) == '<data value="-0.1234">−0.123</data>'
    assert number(0.5) == '<data value="0.5">0.500</data>'
    assert [number(value) for value in (None, math.nan, math.inf, True, "x")] == ["–"] * 5
    assert count(12345) == '<data value="12345">12,345</data>'
    assert [count(value) for value in (None, True, 1.5)] == ["–"] * 3
    assert [span(value) for value in (None, [1], "ab")] == ["–"] * 3
    assert [percent(value) for value in (0.05, 0.125, 1)] == ["5 %", "12.5 %", "100 %"]
    assert [duration(value) for value in (1.2, 89, 90, 5399, 5400, None)] == [
        "1 seconds", "89 seconds", "2 minutes", "90 minutes", "1.5 hours", "not recorded",
    ]  # fmt: skip
    assert [plural(1, "study"), plural(2, "study"), plural(1200, "image")] == ["1 study", "2 studies", "1,200 images"]
    assert [listing(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_budgets_are_listed_as_one_phrase() -> None:
    budgets = [
        {"name": "a", "label_fraction": 0.05}, {"name": "b", "label_fraction": 0.1}, {"name": "c", "label_budget": 40},
        {"name": "d", "label_fraction": 1.0}, {"name": "e", "label_fraction": None, "label_budget": None},
    ]  # fmt: skip
    study = {"budgets": budgets}
    assert budget_listing(study, ["a", "b"]) == "5 % and 10 % of the labels"
    assert budget_listing(study, ["a", "b", "d"]) == "5 % and 10 % of the labels and all labels"
    assert budget_listing(study, ["a", "c"]) == "5 % of the labels and 40 labels"
    assert budget_listing(study, ["a", "c", "b"]) == "5 % of the labels, 40 labels and 10 % of the labels"
    assert budget_listing(study, ["e"]) == "all labels"
    assert [is_full(budget) for budget in budgets] == [False, False, False, True, True]
