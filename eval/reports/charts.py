"""Charts of all reports, drawn by matplotlib as deterministic SVG: the same numbers give the same file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from alm.common.text import one_line
from eval.reports.sections import Picture

Points = Sequence[tuple[float, float]]
Triple = tuple[float, float | None, float | None]
"""A value with both ends of its interval, where it has one."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "alm",  # element names are random otherwise
    "svg.fonttype": "path",
    "font.size": 10,
    "text.parse_math": False,  # names of arms and kinds may hold a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
}
_MARKERS = "osD^v"  # series differ in marker as well as in colour
# More points than a chart has columns only make the page heavier.
_MOST_POINTS = 400
_LONGEST_LABEL = 48

Arguments = ParamSpec("Arguments")


def _styled(draw: Callable[Arguments, Picture | None]) -> Callable[Arguments, Picture | None]:
    """Let a chart be drawn in our style, without touching matplotlib's settings outside."""

    @wraps(draw)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Picture | None:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


@dataclass(frozen=True)
class Spot:
    """An arm in a plot of score against cost."""

    name: str
    cost: float
    score: float
    low: float | None
    high: float | None


@_styled
def line_chart(
    series: Mapping[str, Points], *, x_label: str, y_label: str, title: str, detail: str = ""
) -> Picture | None:
    """Draw lines over one another.

    Args:
        series: Per name its (x, y) points in order of x; values that are not finite are skipped.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        title: Caption.
        detail: Small print beside the caption.

    Returns:
        The chart; None where no series has a point.
    """
    drawn = {name: _finite(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return None
    figure, axes = _figure(6.4, 3.2)
    for number, (name, points) in enumerate(drawn.items()):
        marker = _MARKERS[number % len(_MARKERS)] if len(points) <= 30 else ""
        line = "-" if number < 10 else "--"
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            line,
            marker=marker,
            markersize=4,
            color=f"C{number % 10}",
            label=_label(name),
            linewidth=1.3,
        )
    axes.set_xlabel(_label(x_label))
    axes.set_ylabel(_label(y_label))
    if len(drawn) > 1:
        axes.legend(fontsize=8, frameon=False)
    return Picture(title, _svg(figure), detail)


@_styled
def interval_chart(
    rows: Mapping[str, Sequence[Triple | None]],
    series: Sequence[str] = ("",),
    *,
    title: str,
    percent: bool = True,
) -> Picture | None:
    """Draw scores as markers with their intervals, one row per name, one marker per series.

    Args:
        rows: Per row name and series (value, low, high), or None.
        series: Names of the series, in the order of each row's values.
        title: Caption.
        percent: Whether values are shares between 0 and 1, drawn in percent.

    Returns:
        The chart; None without rows.
    """
    if not rows:
        return None
    step, gap = 1.0, 1.4
    height = 0.17 * (len(rows) * (len(series) * step + gap)) + 0.9
    figure, axes = _figure(6.4, height)
    pitch = len(series) * step + gap
    for number, name in enumerate(series):
        style = {"fmt": _MARKERS[number % len(_MARKERS)], "color": f"C{number % 10}", "markersize": 5}
        for row, values in enumerate(rows.values()):
            value = values[number]
            if value is not None:
                _whisker(axes, value, row * pitch + number * step, 100 if percent else 1, **style)
        axes.errorbar([], [], label=_label(name), **style)
    middle = (len(series) - 1) * step / 2
    axes.set_yticks([row * pitch + middle for row in range(len(rows))], map(_label, rows), fontsize=9)
    axes.set_ylim(len(rows) * pitch - gap / 2 - step / 2, -gap / 2 - step / 2)
    if percent:
        axes.set_xlim(-2, 102)
        axes.set_xlabel("%")
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        figure.legend(loc="outside lower left", ncols=min(3, len(series)), fontsize=8, frameon=False)
    return Picture(title, _svg(figure))


@dataclass(frozen=True)
class Panel:
    """Differences of one scale in a forest plot.

    Attributes:
        unit: Unit, for the label of the axis.
        rows: Per name (difference, low, high).
        percent: Whether differences are of shares between 0 and 1, drawn in points.
        sides: Labels for differences below and above 0.
    """

    unit: str
    rows: Mapping[str, Triple]
    percent: bool
    sides: tuple[str, str]


@_styled
def forest_chart(panels: Sequence[Panel], *, title: str) -> Picture | None:
    """Draw differences with their intervals beside a line at 0; those whose interval includes 0 are hollow and grey.

    Args:
        panels: One axis each, below one another.
        title: Caption.

    Returns:
        The chart; None without rows.
    """
    panels = [panel for panel in panels if panel.rows]
    if not panels:
        return None
    from matplotlib.figure import Figure

    sizes = [len(panel.rows) + 2.6 for panel in panels]
    figure = Figure(figsize=(6.4, 0.27 * sum(sizes) + 0.2))
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.axvline(0, color="0.4", linewidth=1)
        for row, (value, low, high) in enumerate(panel.rows.values()):
            shown = low is not None and high is not None and not low <= 0 <= high
            color = "C0" if shown else "0.5"
            style = {
                "fmt": "s",
                "color": color,
                "markersize": 5,
                "capsize": 2,
                "markerfacecolor": color if shown else "w",
            }
            _whisker(axes, (value, low, high), row, 100 if panel.percent else 1, **style)
        axes.set_yticks(range(len(panel.rows)), map(_label, panel.rows), fontsize=9)
        axes.set_ylim(len(panel.rows) - 0.4, -0.6)
        widest = max(map(abs, axes.get_xlim()))
        axes.set_xlim(-widest, widest)
        axes.grid(visible=False, axis="y")
        below, above = map(_label, panel.sides)
        axes.set_xlabel(f"\u2190 {below}    {panel.unit}    {above} \u2192", fontsize=9)
    return Picture(title, _svg(figure))


@_styled
def pareto_chart(spots: Sequence[Spot], cost: str, score: str, title: str) -> Picture | None:
    """Score against cost, with intervals and the front: arms that no cheaper or equally cheap arm beats.

    Args:
        spots: The arms.
        cost: Label of the cost axis; its scale is logarithmic where costs differ tenfold.
        score: Label of the score axis.
        title: Caption.

    Returns:
        The chart; None without arms, and where all cost the same, which shows nothing.
    """
    if len({spot.cost for spot in spots}) < 2:
        return None
    figure, axes = _figure(6.4, 4.2)
    for number, spot in enumerate(spots):
        below = 0.0 if spot.low is None else max(0.0, spot.score - spot.low)
        above = 0.0 if spot.high is None else max(0.0, spot.high - spot.score)
        axes.errorbar(spot.cost, spot.score, [[below], [above]], fmt="o", color=f"C{number % 10}", capsize=3)
        axes.annotate(
            _label(spot.name), (spot.cost, spot.score), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    front = pareto_front(spots)
    axes.plot([s.cost for s in front], [s.score for s in front], "--", color="0.5", zorder=0)
    costs = [spot.cost for spot in spots]
    if min(costs) > 0 and max(costs) / min(costs) > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:.0e}")  # the default is mathtext, which `_STYLE` switches off
        axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.15)
    axes.set_xlabel(_label(cost))
    axes.set_ylabel(_label(score))
    return Picture(title, _svg(figure))


