"""The scores of one set of answers, kept as sums that can be resampled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alm.data.records import Record
from eval.errors import EvaluationError, MetricUnavailable
from eval.metrics import load_metric
from eval.metrics.bleu import bleu_of
from eval.metrics.mean_average_precision import class_precisions
from eval.parsing.choices import PARSER_VERSION, parse_choice
from eval.parsing.mentions import options_for
from eval.parsing.normalise import answers_match
from eval.scoring.label_similarity import LABEL_EMBEDDING, label_similarities, nearest
from eval.scoring.ranking import Ranking, average_precision
from eval.scoring.stats import Interval, difference_interval, mean_interval, ratio_interval, weighted_interval

ANSWER_METRICS = ("wer", "cer", LABEL_EMBEDDING)
DEFAULT_CAPTION_METRICS = ("bleu_4", "rouge_l", "cider_d")
# mAP has to rank anew for every resample.
_MAP_RESAMPLES = 500


@dataclass(frozen=True)
class ArmScore:
    """Per-sample numbers behind one score: sums of `columns` through `statistic` give the score.

    Attributes:
        columns: (samples, K) numbers to be summed.
        statistic: Maps sums (R, K) to scores (R,).
        clips: The clip of each sample.
        proportion: Whether the first column is zeros and ones, and their mean the score.
        per_sample: One number per sample, the mean of which says about the same as the score.
        weighted: In place of `statistic`: maps weights (R, samples) to scores (R,), for scores of ranks.
        lower_is_better: Whether the score counts errors.
    """

    columns: np.ndarray
    statistic: Callable[[np.ndarray], np.ndarray]
    clips: list[str]
    proportion: bool = False
    per_sample: np.ndarray | None = None
    weighted: Callable[[np.ndarray], np.ndarray] | None = None
    lower_is_better: bool = False

    def interval(self, seed: int) -> Interval:
        """The score with its 95 % interval."""
        if self.weighted is not None:
            return weighted_interval(self.clips, self.weighted, n_resamples=_MAP_RESAMPLES, seed=seed)
        if self.proportion:
            return mean_interval(self.columns[:, 0], self.clips, proportion=True, seed=seed)
        return ratio_interval(self.columns, self.clips, self.statistic, seed=seed)

    def gap(self, other: "ArmScore", seed: int) -> Interval:
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


def answers_of(record: Record) -> tuple[str, ...]:
    """Every answer that counts as right."""
    more = record.meta.get("answers")
    return tuple(more) if more else record.references


def is_correct(record: Record, prediction: str) -> bool:
    """Whether an answer to a question is right: the right choice, or equal to a reference after normalisation."""
    if not record.choices:
        return any(answers_match(prediction, reference) for reference in answers_of(record))
    options = options_for(record.choices)
    right = {options.same_as[record.choices.index(answer)] for answer in answers_of(record)}
    return parse_choice(prediction, record.choices) in right


def score_arm(
    records: Sequence[Record],
    answers: Sequence[str | None],
    backends: dict[str, str],
    caption_metrics: Sequence[str] = DEFAULT_CAPTION_METRICS,
    require: Sequence[str] = (),
    absent: dict[str, str] | None = None,
    rankings: Sequence[Sequence[float] | None] | None = None,
    answer_metrics: Sequence[str] = (),
) -> dict[str, ArmScore]:
    """Score one answer per record.

    Args:
        records: The questions.
        answers: One per record; None is missing and counts as wrong, or as an empty caption.
        backends: Filled with how each number was made.
        caption_metrics: Metrics of captions; those that need what is not here are left out.
        require: Of these, which must not be left out.
        absent: Filled with the metrics that were left out, and why.
        rankings: Per record the scores of its choices, where choices were ranked; they add `ranking/map`.
        answer_metrics: Of `ANSWER_METRICS`, what else to score answers to questions by: `answer/wer`, `answer/cer`,
            and `qa/label_embedding` with `ranking/label_embedding_map`.

    Raises:
        EvaluationError: A record without a reference.
        MetricUnavailable: A required metric needs what is not here, or does not apply to these records.
    """
    for record in records:
        if not record.references:
            raise EvaluationError(
                f"{record.source}: the record has no reference answer; add 'answer' or 'captions'"
            )
    pairs = list(zip(records, answers, strict=True))
    captions = [(record, answer) for record, answer in pairs if record.captions]
    questions = [(record, answer) for record, answer in pairs if not record.captions]
    missing: dict[str, str] = {} if absent is None else absent
    scores = {
        **_caption_scores(captions, backends, caption_metrics, require, missing),
        **_question_scores(questions, backends),
    }
    if rankings is not None and any(row is not None for row in rankings):
        scores["ranking/map"] = _map_score(records, rankings)
        backends["ranking/map"] = "mean_average_precision[macro]"
    if questions and LABEL_EMBEDDING in answer_metrics:
        scores |= _label_scores(questions, backends, require, missing)
    for name in (one for one in ("wer", "cer") if questions and one in answer_metrics):
        scores[f"answer/{name}"] = _error_rate(name, questions, backends)
    for name in require:
        if not any(key.split("/")[1].startswith(name) for key in scores):
            raise MetricUnavailable(f"--require {name}: nothing here is scored by it")
    return scores


def _error_rate(name: str, pairs: list[tuple[Record, str | None]], backends: dict[str, str]) -> ArmScore:
    """Edits per unit of the references, over the corpus; a missing answer is one that says nothing."""
    found = load_metric(name).compute(
        predictions=[answer or "" for _, answer in pairs],
        references=[list(answers_of(record)) for record, _ in pairs],
    )
    assert found is not None  # None only in multi-process evaluate runs
    backends[f"answer/{name}"] = found["backend"]
    columns = np.asarray(found["counts"], dtype=np.float64)  # (samples, edits and length)
    clips = [record.clip for record, _ in pairs]
    return ArmScore(columns, _ratio, clips, per_sample=np.asarray(found["per_sample"]), lower_is_better=True)


def _label_scores(
    pairs: list[tuple[Record, str | None]],
    backends: dict[str, str],
    require: Sequence[str],
    absent: dict[str, str],
) -> dict[str, ArmScore]:
    """Accuracy and mAP of answers matched with the labels by text embedding."""
    records, answers = [record for record, _ in pairs], [answer for _, answer in pairs]
    labels = _shared_choices(records)
    try:
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


def _caption_scores(
    pairs: list[tuple[Record, str | None]],
    backends: dict[str, str],
    names: Sequence[str],
    require: Sequence[str],
    absent: dict[str, str],
) -> dict[str, ArmScore]:
    if not pairs:
        return {}
    predictions = [answer or "" for _, answer in pairs]
    references = [list(record.captions) for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    results: dict[str, Mapping[str, Any]] = {}
    scores = {}
    for name in dict.fromkeys(one for asked in [*names, *require] for one in _single(asked)):
        metric = "bleu" if name.startswith("bleu_") else name
        if metric not in results:
            try:
                result = load_metric(metric).compute(predictions=predictions, references=references)
            except MetricUnavailable as error:
                if name in require or metric in require:
                    raise MetricUnavailable(f"--require {name}: {error}") from error
                absent[name] = str(error)
                continue
            assert result is not None  # None only in multi-process evaluate runs
            results[metric] = result
        found = results[metric]
        backends[f"caption/{name}"] = found["backend"]
        if metric == "bleu":
            order = int(name.removeprefix("bleu_"))
            columns = np.asarray(found["counts"], dtype=np.float64)
            samples = np.asarray(found["per_sample_by_key"][name])
            scores[f"caption/{name}"] = ArmScore(columns, _bleu(order), clips, per_sample=samples)
        else:
            scores[f"caption/{name}"] = _mean_score(found["per_sample"], clips)
    return scores


def _single(name: str) -> Sequence[str]:
    """The scores that a metric's name asks for."""
    if name in ANSWER_METRICS:
        return ()
    return [f"bleu_{order}" for order in range(1, 5)] if name == "bleu" else [name]


