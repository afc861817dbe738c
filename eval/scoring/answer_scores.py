"""The scores of one set of answers, kept as sums that can be resampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from alm.data.records import Record
from eval.errors import MetricError, MetricUnavailable
from eval.metrics import find_metric, load_metric
from eval.metrics.ranking import Ranking, average_precision, class_mean
from eval.metrics.record import ANSWERS, CAPTIONS, MetricRecord, ratio
from eval.parsing.choices import PARSER_VERSION
from eval.scoring.correctness import Correctness, answers_of, check_references, is_correct
from eval.scoring.label_similarity import LABEL_EMBEDDING, label_similarities, nearest
from eval.scoring.stats import Interval, difference_interval, mean_interval, ratio_interval, weighted_interval

DEFAULT_METRICS = ("bleu_4", "rouge_l", "cider_d")
"""Metrics that need neither Java nor a model; accuracy is always given for questions, mAP for ranked choices."""

BALANCED = "balanced"
"""Name of the mean accuracy over right answers (unweighted average recall), for classes of unequal size."""

ALWAYS = ("qa", "map", BALANCED)
"""Names of scores that come from right and wrong or from rankings, not from a metric of texts."""

# mAP is computed from a ranking of every resample.
_MAP_RESAMPLES = 500


@dataclass(frozen=True)
class AnswerScore:
    """Per-sample numbers behind one score: sums of `columns` through `statistic` give the score.

    Attributes:
        columns: (samples, K) numbers to be summed.
        statistic: Maps sums (R, K) to scores (R,).
        clips: The clip of each sample.
        proportion: Whether the first column is zeros and ones, and their mean the score.
        weighted: In place of `statistic`: maps weights (R, samples) to scores (R,), for scores of ranks.
        lower_is_better: Whether the score counts errors.
    """

    columns: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray]
    clips: list[str]
    proportion: bool = False
    weighted: Callable[[np.ndarray], np.ndarray] | None = None
    lower_is_better: bool = False

    def interval(self, seed: int) -> Interval:
        """The score with its 95 % interval."""
        if self.weighted is not None:
            return weighted_interval(self.clips, self.weighted, n_resamples=_MAP_RESAMPLES, seed=seed)
        if self.proportion:
            return mean_interval(self.columns[:, 0], self.clips, proportion=True, seed=seed)
        return ratio_interval(self.columns, self.clips, self.statistic, seed=seed)

    def of_samples(self, at: np.ndarray) -> "AnswerScore | None":
        """The score of some samples; None if it is not defined on them, for example an error rate without words.

        Args:
            at: Indices of the samples.
        """
        part = replace(self, columns=self.columns[at], clips=[self.clips[i] for i in at])
        return part if np.isfinite(self.statistic(part.columns.sum(axis=0, keepdims=True))).all() else None

    def gap(self, other: "AnswerScore", seed: int) -> Interval:
        """This score minus another arm's of the same samples, both on the same resampled clips."""
        if self.weighted is not None and other.weighted is not None:
            mine, theirs = self.weighted, other.weighted
            return weighted_interval(
                self.clips,
                lambda weights: mine(weights) - theirs(weights),
                bounds=(-1.0, 1.0),
                n_resamples=_MAP_RESAMPLES,
                seed=seed,
            )
        if self.proportion:
            return difference_interval(
                self.columns[:, 0], other.columns[:, 0], self.clips, proportion=True, seed=seed
            )
        width = self.columns.shape[1]
        return ratio_interval(
            np.hstack([self.columns, other.columns]),
            self.clips,
            lambda sums: self.statistic(sums[:, :width]) - other.statistic(sums[:, width:]),
            seed=seed,
        )


def is_costly(name: str) -> bool:
    """Whether a metric runs Java or a model.

    Raises:
        MetricError: No metric has that name or part.
    """
    return name == LABEL_EMBEDDING or (name not in ALWAYS and find_metric(name)[1].costly)