def pareto_front(spots: Sequence[Spot]) -> list[Spot]:
    """The arms that no arm of at most their cost beats, by cost."""
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (one.cost, -one.score)):
        if not front or spot.score > front[-1].score:
            front.append(spot)
    return front


@_styled
def heat_map(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, title: str) -> Picture | None:
    """A table of numbers as colours with the numbers in them.

    Args:
        rows: Names, R of them.
        columns: Names, C of them.
        values: (R, C); NaN stays empty.
        title: Caption: what the numbers are.
    """
    if not len(rows) or not len(columns) or not np.isfinite(values).any():
        return None
    figure, axes = _figure(2.2 + 0.75 * len(columns), 1.4 + 0.34 * len(rows))
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if value > (low + high) / 2 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=shade)
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), map(_label, columns), rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), map(_label, rows), fontsize=8)
    figure.colorbar(image)
    return Picture(title, _svg(figure))


def _label(text: str) -> str:
    """A name as a chart can draw it: on one line, printable, not wider than the chart."""
    line = one_line(text)
    return line if len(line) <= _LONGEST_LABEL else f"{line[: _LONGEST_LABEL - 1]}…"


def _whisker(axes: Any, triple: Triple, y: float, scale: float, **style: Any) -> None:
    value, low, high = triple
    ends = None
    if low is not None and high is not None:
        ends = [[scale * max(0.0, value - low)], [scale * max(0.0, high - value)]]
    axes.errorbar([scale * value], [y], xerr=ends, **style)


def _finite(points: Points) -> list[tuple[float, float]]:
    kept = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = math.ceil(len(kept) / _MOST_POINTS)
    return kept if stride <= 1 else [*kept[::stride], kept[-1]]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
