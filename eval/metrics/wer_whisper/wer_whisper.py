"""Word error rate of English transcripts as the Open ASR leaderboard computes it."""

from functools import cache
from importlib.resources import files

from alm.common.json_text import parse_json
from eval.errors import MetricUnavailable
from eval.metrics._edits import ErrorRate


class WhisperWordErrorRate(ErrorRate):
    """Word error rate after Whisper's normaliser: spelling, numbers, contractions and fillers are unified."""

    citation = "Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision, appendix C."
    name_ = "wer_whisper"
    rule = "whisper_english"

    def _normalise(self, text: str) -> str:
        return str(_normaliser()(text))

    def _units(self, text: str) -> list[str]:
        return text.split()


@cache
def _normaliser():  # type: ignore[no-untyped-def]
    """The normaliser of `transformers` with Whisper's table of British and American spellings."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    try:
        table = files("whisper_normalizer") / "normalizers" / "english.json"
        spellings = parse_json(table.read_text(encoding="utf-8"), "english.json of whisper_normalizer")
    except (ModuleNotFoundError, OSError) as error:
        raise MetricUnavailable(
            f"wer_whisper needs the table of spellings of whisper-normalizer ({error}); "
            "pip install 'alm-toolkit[speech]'"
        ) from error
    return EnglishTextNormalizer(spellings)