def score_answers(
    records: Sequence[Record],
    answers: Sequence[str | None],
    backends: dict[str, str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    require: Sequence[str] = (),
    absent: dict[str, str] | None = None,
    rankings: Sequence[Sequence[float] | None] | None = None,
    is_right: Correctness = is_correct,
) -> dict[str, AnswerScore]:
    """Score one answer per record.

    Args:
        records: The questions.
        answers: One per record; None is missing and counts as wrong, or as an empty caption.
        backends: Filled with how each number was made.
        metrics: Names of metrics or of their parts; each scores the records that it applies to.
        require: Further ones that must not be absent.
        absent: Filled with the scores that could not be computed, and why.
        rankings: Per record the scores of its choices, where choices were ranked; they add `ranking/map`.
        is_right: Decides whether an answer to a question is right.

    Raises:
        EvaluationError: A record without a reference.
        MetricUnavailable: A required metric is not installed, or does not apply to these records.
    """
    check_references(records)
    pairs = list(zip(records, answers, strict=True))
    captions = [pair for pair in pairs if pair[0].captions]
    questions = [pair for pair in pairs if not pair[0].captions]
    missing: dict[str, str] = {} if absent is None else absent
    asked = list(dict.fromkeys(name for name in [*metrics, *require] if name not in ALWAYS))
    by_text = [name for name in asked if name != LABEL_EMBEDDING]
    scores = _metric_scores("caption", CAPTIONS, captions, by_text, require, backends, missing)
    scores |= _question_scores(questions, backends, is_right)
    if questions and BALANCED in [*metrics, *require]:
        scores[f"qa/{BALANCED}"] = _balanced_score(questions, is_right)
        backends[f"qa/{BALANCED}"] = backends["qa/overall"]
    if rankings is not None and any(row is not None for row in rankings):
        reason = _why_no_map(records)
        if reason:
            missing["ranking/map"] = reason
        else:
            scores["ranking/map"] = _map_score(records, rankings)
            backends["ranking/map"] = "mean_average_precision[macro]"
    if questions and LABEL_EMBEDDING in asked:
        scores |= _label_scores(questions, backends, require, missing)
    scores |= _metric_scores("answer", ANSWERS, questions, by_text, require, backends, missing)
    for name in require:
        if not any(key.split("/")[1].startswith(name) for key in scores):
            raise MetricUnavailable(f"--require {name}: it applies to none of these records")
    return scores


def _metric_scores(
    prefix: str,
    kind: str,
    pairs: list[tuple[Record, str | None]],
    asked: Sequence[str],
    require: Sequence[str],
    backends: dict[str, str],
    absent: dict[str, str],
) -> dict[str, AnswerScore]:
    """Scores of the metrics that apply to one kind of record; a missing answer is an empty text."""
    if not pairs:
        return {}
    predictions = [answer or "" for _, answer in pairs]
    references = [list(answers_of(record)) for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    results: dict[str, dict[str, Any]] = {}
    scores: dict[str, AnswerScore] = {}
    for name in asked:
        metric, record, parts = find_metric(name)
        if kind not in record.applies_to:
            continue
        if metric not in results:
            try:
                further = record.options([one for one, _ in pairs]) if record.options else {}
                result = load_metric(metric).compute(
                    predictions=predictions, references=references, **further
                )
            except MetricUnavailable as error:
                if name in require or metric in require:
                    raise MetricUnavailable(f"--require {name}: {error}") from error
                absent[name] = str(error)
                continue
            assert result is not None  # None only in multi-process evaluate runs
            results[metric] = result
        for part in parts:
            backends[f"{prefix}/{part}"] = results[metric]["backend"]
            scores[f"{prefix}/{part}"] = _answer_score(part, record, results[metric], clips)
    return scores


def _answer_score(name: str, record: MetricRecord, result: dict[str, Any], clips: list[str]) -> AnswerScore:
    if record.of_sums is None:
        return _mean_score(result["per_sample"], clips, record.proportion, record.lower_is_better)
    columns = np.asarray(result["counts"], dtype=np.float64)
    statistic = partial(record.of_sums, name)
    if not np.isfinite(statistic(columns.sum(axis=0, keepdims=True))).all():
        raise MetricError(f"{name}: all references are empty; give at least one with text")
    return AnswerScore(columns, statistic, clips, lower_is_better=record.lower_is_better)


def _label_scores(
    pairs: list[tuple[Record, str | None]],
    backends: dict[str, str],
    require: Sequence[str],
    absent: dict[str, str],
) -> dict[str, AnswerScore]:
    """Accuracy and mAP of answers matched with the labels by text embedding."""
    records, answers = [record for record, _ in pairs], [answer for _, answer in pairs]
    try:
        if reason := _why_no_map(records):
            raise MetricUnavailable(reason)
        labels = records[0].choices
        similarities, backend = label_similarities(answers, labels)
    except MetricUnavailable as error:
        if LABEL_EMBEDDING in require:
            raise MetricUnavailable(f"--require {LABEL_EMBEDDING}: {error}") from error
        absent[LABEL_EMBEDDING] = str(error)
        return {}
    right = [
        float(index is not None and labels[index] in answers_of(record))
        for index, record in zip(nearest(similarities), records, strict=True)
    ]
    found = {
        f"qa/{LABEL_EMBEDDING}": _mean_score(right, [record.clip for record in records], proportion=True),
        f"ranking/{LABEL_EMBEDDING}_map": _map_score(records, similarities.tolist()),
    }
    backends |= dict.fromkeys(found, backend)
    return found


def _question_scores(
    pairs: list[tuple[Record, str | None]], backends: dict[str, str], is_right: Correctness
) -> dict[str, AnswerScore]:
    if not pairs:
        return {}
    right = [float(answer is not None and is_right(record, answer)) for record, answer in pairs]
    kinds = [record.kind for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    scores = {"qa/overall": _mean_score(right, clips, proportion=True)}
    for kind in sorted(set(kinds)):
        at = [index for index, other in enumerate(kinds) if other == kind]
        scores[f"qa/{kind}"] = _mean_score([right[i] for i in at], [clips[i] for i in at], proportion=True)
    for key in scores:
        backends[key] = f"accuracy[normalise=1,parse_choice={PARSER_VERSION}]"
    return scores


def _balanced_score(pairs: list[tuple[Record, str | None]], is_right: Correctness) -> AnswerScore:
    """Accuracy of the questions with each right answer, averaged over the right answers."""
    wanted = [answers_of(record)[0] for record, _ in pairs]
    at = {answer: place for place, answer in enumerate(sorted(set(wanted)))}
    columns = np.zeros((len(pairs), 2 * len(at)))
    for row, (record, answer) in zip(columns, pairs, strict=True):
        place = at[answers_of(record)[0]]
        row[[place, len(at) + place]] = float(answer is not None and is_right(record, answer)), 1.0

    def mean_recall(sums: np.ndarray) -> np.ndarray:
        right, asked = sums[:, : len(at)], sums[:, len(at) :]
        recalls = np.divide(right, asked, out=np.full_like(right, np.nan), where=asked > 0)
        return np.asarray(np.nanmean(recalls, axis=1))

    return AnswerScore(columns, mean_recall, [record.clip for record, _ in pairs])


def _map_score(records: Sequence[Record], rankings: Sequence[Sequence[float] | None]) -> AnswerScore:
    """Mean average precision over choices that all records share; a missing ranking puts all choices last."""
    choices = records[0].choices
    found = [np.asarray(row, dtype=np.float64) for row in rankings if row is not None]
    lowest = min(row.min() for row in found) - 1.0
    values = np.stack([np.full(len(choices), lowest) if row is None else np.asarray(row) for row in rankings])
    labels = np.array([[choice in answers_of(record) for choice in choices] for record in records])
    classes = [
        Ranking(column, wanted) for column, wanted in zip(values.T, labels.T, strict=True) if wanted.any()
    ]

    def mean_precision(weights: np.ndarray) -> np.ndarray:
        return np.asarray(np.nan_to_num(class_mean(classes, average_precision, weights)))

    clips = [record.clip for record in records]
    return AnswerScore(np.zeros((len(records), 2)), partial(ratio, ""), clips, weighted=mean_precision)


def _why_no_map(records: Sequence[Record]) -> str:
    """Why mean average precision is not defined for these records; empty if it is."""
    choices = records[0].choices
    if choices and all(record.choices == choices for record in records):
        return ""
    return "needs the same choices in every record, as in classification"


def _mean_score(
    values: Sequence[float], clips: list[str], proportion: bool = False, lower_is_better: bool = False
) -> AnswerScore:
    columns = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return AnswerScore(columns, partial(ratio, ""), clips, proportion, lower_is_better=lower_is_better)
