"""Lets a model answer every question of a manifest, with the right audio and under the controls; scores the answers."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import AudioError
from alm.common.terminal import progress
from alm.data.records import AUDIO_MARKER, AudioRef, Record
from encoders.audio.options import AudioOptions
from eval.errors import EvaluationError
from eval.models.base import Answer, Answerer, Message, Prompt
from eval.runner.batching import with_smaller_batches
from eval.runner.process_shards import Shards
from eval.scoring.correctness import answers_of
from eval.scoring.predictions import CONTROLS, HEADLINE, PREDICTIONS, Prediction, prediction_key
from eval.scoring.scores import Scores, check_scorable, score_predictions, write_scores
from eval.waveforms import Waveforms

# Batches whose audio is in memory at a time.
_BATCHES_PER_CHUNK = 16
ANSWER_MODES = ("generate", "rank")


@dataclass(frozen=True)
class _Question:
    """A record under one control."""

    record: Record
    control: str
    messages: list[Message]
    audio: tuple[AudioRef, ...]
    key: str
    ranked: bool = False


def evaluate_manifest(
    model: Answerer,
    records: Sequence[Record],
    out_dir: str | Path,
    *,
    limit: int | None = None,
    answer_by: str = "generate",
    groups: Sequence[str] = (),
    notes: Sequence[str] = (),
    scoring: Mapping[str, Any] | None = None,
    **answering: Any,
) -> Scores:
    """Answer every record under every control, appending to `predictions.jsonl`, then write `scores.json`.

    Before the first answer, `eval.scoring.scores.check_scorable` checks references, choices and metrics, so that
    no question is answered that cannot be scored. If `torchrun` has started several processes, they share the work, and
    the first one scores.

    Args:
        model: The model to evaluate.
        records: The questions, with references.
        out_dir: Folder of `predictions.jsonl` and `scores.json`.
        limit: Evaluate only the first `limit` records; the scores record this.
        answer_by: `generate`, or `rank` for the likeliest of the choices (questions without choices are generated).
        groups: Keys of the records' `meta` that are written beside the answers and that scores are broken down by.
        notes: Further remarks for readers of the scores.
        scoring: Further options of `eval.scoring.scores.score_predictions`.
        **answering: Further options of `answer_records`.

    Returns:
        The scores, as in `scores.json`; see `eval.scoring.scores.score_predictions`. Empty in all processes but
        the first, and if no record has a reference.

    Raises:
        EvaluationError: A bad limit, records that cannot be scored, or see `answer_records`.
        AudioError: A recording cannot be read.
    """
    chosen = _chosen(records, limit)
    options = dict(scoring or {})
    scorable = any(record.references for record in chosen)
    if scorable:
        check_scorable(chosen, ranked=answer_by == "rank", **options)
    lines = answer_records(model, chosen, out_dir, answer_by=answer_by, groups=groups, **answering)
    if lines is None or not scorable:
        return {}
    scores = score_predictions(
        chosen,
        lines,
        limited=len(chosen) < len(records),
        groups=groups,
        notes=[*notes, *model.remarks(), *_cut_recordings(lines)],
        **options,
    )
    write_scores(Path(out_dir) / "scores.json", scores)
    return scores


def _cut_recordings(lines: Sequence[Prediction]) -> list[str]:
    """A note on recordings that the model's processor truncates."""
    cut = [line for line in lines if "heard_s" in line and line["control"] == HEADLINE]
    if not cut:
        return []
    n_asked = sum(line["control"] == HEADLINE for line in lines)
    lost_s = sum(line["duration_s"] - line["heard_s"] for line in cut)
    return [
        f"{len(cut)} of {n_asked} questions are about recordings that the model's processor cuts: {lost_s:.0f} s of "
        f"{sum(line['duration_s'] for line in cut):.0f} s are not heard (heard_s in {PREDICTIONS})."
    ]


