"""Asking a model every question of a manifest, with and without the right audio, and scoring its answers."""

import itertools
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alm.common.errors import AudioError
from alm.common.progress import progress
from alm.data.records import AUDIO_MARKER, AudioRef, Record
from alm.generation import generate_answers
from encoders.audio.options import AudioOptions
from eval.errors import EvaluationError
from eval.runner.batching import Answer, with_smaller_batches
from eval.runner.likelihood import rank_choices
from eval.runner.process_shards import Shards
from eval.scoring.correctness import answers_of
from eval.scoring.predictions import CONTROLS, Prediction, prediction_key
from eval.scoring.scores import Scores, check_scorable, score_predictions, write_scores

# Size limit of the waveform cache. Small test sets fit entirely; larger ones are streamed.
_CACHE_BYTES = 1 << 30
# Batches whose audio is in memory at a time.
_BATCHES_PER_CHUNK = 16
ANSWER_MODES = ("generate", "rank")

Message = dict[str, str]


class Generate(Protocol):
    """What answers questions: `alm.generation.generate_answers`, or anything that is called like it."""

    def __call__(
        self,
        model: Any,
        processor: Any,
        conversations: list[list[Message]],
        audios: list[list[np.ndarray]],
        max_new_tokens: int = ...,
        batch_size: int = ...,
        **options: Any,
    ) -> Iterator[tuple[int, str]]:
        """Yield (index of the conversation, answer) in any order."""


@dataclass(frozen=True)
class _Question:
    """One answer to be made."""

    record: Record
    control: str
    messages: list[Message]
    audio: tuple[AudioRef, ...]
    key: str
    ranked: bool = False


def evaluate_manifest(
    model: Any,
    processor: Any,
    records: Sequence[Record],
    out_dir: str | Path,
    *,
    model_id: str,
    controls: Sequence[str] = CONTROLS,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    limit: int | None = None,
    title: str = "",
    seed: int = 0,
    generate: Generate = generate_answers,
    prompt_version: str = "1",
    decoding: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    answer_by: str = "generate",
    rank_by: str = "length",
    groups: Sequence[str] = (),
    **scoring: Any,
) -> Scores:
    """Answer every record under every control, appending to `predictions.jsonl`, then write `scores.json`.

    A killed run resumes: answers whose key is in the file are reused. The longest clips come first, so that memory
    runs out early if it does; the batch size is then halved. Started by `torchrun`, the processes share the work and
    the first one scores. Before the first answer, `eval.scoring.scores.check_scorable` checks references, choices and
    metrics, so that nothing is answered that cannot be scored.

    Args:
        model: The audio-language model.
        processor: Its processor; its `sample_rate` (Hz) is what audio is loaded at.
        records: What to ask, with references.
        out_dir: Folder of `predictions.jsonl` and `scores.json`.
        model_id: Identity of the model, such as `alm.checkpoint.model_id_of`; part of the answers' keys.
        controls: Which of `CONTROLS` to run; `none` is the model as it is.
        batch_size: Samples per batch.
        max_new_tokens: Longest answer, in tokens.
        limit: Only the first so many records; the scores say so.
        title: Name of the progress bar; empty shows none.
        seed: Seed of the choice of other clips.
        generate: Function that generates the answers.
        prompt_version: Version of the benchmark's prompt and reader; part of the answers' keys.
        decoding: The settings that differ from neutral greedy decoding (`alm.decoding.beyond_greedy`); part of the
            keys of generated answers. None stands for neutral greedy decoding.
        options: Further arguments of `generate`, for example `do_sample`.
        answer_by: `generate`, or `rank` for the likeliest of the choices (questions without choices are generated).
        rank_by: How likelihoods are normalised, see `eval.runner.likelihood`.
        groups: Keys of the records' `meta` that are written beside the answers and that scores are broken down by.
        **scoring: Further options of `eval.scoring.scores.score_predictions`.

    Returns:
        The scores, as in `scores.json`; see `eval.scoring.scores.score_predictions`. Empty in processes but the
        first, and where no record has a reference.

    Raises:
        EvaluationError: Unknown control, no records, a bad limit, a broken predictions file, or `other_clip` with
            one clip only.
        AudioError: A recording cannot be read.
    """
    chosen = _chosen(records, limit)
    if answer_by not in ANSWER_MODES:
        raise EvaluationError(f"answer_by is {answer_by!r}; expected one of {', '.join(ANSWER_MODES)}")
    # Keys of this form are in files of earlier versions, whose answers are reused.
    identity = {"max_new_tokens": max_new_tokens, "do_sample": False, "prompt_version": prompt_version}
    identity |= AudioOptions.current().changes()
    if answer_by == "rank":
        identity |= {"answer_by": answer_by, "rank_by": rank_by}
    plan = [
        question
        for control in _known(controls)
        for question in _plan(chosen, control, model_id, identity, decoding or {}, seed)
    ]
    limited = len(chosen) < len(records)
    scorable = any(record.references for record in chosen)
    if scorable:
        check_scorable(chosen, ranked=answer_by == "rank", **scoring)
    out_dir = Path(out_dir)
    waveforms = _Waveforms(processor.sample_rate)
    shards = Shards(out_dir)

    def answer(batch: Sequence[_Question], at: Sequence[int], size: int) -> Iterator[Answer]:
        questions = [batch[i] for i in at]
        messages = [question.messages for question in questions]
        audios = [[waveforms.load(ref) for ref in question.audio] for question in questions]
        if questions[0].ranked:
            given = [question.record.choices for question in questions]
            return rank_choices(model, processor, messages, audios, given, batch_size=size, normalise=rank_by)
        chosen = {"max_new_tokens": max_new_tokens, "batch_size": size, **(options or {})}
        return generate(model, processor, messages, audios, **chosen)

    with shards.open() as file:
        done = shards.known()
        shards.wait()  # all processes have read the answers that exist before any is added
        missing = shards.share(_longest_first([question for question in plan if question.key not in done]))
        size = batch_size
        with progress(title if shards.is_main else "", len(missing), "answer") as advance:
            for questions in _chunks(missing, batch_size * _BATCHES_PER_CHUNK):
                waiting: list[Prediction] = []
                found = with_smaller_batches(partial(answer, questions), len(questions), size)
                for count, ((index, *said), size) in enumerate(found, start=1):
                    question = questions[index]
                    duration_s = sum(waveforms.seconds[ref] for ref in question.audio)
                    waiting.append(_line(question, said, model_id, duration_s, groups))
                    if len(waiting) >= size or count == len(questions):
                        file.append(waiting)
                        advance(len(waiting))
                        waiting = []
    shards.wait()
    scores: Scores = {}
    if shards.is_main:
        keys = {question.key for question in plan}
        predictions = [line for line in shards.merge() if line["key"] in keys]
        if scorable:
            scores = score_predictions(chosen, predictions, limited=limited, groups=groups, **scoring)
            write_scores(out_dir / "scores.json", scores)
    shards.wait()
    return scores


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


