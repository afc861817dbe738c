"""Cheap proxies of an arm's score, and the rank correlation between proxies and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.ablation.claims import Scored, spearman, value_of

PROBE, EARLY, VALIDATION = "linear probe (mAP)", "early training loss", "validation loss"


@dataclass(frozen=True)
class Proxy:
    """One cheap metric over the arms of a track.

    Attributes:
        name: `PROBE`, `EARLY` or `VALIDATION`.
        values: Arm -> value, as measured.
        rho: Spearman's rank correlation with the score. A loss enters with a minus sign, so a positive rho is good for
            every proxy. Arms that share an encoder share its probe: they count once, with the mean of their scores.
            None with fewer than three values to rank.
        p: Its two-sided p-value, exact for few arms.
    """

    name: str
    values: dict[str, float]
    rho: float | None
    p: float | None


def proxies(scored: Sequence[Scored], key: str, early_share: float, exclude: str = "") -> list[Proxy]:
    """The proxies of all arms of one track.

    Args:
        scored: The arms.
        key: The score that they should predict.
        early_share: Share of the first tuned stage after which the early loss is read.
        exclude: The ceiling: an oracle is not a candidate, and would make every proxy look good.
    """
    arms = [one for one in scored if one.arm.name != exclude]
    found = []
    for name, sign in ((PROBE, 1), (EARLY, -1), (VALIDATION, -1)):
        values = {one.arm.name: _value(one, name, early_share) for one in arms}
        known = {arm: value for arm, value in values.items() if value is not None}
        full = {one.arm.name: value_of(one.pooled[key]) for one in arms}
        reached: dict[tuple[float, str], list[float]] = {}
        for arm, value in known.items():
            reached.setdefault((sign * value, "" if name == PROBE else arm), []).append(full[arm])
        rho, p = spearman(
            [value for value, _ in reached], [float(np.mean(group)) for group in reached.values()]
        )
        if known:
            found.append(Proxy(name, known, rho, p))
    return found


def _value(one: Scored, name: str, early_share: float) -> float | None:
    if name == PROBE:
        return one.arm.probe
    if name == EARLY:
        read = [early_loss(run.losses[0], early_share) for run in one.arm.scored if run.losses]
    else:
        read = [run.validation_loss for run in one.arm.scored]
    there = [value for value in read if value is not None]
    return float(np.mean(there)) if there else None


def early_loss(curve: Sequence[tuple[int, float]], share: float) -> float | None:
    """The last loss that was logged within the first `share` of the steps; None if there is none."""
    early = [loss for step, loss in curve if step <= share * curve[-1][0]]
    return early[-1] if early else None