def answer_records(
    model: Answerer,
    records: Sequence[Record],
    out_dir: str | Path,
    *,
    controls: Sequence[str] = CONTROLS,
    batch_size: int = 16,
    title: str = "",
    seed: int = 0,
    prompt_version: str = "1",
    answer_by: str = "generate",
    rank_by: str = "length",
    groups: Sequence[str] = (),
    waveforms: Waveforms | None = None,
) -> list[Prediction] | None:
    """Answer every record under every control, appending to `predictions.jsonl`.

    A killed run resumes: answers whose key is in the file are reused. The longest clips come first: if memory runs out,
    it does so early, and the batch size is halved. Answers are written in batches; those of a model that takes all
    questions at once are written one by one, because they may cost money.

    Args:
        model: The model; its `model_id`, `max_new_tokens` and `differs` are part of the answers' keys.
        records: The questions.
        out_dir: Folder of `predictions.jsonl`.
        controls: Some of `CONTROLS`: `none` is the model with the record's own audio.
        batch_size: Samples per batch.
        title: Name of the progress bar; empty shows none.
        seed: Seed of the choice of other clips.
        prompt_version: Version of the benchmark's prompt and reader; part of the answers' keys.
        answer_by: `generate`, or `rank`; see `evaluate_manifest`.
        rank_by: How likelihoods are normalised, see `eval.models.likelihood`.
        groups: Keys of the records' `meta` that are written beside the answers.
        waveforms: Recordings that were read before; None starts without any.

    Returns:
        The lines of the predictions file with the answers to these questions; None in all processes but the first.

    Raises:
        EvaluationError: Unknown control, no records, a broken predictions file, `other_clip` with one clip only,
            choices that the model cannot rank, or a model that stopped answering.
        AudioError: A recording cannot be read.
    """
    if answer_by not in ANSWER_MODES:
        raise EvaluationError(f"answer_by is {answer_by!r}; expected one of {', '.join(ANSWER_MODES)}")
    if answer_by == "rank" and model.cannot_rank and any(record.choices for record in records):
        raise EvaluationError(f"answer_by=rank: {model.cannot_rank}; set answer_by=generate")
    identity = _identity(model, prompt_version, answer_by, rank_by)
    plan = [
        question
        for control in _known(controls)
        for question in _plan(records, control, model.model_id, identity, model.differs, seed)
    ]
    read = Waveforms() if waveforms is None else waveforms
    shards = Shards(Path(out_dir))
    with shards.open() as file:
        done = shards.known()
        shards.wait()  # all processes have read the answers that exist before any is added
        missing = shards.share(_longest_first([question for question in plan if question.key not in done]))
        if missing:
            seconds = sum(_length_s(ref) for question in missing for ref in question.audio)
            reused = [done[question.key] for question in plan if question.key in done]
            model.announce((_prompt(question, read, model) for question in missing), seconds, reused)
        with progress(title if shards.is_main else "", len(missing), "answer") as advance:
            for lines in _answer(model, missing, read, batch_size, rank_by, groups):
                file.append(lines)
                advance(len(lines))
    shards.wait()
    answered = None
    if shards.is_main:
        keys = {question.key for question in plan}
        answered = [line for line in shards.merge() if line["key"] in keys]
    shards.wait()
    return answered


def _identity(model: Answerer, prompt_version: str, answer_by: str, rank_by: str) -> dict[str, Any]:
    """The options that are part of the answers' keys.

    Their form stays, so that answers in files of earlier versions are reused.
    """
    identity = {"max_new_tokens": model.max_new_tokens, "do_sample": False, "prompt_version": prompt_version}
    identity |= AudioOptions.current().changes()
    return identity | ({"answer_by": answer_by, "rank_by": rank_by} if answer_by == "rank" else {})


def _prompt(question: _Question, read: Waveforms, model: Answerer) -> Prompt:
    """A question as the model gets it; its recordings are loaded when the model asks for them."""

    def clips() -> list[np.ndarray]:
        try:
            return [read.load(ref, model.sample_rate) for ref in question.audio]
        except AudioError as error:
            raise AudioError(f"{question.record.source or question.record.id}: {error}") from error

    return Prompt(question.messages, clips, question.record.choices, question.record.id)


def _answer(
    model: Answerer,
    questions: list[_Question],
    read: Waveforms,
    batch_size: int,
    rank_by: str,
    groups: Sequence[str],
) -> Iterator[list[Prediction]]:
    """Answer the questions; yield the lines of the predictions file in groups that are written at once."""

    def answer(batch: Sequence[_Question], at: Sequence[int], size: int) -> Iterator[tuple[int, Answer]]:
        prompts = [_prompt(batch[i], read, model) for i in at]
        return model.rank(prompts, size, rank_by) if batch[0].ranked else model.generate(prompts, size)

    size = batch_size
    for chunk in _chunks(questions, None if model.streams else batch_size * _BATCHES_PER_CHUNK):
        waiting: list[Prediction] = []
        found = with_smaller_batches(partial(answer, chunk), len(chunk), size)
        for count, ((index, said), size) in enumerate(found, start=1):
            question = chunk[index]
            # A recording that was not loaded: its length is read from the header.
            duration_s = sum(read.seconds.get(ref) or _length_s(ref) for ref in question.audio)
            waiting.append(_line(question, said, model.model_id, duration_s, groups))
            if model.streams or len(waiting) >= size or count == len(chunk):
                yield waiting
                waiting = []


def _longest_first(questions: list[_Question]) -> list[_Question]:
    """Sort questions by control, then by way of answering (generated, ranked), then by falling length."""
    order = {control: number for number, control in enumerate(CONTROLS)}
    lengths = {ref: _length_s(ref) for question in questions for ref in question.audio}

    def key(question: _Question) -> tuple[int, bool, float, int]:
        return (
            order[question.control],
            question.ranked,
            -sum(lengths[ref] for ref in question.audio),
            -sum(len(turn["content"]) for turn in question.messages),
        )

    return sorted(questions, key=key)


