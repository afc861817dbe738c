"""Estimates of sample lengths without decoding audio, for batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alm.common.errors import AudioError
from alm.data.records import AudioRef, Record
from alm.data.shards import ShardedRecords
from alm.data.sources import parts_of
from alm.processor import AudioLanguageProcessor

_CALIBRATION = 64  # records whose text is tokenised to estimate the tokens per character


def sample_lengths(
    records: Sequence[Record], processor: AudioLanguageProcessor, skip_bad: bool = False
) -> np.ndarray:
    """Estimate the tokens of every sample, audio and text together, (n,) int64.

    Audio tokens are computed from the files' headers or a shard's index. Text tokens are estimated from the number of
    characters: tokenising all text would take longer than grouping saves. Lengths are used for grouping alone.

    Args:
        records: The records.
        processor: Counts tokens.
        skip_bad: Give a clip whose header cannot be read the length 0; the run quarantines it later.

    Raises:
        AudioError: A file's header cannot be read.
    """
    per_character = _tokens_per_character(records, processor)
    parts = [
        _of_shards(part, processor, per_character)
        if isinstance(part, ShardedRecords)
        else _of_files(part, processor, per_character, skip_bad)
        for part in parts_of(records)
    ]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _tokens_per_character(records: Sequence[Record], processor: AudioLanguageProcessor) -> float:
    step = max(1, len(records) // _CALIBRATION)
    some = (records[index] for index in range(0, len(records), step))
    texts = [message["content"] for record in some for message in record.messages]
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return sum(map(len, ids)) / max(1, sum(map(len, texts)))


def _of_files(
    records: Sequence[Record], processor: AudioLanguageProcessor, per_character: float, skip_bad: bool
) -> np.ndarray:
    seconds: dict[int, float] = {}  # by hash: millions of references would take gigabytes
    lengths = np.zeros(len(records))
    for number, record in enumerate(records):
        keys = [hash(ref) for ref in record.audio]
        for key, ref in zip(keys, record.audio, strict=True):
            if key not in seconds:
                seconds[key] = _seconds(ref, skip_bad)
        text = sum(len(message["content"]) for message in record.messages) * per_character
        lengths[number] = text + _tokens(processor, sum(seconds[key] for key in keys))
    return lengths


def _of_shards(
    records: ShardedRecords, processor: AudioLanguageProcessor, per_character: float
) -> np.ndarray:
    """Estimate the lengths of a shard's records from its index alone."""
    seconds, place = np.unique(records.rows["seconds"], return_inverse=True)  # often few different values
    tokens = np.array([_tokens(processor, float(length)) for length in seconds])
    return tokens[place] + records.rows["text_chars"] * per_character


def _tokens(processor: AudioLanguageProcessor, seconds: float) -> int:
    """Count the LLM tokens of some audio; 0 where it is too short for one, which the run itself reports."""
    if not seconds:
        return 0  # text alone
    try:
        return processor.n_audio_tokens(round(seconds * processor.sample_rate))
    except AudioError:
        return 0


def _seconds(ref: AudioRef, skip_bad: bool) -> float:
    try:
        return ref.seconds()
    except AudioError:
        if skip_bad:
            return 0.0
        raise
