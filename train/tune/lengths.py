"""Estimates of sample lengths without decoding audio, for batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alm.common.errors import AudioError
from alm.data.records import AudioRef, Record
from alm.data.shards import ShardedRecords
from alm.data.sources import parts_of
from alm.processor import AudioLanguageProcessor
from train.data.augmented_clips import NO_AUGMENTATION, AugmentedRef, ClipAugmenter

_CALIBRATION = 64  # records whose text is tokenised to estimate the tokens per character


class SampleLengths:
    """Estimated tokens of every sample in an epoch, audio and text together.

    Audio tokens are computed from the files' headers or a shard's index. Text tokens are estimated from the number of
    characters: tokenising all text would take longer than grouping saves. Lengths are used for grouping alone. For
    shards, augmentation is ignored: its random draws depend on clip names, which the index lacks.

    Args:
        records: The records.
        processor: Counts tokens.
        skip_bad: Give a clip whose header cannot be read the length 0; the run quarantines it later.
        augmenter: Changes the clips from epoch to epoch.

    Raises:
        AudioError: A file's header cannot be read.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: AudioLanguageProcessor,
        skip_bad: bool = False,
        augmenter: ClipAugmenter = NO_AUGMENTATION,
    ) -> None:
        self.records, self.processor, self.skip_bad, self.augmenter = records, processor, skip_bad, augmenter
        self._per_character = _tokens_per_character(records, processor)
        self._seconds: dict[int, float] = {}  # by hash: millions of references would take gigabytes
        self._epoch, self._lengths = 0, self._of_epoch(0)

    def __call__(self, epoch: int) -> np.ndarray:
        """Return the lengths, (n,) int64."""
        if epoch != self._epoch and self.augmenter.settings.any:
            self._epoch, self._lengths = epoch, self._of_epoch(epoch)
        return self._lengths

    def _of_epoch(self, epoch: int) -> np.ndarray:
        parts = [
            _of_shards(part, self.processor, self._per_character)
            if isinstance(part, ShardedRecords)
            else self._of_files(part, epoch)
            for part in parts_of(self.records)
        ]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def _of_files(self, records: Sequence[Record], epoch: int) -> np.ndarray:
        lengths = np.zeros(len(records))
        for number, record in enumerate(records):
            text = sum(len(message["content"]) for message in record.messages) * self._per_character
            seconds = sum(self._heard_s(ref, epoch) for ref in record.audio)
            lengths[number] = text + _tokens(self.processor, seconds)
        return lengths

    def _heard_s(self, ref: AudioRef, epoch: int) -> float:
        """Seconds of a clip as augmented in an epoch."""
        key = hash(ref)
        if key not in self._seconds:
            self._seconds[key] = _seconds(ref, self.skip_bad)
        heard = self.augmenter(ref, epoch)
        seconds = self._seconds[key]
        return heard.seconds_of(seconds) if isinstance(heard, AugmentedRef) else seconds


def _tokens_per_character(records: Sequence[Record], processor: AudioLanguageProcessor) -> float:
    step = max(1, len(records) // _CALIBRATION)
    some = (records[index] for index in range(0, len(records), step))
    texts = [message["content"] for record in some for message in record.messages]
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return sum(map(len, ids)) / max(1, sum(map(len, texts)))


def _of_shards(
    records: ShardedRecords, processor: AudioLanguageProcessor, per_character: float
) -> np.ndarray:
    """Estimate the lengths of a shard's records from its index alone."""
    seconds, place = np.unique(records.rows["seconds"], return_inverse=True)  # often few different values
    tokens = np.array([_tokens(processor, float(length)) for length in seconds])
    return tokens[place] + records.rows["text_chars"] * per_character


def _tokens(processor: AudioLanguageProcessor, seconds: float) -> int:
    """Count the LLM tokens of some audio; 0 if it is too short for one token, which the run itself reports."""
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
