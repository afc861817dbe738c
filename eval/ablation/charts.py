"""The charts of an ablation's report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.ablation.claims import Comparison, Scored, value_of
from eval.ablation.results import SeedRun
from eval.reports.charts import Panel, Spot, forest_chart, heat_map, line_chart, pareto_chart
from eval.reports.sections import Picture


def pictures(
    scored: Sequence[Scored], key: str, comparisons: Sequence[Comparison] = ()
) -> dict[str, Picture]:
    """File name -> chart, of every chart that has something to show."""
    ends = {one.arm: (one.difference.value, one.difference.low, one.difference.high) for one in comparisons}
    unit, sides = ("points" if key.startswith("qa/") else key), ("worse", "better")
    base = ", ".join(dict.fromkeys(one.baseline for one in comparisons))
    label = f"{key}, %" if key.startswith("qa/") else key
    curves = {one.arm.name: mean_curve(one.arm.scored) for one in scored}
    kinds = sorted({name for one in scored for name in one.pooled if name.startswith("qa/")} - {"qa/overall"})
    values = np.array(
        [[100 * value_of(one.pooled[k]) if k in one.pooled else np.nan for k in kinds] for one in scored]
    )
    found = {
        "differences": forest_chart(
            [Panel(unit, ends, key.startswith("qa/"), sides)],
            title=f"Difference to {base}, paired, 95 % intervals without correction",
        ),
        "pareto-tokens": pareto_chart(
            _spots(scored, key, "tokens_per_s"),
            "LLM tokens per second of audio",
            label,
            "Score against tokens per second",
        ),
        "pareto-flops": pareto_chart(
            _spots(scored, key, "flops"),
            "FLOPs of the tuned stages",
            label,
            "Score against FLOPs of training",
        ),
        "curves": line_chart(
            curves,
            x_label="step, over all tuned stages",
            y_label="training loss",
            title="Learning curves, mean over seeds",
        ),
        "categories": heat_map(
            [one.arm.name for one in scored],
            [kind.removeprefix("qa/") for kind in kinds],
            values,
            "Accuracy per kind of question, %",
        ),
    }
    return {name: picture for name, picture in found.items() if picture}


def _spots(scored: Sequence[Scored], key: str, cost: str) -> list[Spot]:
    spots = []
    scale = 100 if key.startswith("qa/") else 1
    for one in scored:
        price = one.arm.tokens_per_s if cost == "tokens_per_s" else one.arm.cost.get(cost)
        found = one.interval(key)
        ends = [None if end is None else scale * end for end in (found.low, found.high)]
        if price is not None:
            spots.append(Spot(one.arm.name, price, scale * found.value, *ends))
    return spots


def mean_curve(runs: Sequence[SeedRun]) -> list[tuple[float, float]]:
    """The training loss, averaged over runs, at the steps that all runs have; tuned stages follow one another."""
    joined = []
    for run in runs:
        before, points = 0, dict[int, float]()
        for curve in run.losses:
            points |= {before + step: loss for step, loss in curve}
            before += curve[-1][0] if curve else 0
        joined.append(points)
    shared = sorted(set.intersection(*(set(points) for points in joined))) if joined else []
    return [(step, float(np.mean([points[step] for points in joined]))) for step in shared]
