"""Scores of arms over seeds, paired tests against the baseline, and statements supported by these tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats as distributions

from eval.ablation.grid import NATIVE
from eval.ablation.results import ArmResult, Results, SeedRun
from eval.ablation.settings import metric_of
from eval.benchmarks import benchmark_of
from eval.errors import EvaluationError
from eval.reports.score_table import stated_p
from eval.scoring.answer_scores import DEFAULT_METRICS, AnswerScore, score_answers
from eval.scoring.correctness import is_correct
from eval.scoring.predictions import HEADLINE, records_of
from eval.scoring.significance import holm, permutation_p
from eval.scoring.stats import Interval

ALPHA = 0.05


@dataclass(frozen=True)
class Scored:
    """An arm's scores.

    Attributes:
        arm: The arm.
        seeds: Per seed, score name to score.
        pooled: Score name to the score over all seeds.
        controls: Control to score name to score, over the seeds that ran it.
    """

    arm: ArmResult
    seeds: dict[int, dict[str, AnswerScore]]
    pooled: dict[str, AnswerScore]
    controls: dict[str, dict[str, AnswerScore]]

    def interval(self, key: str) -> Interval:
        """A score over all seeds, with its 95 % interval from resampling clips."""
        return self.pooled[key].interval(0)

    def by_seed(self, key: str) -> dict[int, float]:
        """A score's value in each seed."""
        return {seed: value_of(scores[key]) for seed, scores in self.seeds.items()}


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline of its track, on the seeds that both have.

    Attributes:
        arm: Its name.
        baseline: The other's.
        difference: Arm minus baseline, with its 95 % interval.
        p: p-value of the paired permutation test that swaps whole clips.
        p_holm: Corrected for all comparisons of the ablation.
        by_seed: The difference in each seed.
    """

    arm: str
    baseline: str
    difference: Interval
    p: float
    p_holm: float
    by_seed: dict[int, float]

    @property
    def supported(self) -> bool:
        """Whether the test supports a difference, and every seed shows the same sign."""
        signs = {np.sign(value) for value in self.by_seed.values()}
        return self.p_holm < ALPHA and signs == {np.sign(self.difference.value)}

    def statement(self, percent: bool) -> str:
        """The comparison in words: an order only where the test supports it."""
        scale, unit = (100, " points") if percent else (1, "")
        ends = (self.difference.value, self.difference.low, self.difference.high)
        names = (self.arm, self.baseline)
        if self.supported and self.difference.value < 0:  # stated with the better arm first
            names, ends = names[::-1], (ends[0], ends[2], ends[1])
            scale = -scale
        value, low, high = (None if end is None else end * scale for end in ends)
        span = "" if low is None or high is None else f" [{low:+.3g}, {high:+.3g}]"
        numbers = f"{value:+.3g}{span}{unit}, {stated_p(self.p_holm)} (Holm)"
        if self.supported:
            seeds = f"in each of {len(self.by_seed)} seeds" if len(self.by_seed) > 1 else "in one seed"
            return f"{names[0]} > {names[1]} ({numbers}, {seeds})"
        why = "" if self.p_holm >= ALPHA else "; not every seed agrees"
        return f"no significant difference between {names[0]} and {names[1]} ({numbers}{why})"


def value_of(score: AnswerScore) -> float:
    """A score without its interval."""
    return float(score.statistic(score.columns.sum(axis=0, keepdims=True))[0])


def score_arms(results: Results) -> tuple[list[Scored], dict[str, str]]:
    """Score every arm that has answers, all on the same questions.

    Returns:
        The scored arms, and how each number was made.

    Raises:
        EvaluationError: Two runs answered different questions, or the answers lack the score by which arms are
            compared.
    """
    runs = [run for arm in results.arms for run in arm.scored]
    if not runs:
        return [], {}
    headlines = {id(run): _answers(run, HEADLINE) for run in runs}
    records = records_of([line for run in runs for line in headlines[id(run)].values()])
    benchmark = next(filter(None, (benchmark_of({"benchmark": run.benchmark}) for run in runs)), None)
    is_right = benchmark.is_right if benchmark else is_correct
    metrics = [*DEFAULT_METRICS, *metric_of(results.settings["scoring"]["score"])]
    backends: dict[str, str] = {}

    def score(arm: str, answers: Mapping[str, Any]) -> dict[str, AnswerScore]:
        if missing := [record.id for record in records if record.id not in answers]:
            raise EvaluationError(
                f"arm '{arm}': no answer to {missing[0]!r} and {len(missing) - 1} more that other runs answered; "
                "the runs were scored on different questions"
            )
        said = [answers[record.id]["prediction"] for record in records]
        return score_answers(records, said, backends, metrics, is_right=is_right)

    found = []
    for arm in results.arms:
        if not arm.scored:
            continue
        seeds = {run.seed: score(arm.name, headlines[id(run)]) for run in arm.scored}
        controls: dict[str, list[dict[str, AnswerScore]]] = {}
        for run in arm.scored:
            for control in dict.fromkeys(
                line["control"] for line in run.lines if line["control"] != HEADLINE
            ):
                controls.setdefault(control, []).append(score(arm.name, _answers(run, control)))
        pooled = {name: pool(scores) for name, scores in controls.items()}
        found.append(Scored(arm, seeds, pool(list(seeds.values())), pooled))
    key = results.settings["scoring"]["score"]
    if key not in found[0].pooled:
        raise EvaluationError(
            f"scoring.score: the answers have no score {key!r}, but {', '.join(found[0].pooled)}; give one of them"
        )
    return found, backends


def _answers(run: SeedRun, control: str) -> dict[str, Any]:
    return {line["id"]: line for line in run.lines if line["control"] == control}


def pool(scores: Sequence[dict[str, AnswerScore]]) -> dict[str, AnswerScore]:
    """Scores of the same questions in several seeds as one: the numbers of each sample averaged."""
    return {
        key: replace(first, columns=np.mean([one[key].columns for one in scores], axis=0))
        for key, first in scores[0].items()
    }


def compare(results: Results, scored: Sequence[Scored], key: str) -> list[Comparison]:
    """Every arm against the baseline of its track, p-values corrected over all of them."""
    base = results.settings["baseline"]
    by_name = {one.arm.name: one for one in scored}
    found = []
    for one in scored:
        names = [base, f"{base} @{one.arm.track}"]
        baseline = next((by_name[name] for name in names if name in by_name), None)
        if baseline is None or baseline is one or baseline.arm.track != one.arm.track:
            continue
        both = [seed for seed in one.seeds if seed in baseline.seeds]
        if not both:
            continue
        mine = pool([one.seeds[seed] for seed in both])[key]
        theirs = pool([baseline.seeds[seed] for seed in both])[key]
        p = permutation_p(mine.columns, theirs.columns, mine.clips, mine.statistic)
        by_seed = {seed: one.by_seed(key)[seed] - baseline.by_seed(key)[seed] for seed in both}
        found.append(Comparison(one.arm.name, baseline.arm.name, mine.gap(theirs, 0), p, p, by_seed))
    corrected = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def findings(
    settings: Mapping[str, Any], comparisons: Sequence[Comparison], scored: Sequence[Scored], key: str
) -> list[str]:
    """An ablation's result in three sentences: the arms, the gap to the floor, whether the baseline uses the audio.

    Args:
        settings: Settings of the ablation.
        comparisons: With the baseline.
        scored: The arms.
        key: The score.
    """
    if not scored:
        return []
    percent = key.startswith("qa/")
    shown = [one for one in comparisons if one.supported]
    better, worse = (sum(sign * one.difference.value > 0 for one in shown) for sign in (1, -1))
    base = settings["baseline"]
    first = (
        f"Of {len(comparisons)} arms compared with {base}, {better} are shown to be better, {worse} to be worse, and "
        f"{len(comparisons) - len(shown)} show no difference."
    )
    floor = next((one for one in comparisons if one.arm.split(" @")[0] == settings["floor"]), None)
    if floor is None:
        second = "No floor was compared with the baseline, so nothing here shows what a trained encoder buys."
    elif floor.supported and floor.difference.value < 0:
        second = f"A trained encoder helps: {floor.statement(percent)}."
    else:
        second = f"A trained encoder buys nothing here: {floor.statement(percent)}."
    own = next((one for one in scored if one.arm.name.split(" @")[0] == base), None)
    control = own.controls.get("other_clip", {}).get(key) if own else None
    if own is None or control is None or len(control.columns) != len(own.pooled[key].columns):
        return [first, second, f"No control with another clip's audio shows whether {base} listens."]
    gap = own.pooled[key].gap(control, 0)
    scale = 100 if percent else 1
    unit = " points" if percent else ""
    ends = (
        "" if gap.low is None or gap.high is None else f" [{gap.low * scale:+.1f}, {gap.high * scale:+.1f}]"
    )
    heard = gap.low is not None and gap.low > 0
    third = f"{base} {'listens' if heard else 'is not shown to listen'}: {gap.value * scale:+.1f}{ends}{unit} against"
    return [first, second, f"{third} another clip's audio."]


def statements(comparisons: Sequence[Comparison], scored: Sequence[Scored], key: str) -> list[str]:
    """Statements about all arms, in order of their score; an order only where a test supports it."""
    order = {one.arm.name: value_of(one.pooled[key]) for one in scored}
    ranked = sorted(comparisons, key=lambda one: -order[one.arm])
    found = [one.statement(key.startswith("qa/")) for one in ranked]
    for base in dict.fromkeys(one.baseline for one in ranked):
        mine = [one for one in ranked if one.baseline == base and one.supported]
        above = [one.arm for one in mine if one.difference.value > 0]
        below = [one.arm for one in mine if one.difference.value < 0]
        if above and below:
            found.insert(
                0, f"{_set(above)} > {base} > {_set(below)}: each comparison with {base} is supported"
            )
    return found


def _set(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else "{" + ", ".join(names) + "}"


def rank_stability(scored: Sequence[Scored], key: str, track: str = NATIVE) -> tuple[float | None, int]:
    """Mean Spearman correlation between the arms' order in two seeds, over pairs of seeds; None without two seeds.

    Returns:
        The correlation, and the number of arms in it.
    """
    arms = [one for one in scored if one.arm.track == track]
    seeds = [seed for seed in (arms[0].seeds if arms else ()) if all(seed in one.seeds for one in arms)]
    if len(seeds) < 2 or len(arms) < 3:
        return None, len(arms)
    columns = [[one.by_seed(key)[seed] for one in arms] for seed in seeds]
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    found = [spearman(a, b)[0] for a, b in pairs]
    kept = [rho for rho in found if rho is not None]
    return (float(np.mean(kept)) if kept else None), len(arms)


def spearman(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, float | None]:
    """Spearman's rank correlation and its two-sided p-value; None where one side is constant or too short."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None, None
    statistic = float(distributions.spearmanr(first, second).statistic)
    if len(first) > _MOST_EXACT:
        return statistic, float(distributions.spearmanr(first, second).pvalue)

    def rho(order: np.ndarray) -> float:
        return float(distributions.spearmanr(order, second).statistic)

    # Try every order: there are few arms.
    test = distributions.permutation_test(
        (np.asarray(first),), rho, permutation_type="pairings", n_resamples=np.inf
    )
    return statistic, float(test.pvalue)


_MOST_EXACT = 7