def _bleu(order: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: np.asarray(bleu_of(sums)[:, order - 1])


def _question_scores(pairs: list[tuple[Record, str | None]], backends: dict[str, str]) -> dict[str, ArmScore]:
    if not pairs:
        return {}
    right = [float(answer is not None and is_correct(record, answer)) for record, answer in pairs]
    kinds = [record.kind for record, _ in pairs]
    clips = [record.clip for record, _ in pairs]
    scores = {"qa/overall": _mean_score(right, clips, proportion=True)}
    for kind in sorted(set(kinds)):
        at = [index for index, other in enumerate(kinds) if other == kind]
        scores[f"qa/{kind}"] = _mean_score([right[i] for i in at], [clips[i] for i in at], proportion=True)
    for key in scores:
        backends[key] = f"accuracy[normalise=1,parse_choice={PARSER_VERSION}]"
    return scores


def _map_score(records: Sequence[Record], rankings: Sequence[Sequence[float] | None]) -> ArmScore:
    """Mean average precision over choices that all records share; a missing ranking puts all choices last."""
    choices = _shared_choices(records)
    found = [np.asarray(row, dtype=np.float64) for row in rankings if row is not None]
    lowest = min(row.min() for row in found) - 1.0
    values = np.stack([np.full(len(choices), lowest) if row is None else np.asarray(row) for row in rankings])
    labels = np.array([[choice in answers_of(record) for choice in choices] for record in records])
    classes = [
        Ranking(column, wanted) for column, wanted in zip(values.T, labels.T, strict=True) if wanted.any()
    ]

    def mean_precision(weights: np.ndarray) -> np.ndarray:
        found = np.stack([average_precision(*one.counts(weights)) for one in classes])
        there = ~np.isnan(found)  # a resample may hold no clip of a class
        return np.asarray(np.where(there, found, 0.0).sum(axis=0) / np.maximum(1, there.sum(axis=0)))

    assert np.isclose(
        mean_precision(np.ones((1, len(records))))[0], np.nanmean(class_precisions(values, labels))
    )
    clips = [record.clip for record in records]
    return ArmScore(np.zeros((len(records), 1)), _ratio, clips, weighted=mean_precision)


def _shared_choices(records: Sequence[Record]) -> tuple[str, ...]:
    choices = records[0].choices
    if not choices or any(record.choices != choices for record in records):
        raise EvaluationError("mAP needs the same choices in every record, as in classification")
    return choices


def _mean_score(values: Sequence[float], clips: list[str], proportion: bool = False) -> ArmScore:
    samples = np.asarray(values, dtype=np.float64)
    columns = np.stack([samples, np.ones(len(values))], axis=1)
    return ArmScore(columns, _ratio, clips, proportion, samples)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[:, 0] / sums[:, 1])
