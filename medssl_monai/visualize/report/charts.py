"""Charts as inline SVG: every one has a title and a description, and takes its colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

from medssl_monai.visualize.report.markup import Markup, tag, text
from medssl_monai.visualize.report.styles import N_COLOURS

_WIDTH, _HEIGHT, _LEFT = 520, 330, 72
_DASHES = (None, "7 4", "2 3", "9 3 2 3")
#: outlines about the pen's place, of much the same area
_MARKERS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # circle
    "m-3.5-3.5h7v7h-7z",  # square
    "m0-5.2l4.8 8.4h-9.6z",  # triangle
    "m0-5l5 5l-5 5l-5-5z",  # diamond
    "m0 5.2l4.8-8.4h-9.6z",  # triangle, point down
    "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "m-4.2-2.1l2.1-2.1l2.1 2.1l2.1-2.1l2.1 2.1l-2.1 2.1l2.1 2.1l-2.1 2.1l-2.1-2.1l-2.1 2.1l-2.1-2.1l2.1-2.1z",  # cross
    "m-5-2.2h10v4.4h-10z",  # flat bar
)


@dataclass(frozen=True)
class Series:
    """Points of one name, with what is drawn about them.

    Attributes:
        name: in the legend.
        points: (x, y); a ``None`` leaves a gap.
        index: chooses colour, marker and dashes.
        intervals: (x, low, high).
        scatter: (x, y) of further small rings, such as single seeds.
        line: whether the points are joined.
        marks: whether the points are marked.
        hollow: positions of points drawn hollow.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    index: int = 0
    intervals: Sequence[tuple[float, float, float]] = ()
    scatter: Sequence[tuple[float, float]] = ()
    line: bool = True
    marks: bool = True
    hollow: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Scale:
    """Values to places on the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        turn: Callable[[float], float] = math.log if self.log else float
        share = (turn(value) - turn(self.low)) / (turn(self.high) - turn(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, number: int = 6, integer: bool = False) -> list[float]:
        """Round values inside the range."""
        found = MaxNLocator(nbins=number, integer=integer).tick_values(self.low, self.high)
        return [float(value) for value in found if self.low - 1e-9 <= value <= self.high + 1e-9]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    x_ticks: Mapping[float, str] | None = None,
    x_log: bool = False,
    x_integer: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    reference: tuple[float, Sequence[float] | None] | None = None,
    diagonal: bool = False,
) -> Markup:
    """Lines with intervals.

    Args:
        series: what is drawn.
        title: the text alternative, short.
        description: the text alternative, long: what the chart shows.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        x_ticks: places and texts on the horizontal axis; otherwise round numbers.
        x_log: whether the horizontal axis is logarithmic.
        x_integer: whether the round numbers are whole ones.
        x_range: limits; otherwise what is shown, with some room.
        y_range: limits; otherwise what is shown, with some room.
        reference: a horizontal line with its interval.
        diagonal: draws the line of equality.

    Raises:
        ValueError: when there is nothing to draw.
    """
    ends = [end for one in series for _, *interval in one.intervals for end in interval]
    shown = [y for one in series for _, y in [*one.points, *one.scatter] if y is not None] + ends
    xs = [x for one in series for x, _ in one.points] + list(x_ticks or ())
    if not shown:
        raise ValueError("no values to draw")
    if reference:
        shown += [reference[0], *(reference[1] or ())]
    x = Scale(*(x_range or _room(xs, 0.06, x_log)), _LEFT, _WIDTH - 14, x_log)
    y = Scale(*(y_range or _room(shown, 0.06)), _HEIGHT - 48, 14)
    parts = [*_grid(x, y, x_label, y_label, x_ticks, x_integer)]
    if reference:
        parts += _reference(reference, x, y)
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(tag("path", d=f"M{x(low)} {y(low)}L{x(high)} {y(high)}", class_="reference"))
    for one in series:
        parts.append(_draw(one, x, y))
    return svg(_WIDTH, _HEIGHT, title, description, *parts)


def _room(values: Sequence[float], share: float, log: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        factor = (high / low) ** share if high > low else 1.5
        return low / factor, high * factor
    room = share * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _grid(
    x: Scale, y: Scale, x_label: str, y_label: str, x_ticks: Mapping[float, str] | None, x_integer: bool
) -> list[Markup]:
    parts = []
    values = y.ticks()
    # as few digits as say every tick as it is: 0.725 must not read 0.73
    digits = next((d for d in range(8) if all(abs(round(value, d) - value) < 1e-9 for value in values)), 8)
    for value in values:
        place = y(value)
        label = f"{value:.{digits}f}".replace("-", "−")
        parts.append(tag("path", d=f"M{x.start} {place}H{x.end}", class_="rule"))
        parts.append(tag("text", label, x=x.start - 7, y=place + 4, text_anchor="end", class_="tick"))
    given = x_ticks or {value: f"{value:g}" for value in x.ticks(7, x_integer)}
    for value, words in given.items():
        for row, line in enumerate(words.split("\n")):
            parts.append(tag("text", line, x=x(value), y=y.start + 17 + 13 * row, text_anchor="middle", class_="tick"))
        parts.append(tag("path", d=f"M{x(value)} {y.start}v4", class_="axis"))
    middle = (x.start + x.end) / 2
    height = (y.start + y.end) / 2
    parts.append(tag("path", d=f"M{x.start} {y.end}V{y.start}H{x.end}", class_="axis"))
    parts.append(tag("text", x_label, x=middle, y=_HEIGHT - 3, text_anchor="middle"))
    turned = f"rotate(-90 14 {height})"
    parts.append(tag("text", y_label, x=14, y=height, text_anchor="middle", transform=turned))
    return parts


def _reference(reference: tuple[float, Sequence[float] | None], x: Scale, y: Scale) -> list[Markup]:
    value, interval = reference
    line = tag("path", d=f"M{x.start} {y(value)}H{x.end}", class_="reference")
    if not interval:
        return [line]
    top, bottom = y(interval[1]), y(interval[0])
    width, height = x.end - x.start, round(bottom - top, 1)
    return [tag("rect", x=x.start, y=top, width=width, height=height, class_="band"), line]


def _draw(one: Series, x: Scale, y: Scale) -> Markup:
    parts = []
    for place, low, high in one.intervals:
        parts.append(
            tag("path", d=f"M{x(place)} {y(low)}V{y(high)}m-4 0h8M{x(place) - 4} {y(low)}h8", class_="whisker")
        )
    if one.line:
        path, pen = [], "M"
        for place, value in one.points:
            path.append("" if value is None else f"{pen}{x(place)} {y(value)}")
            pen = "M" if value is None else "L"
        parts.append(tag("path", d="".join(path), class_="curve", stroke_dasharray=_dash(one.index)))
    for place, value in one.scatter:
        parts.append(tag("circle", cx=x(place), cy=y(value), r=2.2, class_="seed"))
    for position, (place, value) in enumerate(one.points if one.marks else ()):
        if value is not None:
            parts.append(_mark(one.index, x(place), y(value), position in one.hollow))
    return tag("g", *parts, class_=f"s{one.index % N_COLOURS}")


def _dash(index: int) -> str | None:
    return _DASHES[index % len(_DASHES)]


def _mark(index: int, x: float, y: float, hollow: bool = False) -> Markup:
    return tag("path", d=_outline(index, x, y), class_="mark hollow" if hollow else "mark")


def _outline(index: int, x: float, y: float) -> str:
    return f"M{x} {y}{_MARKERS[index % len(_MARKERS)]}"


def difference_chart(
    rows: Sequence[tuple[str, float, Sequence[float] | None, Sequence[float] | None]],
    *,
    title: str,
    description: str,
    x_label: str,
) -> Markup:
    """Differences with their 90 % (thick) and 95 % (thin) intervals about a line at zero.

    Args:
        rows: name, estimate, 90 % interval, 95 % interval.
        title: the text alternative, short.
        description: the text alternative, long.
        x_label: what the axis shows.

    Raises:
        ValueError: when there is nothing to draw.
    """
    if not rows:
        raise ValueError("no values to draw")
    height = 34 * len(rows) + 62
    values = [v for _, middle, *ends in rows for v in (0.0, middle, *(ends[0] or ()), *(ends[1] or ()))]
    left = 24 + 7.2 * max(len(name) for name, *_ in rows)
    # the last tick's text is centred on its place: half of it needs room to the right
    x = Scale(*_room(values, 0.06), min(left, _WIDTH / 2.2), _WIDTH - 32)
    floor = height - 46
    parts = []
    for value in x.ticks(5):
        label = f"{value:+.3g}".replace("-", "−") if value else "0"
        parts.append(tag("path", d=f"M{x(value)} 8V{floor}", class_="rule"))
        parts.append(tag("text", label, x=x(value), y=floor + 17, text_anchor="middle", class_="tick"))
    parts.append(tag("path", d=f"M{x(0)} 8V{floor}", class_="axis"))
    for row, (name, middle, inner, outer) in enumerate(rows):
        y = 26 + 34 * row
        parts.append(tag("text", name, x=x.start - 10, y=y + 4, text_anchor="end"))
        lines = [
            tag("path", d=f"M{x(ends[0])} {y}H{x(ends[1])}", class_=look)
            for ends, look in ((inner, "whisker thick"), (outer, "whisker"))
            if ends
        ]
        parts.append(tag("g", *lines, _mark(0, x(middle), y), class_="s0"))
    parts.append(tag("text", x_label, x=(x.start + x.end) / 2, y=height - 6, text_anchor="middle"))
    return svg(_WIDTH, height, title, description, *parts)


def scatter_chart(
    points: Mapping[str, Sequence[tuple[float, float]]], *, title: str, description: str
) -> Markup:  # fmt: skip
    """Points without axes, coloured and shaped by name.

    Raises:
        ValueError: when there is nothing to draw.
    """
    everything = [point for group in points.values() for point in group]
    if not everything:
        raise ValueError("no values to draw")
    side = 440
    xs, ys = zip(*everything)
    x, y = Scale(*_room(xs, 0.03), 8, side - 8), Scale(*_room(ys, 0.03), side - 8, 8)
    groups = [
        tag("g", tag("path", d="".join(_outline(index, x(a), y(b)) for a, b in group), class_="mark"),
            class_=f"s{index % N_COLOURS}")
        for index, group in enumerate(points.values())
    ]  # fmt: skip
    frame = tag("rect", x=0.5, y=0.5, width=side - 1, height=side - 1, class_="rule")
    return svg(side, side, title, description, frame, *groups)


def bar_chart(
    edges: Sequence[float],
    heights: Sequence[Sequence[float]],
    *,
    title: str,
    description: str,
    labels: tuple[str, str],
    x_ticks: Mapping[float, str] | None = None,
) -> Markup:
    """Counts in bins, one colour a series, side by side.

    Raises:
        ValueError: when there is nothing to draw.
    """
    highest = max((value for one in heights for value in one), default=0)
    if not highest:
        raise ValueError("no values to draw")
    x, y = Scale(edges[0], edges[-1], _LEFT, _WIDTH - 14), Scale(0, 1.06 * highest, _HEIGHT - 48, 14)
    parts = _grid(x, y, *labels, x_ticks, False)
    for index, one in enumerate(heights):
        bars = []
        for low, high, value in zip(edges, edges[1:], one):
            width = (x(high) - x(low) - 4) / len(heights)
            left = x(low) + 2 + index * width
            bars.append(
                tag("rect", x=round(left, 1), y=y(value), width=round(width, 1), height=round(y(0) - y(value), 1),
                    class_="bar")
            )  # fmt: skip
        parts.append(tag("g", *bars, class_=f"s{index % N_COLOURS}"))
    return svg(_WIDTH, _HEIGHT, title, description, *parts)


def legend(names: Sequence[tuple[str, int]], *, lines: bool = True, others: Sequence[tuple[str, str]] = ()) -> Markup:
    """Names with their colour, marker and dashes; ``others`` are further texts with the class of their line."""
    items = []
    for name, index in names:
        line = tag("path", d="M1 8H39", class_="curve", stroke_dasharray=_dash(index)) if lines else None
        sample = tag("svg", line, _mark(index, 20, 8), viewBox="0 0 40 16", aria_hidden="true")
        items.append(tag("li", tag("span", sample, class_=f"s{index % N_COLOURS}"), name))
    for name, look in others:
        sample = tag("svg", tag("path", d="M1 8H39", class_=look), viewBox="0 0 40 16", aria_hidden="true")
        items.append(tag("li", sample, name))
    return tag("ul", *items, class_="legend")


def svg(width: float, height: float, title: str, description: str, *parts: object) -> Markup:
    """A picture that a screen reader says the title and description of."""
    content = text(list(parts))
    box = f"0 0 {width} {height}"
    return tag(
        "svg", tag("title", title), tag("desc", description), content, viewBox=box, role="img",
        aria_label=f"{title}. {description}",
    )  # fmt: skip
