"""Pictures of an ablation, as SVG text that is the same whenever it is drawn from the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ablation",  # element names are random otherwise
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Spot:
    """An arm in a plot of score against cost."""

    name: str
    cost: float
    score: float
    low: float | None
    high: float | None


def pareto_plot(spots: Sequence[Spot], cost: str, score: str) -> str:
    """Score against cost, with intervals and the front: arms that no cheaper or equally cheap arm beats.

    Args:
        spots: The arms.
        cost: What the cost is, for the axis; drawn on a logarithmic scale where costs differ tenfold.
        score: What the score is.

    Returns:
        An `<svg>` element; empty without arms.
    """
    if not spots:
        return ""
    figure, axes = _figure(6.4, 4.2)
    for number, spot in enumerate(spots):
        below = 0.0 if spot.low is None else max(0.0, spot.score - spot.low)
        above = 0.0 if spot.high is None else max(0.0, spot.high - spot.score)
        axes.errorbar(spot.cost, spot.score, [[below], [above]], fmt="o", color=f"C{number % 10}", capsize=3)
        axes.annotate(
            spot.name, (spot.cost, spot.score), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    front = pareto_front(spots)
    axes.plot([s.cost for s in front], [s.score for s in front], "--", color="0.5", zorder=0)
    costs = [spot.cost for spot in spots]
    if min(costs) > 0 and max(costs) / min(costs) > 10:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel(cost)
    axes.set_ylabel(score)
    return _svg(figure)


def pareto_front(spots: Sequence[Spot]) -> list[Spot]:
    """The arms that no arm of at most their cost beats, by cost."""
    front: list[Spot] = []
    for spot in sorted(spots, key=lambda one: (one.cost, -one.score)):
        if not front or spot.score > front[-1].score:
            front.append(spot)
    return front


def curves_plot(curves: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Lines over one another; empty without points."""
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        return ""
    figure, axes = _figure(6.4, 4.2)
    for number, (name, points) in enumerate(drawn.items()):
        style = "-" if number < 10 else "--"
        axes.plot(*np.array(points).T, style, color=f"C{number % 10}", label=name, linewidth=1.3)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, title: str) -> str:
    """A table of numbers as colours with the numbers in them.

    Args:
        rows: Names, R of them.
        columns: Names, C of them.
        values: (R, C); NaN is left empty.
        title: What the numbers are.
    """
    if not len(rows) or not len(columns):
        return ""
    figure, axes = _figure(2.2 + 0.75 * len(columns), 1.4 + 0.34 * len(rows))
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = "black" if value > (low + high) / 2 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots()


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