def _chunks(questions: list[_Question], size: int) -> Iterator[list[_Question]]:
    """Runs of at most `size` questions that are answered in one way under one control."""
    for _, same in itertools.groupby(questions, key=lambda question: (question.control, question.ranked)):
        run = list(same)
        for start in range(0, len(run), size):
            yield run[start : start + size]


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
    question: _Question, said: Sequence[Any], model_id: str, duration_s: float, groups: Sequence[str]
) -> Prediction:
    """A line of the predictions file; `said` is the answer and, where choices were ranked, their scores."""
    record = question.record
    line: Prediction = {
        "id": record.id,
        "key": question.key,
        "model": model_id,
        "clip": record.clip,
        "kind": record.kind,
        "control": question.control,
        "question": record.question,
        "prediction": said[0],
        "references": list(answers_of(record)),
        "choices": list(record.choices),
        "duration_s": round(duration_s, 3),
    }
    if record.captions:
        line["caption"] = True
    if len(said) > 1:
        line["ranking"] = [round(score, 6) for score in said[1]]
    values = {group: str(record.meta[group]) for group in groups if record.meta.get(group)}
    return {**line, "groups": values} if values else line


class _Waveforms:
    """Recordings at one sample rate in a cache of limited size."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._kept: OrderedDict[AudioRef, np.ndarray] = OrderedDict()
        self._bytes = 0
        self.seconds: dict[AudioRef, float] = {}
        """Length of every recording that was read."""

    def load(self, ref: AudioRef) -> np.ndarray:
        """Waveform (S,) float32; the same array object each time while it is kept."""
        if ref in self._kept:
            self._kept.move_to_end(ref)
            return self._kept[ref]
        waveform = ref.load(self._sample_rate)
        self._kept[ref] = waveform
        self.seconds[ref] = len(waveform) / self._sample_rate
        self._bytes += waveform.nbytes
        while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return waveform