def _chunks(questions: list[_Question], size: int | None) -> Iterator[list[_Question]]:
    """Split questions into runs of at most `size`, each with one control and one way of answering.

    Without a size, the questions under all controls are one run.
    """
    for _, same in itertools.groupby(questions, key=lambda one: (one.control if size else "", one.ranked)):
        run = list(same)
        for start in range(0, len(run), size or len(run)):
            yield run[start : start + (size or len(run))]


def other_clips(records: Sequence[Record], seed: int = 0) -> list[tuple[AudioRef, ...]]:
    """For each record the audio of another clip, the same for all records of a clip.

    Every clip gives its audio to one other clip (a random cycle through all clips), so the control hears the same
    set of recordings as the model. If a clip has too few recordings, the next clips in the cycle add theirs.

    Args:
        records: At least two clips among them.
        seed: Seed of the cycle.

    Returns:
        As many references per record as its own audio has.

    Raises:
        EvaluationError: All records are about one clip.
    """
    of_clip: dict[str, tuple[AudioRef, ...]] = {}
    for record in records:
        known = of_clip.get(record.clip, ())
        of_clip[record.clip] = max(known, record.audio, key=len)
    cycle = sorted(clip for clip, audio in of_clip.items() if audio)
    if len(cycle) < 2:
        raise EvaluationError(
            "the control 'other_clip' needs records about at least two clips; remove it from 'controls'"
        )
    random.Random(seed).shuffle(cycle)
    place = {clip: index for index, clip in enumerate(cycle)}

    def borrowed(record: Record) -> tuple[AudioRef, ...]:
        refs: list[AudioRef] = []  # stays empty for a conversation without audio
        step = 1
        while len(refs) < len(record.audio):
            donor = cycle[(place[record.clip] + step) % len(cycle)]
            refs.extend(of_clip[donor] if donor != record.clip else ())
            step += 1
        return tuple(refs[: len(record.audio)])

    return [borrowed(record) for record in records]


def _chosen(records: Sequence[Record], limit: int | None) -> Sequence[Record]:
    if limit is not None and limit < 1:
        raise EvaluationError(f"limit is {limit}; expected at least 1, or none for all records")
    if not records:
        raise EvaluationError("there are no records to evaluate; give a manifest with at least one line")
    return records if limit is None else records[:limit]


def _known(controls: Sequence[str]) -> Sequence[str]:
    for control in controls:
        if control not in CONTROLS:
            raise EvaluationError(f"unknown control {control!r}; expected some of {', '.join(CONTROLS)}")
    if not controls:
        raise EvaluationError(f"no controls given; expected some of {', '.join(CONTROLS)}")
    return list(dict.fromkeys(controls))


def _plan(
    records: Sequence[Record],
    control: str,
    model_id: str,
    identity: dict[str, Any],
    decoding: Mapping[str, Any],
    seed: int,
) -> Iterator[_Question]:
    """The questions of one control; `decoding` is part of the keys of those that are not ranked."""
    borrowed = other_clips(records, seed) if control == "other_clip" else None
    for index, record in enumerate(records):
        audio = record.audio if borrowed is None else borrowed[index]
        messages = [dict(message) for message in record.prompt_messages]
        if control == "no_audio":
            audio = ()
            messages = [
                {**one, "content": one["content"].replace(AUDIO_MARKER, "").lstrip()} for one in messages
            ]
        ranked = identity.get("answer_by") == "rank" and bool(record.choices)
        key = prediction_key(
            model=model_id,
            prompt=messages,
            decoding=identity if ranked else {**identity, **decoding},
            sample=record.id,
            control=control,
            audio=[[ref.file_name, ref.state(), ref.start_s, ref.end_s] for ref in audio],
        )
        yield _Question(record, control, messages, audio, key, ranked)


def _length_s(ref: AudioRef) -> float:
    """Seconds of a clip; 0 if it cannot be read, which loading it then reports."""
    try:
        return ref.seconds()
    except AudioError:
        return 0.0


def _line(
    question: _Question, said: Answer, model_id: str, duration_s: float, groups: Sequence[str]
) -> Prediction:
    """A line of the predictions file."""
    record = question.record
    line: Prediction = {
        "id": record.id,
        "key": question.key,
        "model": model_id,
        "clip": record.clip,
        "kind": record.kind,
        "control": question.control,
        "question": record.question,
        "prediction": said.text,
        "references": list(answers_of(record)),
        "choices": list(record.choices),
        "duration_s": round(duration_s, 3),
    }
    if record.captions:
        line["caption"] = True
    if said.ranking is not None:
        line["ranking"] = [round(score, 6) for score in said.ranking]
    line |= said.extra
    values = {group: str(record.meta[group]) for group in groups if record.meta.get(group)}
    return {**line, "groups": values} if values else line
