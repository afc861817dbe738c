"""Prompts that benchmarks share, and how the entries of a corpus become records."""

from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError
from alm.data.corpora import Corpus, Entry, open_corpus
from alm.data.corpora.audio_files import AudioFiles
from alm.data.records import AUDIO_MARKER, AudioRef, Record, format_choices
from eval.benchmarks._base import Benchmark, Reader
from eval.errors import EvaluationError
from eval.scoring.correctness import by_choice

CAPTION_PROMPT = "Describe the sounds in this recording."
CHOICE_PROMPT = "{question}\nAnswer with the letter of the right option."
SHORT_PROMPT = "{question}\nAnswer with one word."


def choice_benchmark(corpus: str, citation: str, **options: Any) -> Benchmark:
    """The record of a benchmark that asks one multiple-choice question about each entry of a corpus.

    Args:
        corpus: The corpus, one of `alm.data.corpora.CORPORA`.
        citation: Where the benchmark is described.
        **options: Further attributes of the record, for example `splits`.
    """
    return Benchmark(
        corpus_reader(corpus), CHOICE_PROMPT, ("qa",), citation=citation, is_right=by_choice, **options
    )


def corpus_reader(name: str) -> Reader:
    """The reader of a benchmark that asks one question about each entry of a corpus."""

    def read(root: Path, split: str) -> list[Record]:
        return [entry_record(entry) for entry in read_entries(open_corpus(name, root), split)]

    return read


def read_entries(corpus: Corpus, split: str | None) -> list[Entry]:
    """The entries of a split of a corpus.

    Raises:
        EvaluationError: The data is not in the published layout; names file and line.
    """
    try:
        return list(corpus.entries(AudioFiles(corpus.audio_folders()), split))
    except ManifestError as error:
        raise EvaluationError(str(error)) from error


def entry_record(entry: Entry, show_choices: bool = True) -> Record:
    """An entry as a record without the benchmark's prompt: with captions it asks for a caption, else its question.

    Args:
        entry: The entry; `answers` are further answers that count as right.
        show_choices: Whether the question lists the choices.
    """
    question = format_choices(entry.question, entry.choices if show_choices else ())
    messages = [{"role": "user", "content": AUDIO_MARKER * len(entry.audio) + question}]
    answer = entry.captions[0] if entry.captions else entry.answer
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return Record(
        id=entry.id,
        audio=tuple(AudioRef(clip.path, clip.start_s, clip.end_s) for clip in entry.audio),
        messages=tuple(messages),
        kind="caption" if entry.captions else entry.kind,
        question=question,
        answer=answer,
        choices=entry.choices,
        captions=entry.captions,
        clip="+".join(clip.path.name for clip in entry.audio),
        meta={**entry.meta, **({"answers": list(entry.answers)} if entry.answers else {})},
        source=entry.where,
    )
