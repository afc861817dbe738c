"""Arguments of our processor beside those of transformers' audio processors; the table in docs/transformers.md is true.

`python tests/test_alm_signatures.py` writes the table anew.
"""

import inspect
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from transformers import (
    AudioFlamingo3Processor,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechProcessor,
    Qwen2AudioProcessor,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
from alm.processor import AudioLanguageProcessor

RELEASE = Version("5.23")
"""The release that the page describes; the siblings of older ones have other arguments."""
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < RELEASE, reason=f"the siblings of transformers {RELEASE} are compared"
)
PAGE = Path(__file__).parents[1] / "docs/transformers.md"
BEGIN, END = "<!-- signatures: begin -->", "<!-- signatures: end -->"
PROCESSORS = {
    "AF3": AudioFlamingo3Processor,
    "Qwen2": Qwen2AudioProcessor,
    "Voxtral": VoxtralProcessor,
    "Granite": GraniteSpeechProcessor,
}
EXTRACTORS = {"Whisper": WhisperFeatureExtractor, "Granite": GraniteSpeechFeatureExtractor}
METHODS = (
    "__init__",
    "__call__",
    "apply_chat_template",
    "save_pretrained",
    "from_pretrained",
    "decode",
    "batch_decode",
)
REASONS = {
    ("processor.__init__", "default_transcription_prompt"): "answers are not wrapped in a fixed prompt",
    ("processor.__init__", "max_audio_len"): "longer audio is refused (`max_audio_tokens`), never cut",
    ("processor.__init__", "max_audio_tokens"): "limit in LLM tokens, which differ between projectors",
    ("processor.__init__", "audio_bos_token"): "only the placeholder is added; a template may write more",
    ("processor.__init__", "audio_eos_token"): "only the placeholder is added; a template may write more",
    ("processor.__init__", "audio_processor"): "another name of `feature_extractor`",
    ("processor.__call__", "collate"): "training and evaluation read clips from their caches",
    ("processor.__call__", "n_new_tokens"): "the answer must fit into the context, too",
    ("processor.__call__", "device"): "in `audio_kwargs`, or `.to(device)` of the batch",
    ("processor.__call__", "images"): "no images; refused by name",
    ("processor.__call__", "videos"): "no video; refused by name",
    ("processor.apply_chat_template", "audio"): "clips of contents that are strings with markers",
    ("processor.decode", "strip_prefix"): "answers have no fixed prefix",
    ("feature_extractor.__call__", "audios"): "another name of `raw_speech`",
    ("feature_extractor.__call__", "do_normalize"): "normalisation belongs to the encoder",
    ("feature_extractor.__call__", "kwargs"): "unknown arguments are refused",
}


def signatures():
    """For each method and argument, the other processors that have it, and whether ours does."""
    pairs = [(f"processor.{name}", name, PROCESSORS, AudioLanguageProcessor) for name in METHODS]
    pairs.append(("feature_extractor.__call__", "__call__", EXTRACTORS, AudioLanguageFeatureExtractor))
    for shown, name, siblings, own in pairs:
        takes = {
            key: list(inspect.signature(getattr(kind, name)).parameters) for key, kind in siblings.items()
        }
        ours = list(inspect.signature(getattr(own, name)).parameters)
        every = dict.fromkeys([*ours, *(argument for given in takes.values() for argument in given)])
        for argument in every:
            if argument not in ("self", "cls"):
                holders = [key for key, given in takes.items() if argument in given]
                yield shown, argument, holders, argument in ours, len(siblings)


def table():
    lines = ["| method | argument | siblings | ours | why it differs |", "|---|---|---|---|---|"]
    for method, argument, holders, ours, n_siblings in signatures():
        who = "all" if len(holders) == n_siblings else ", ".join(holders) or "none"
        why = REASONS.get((method, argument), "")
        lines.append(f"| `{method}` | `{argument}` | {who} | {'yes' if ours else 'no'} | {why} |")
    return "\n".join(lines)


def test_every_difference_from_the_siblings_has_a_reason():
    differences = {
        (method, argument) for method, argument, holders, ours, _ in signatures() if ours is not bool(holders)
    }
    assert differences <= REASONS.keys() <= {(row[0], row[1]) for row in signatures()}


def test_defaults_are_those_of_the_siblings():
    differing = {
        "audio_token",
        "feature_extractor",
        "tokenizer",
    }  # other placeholders; no part may be missing
    for name in METHODS:
        own = inspect.signature(getattr(AudioLanguageProcessor, name)).parameters
        for who, kind in PROCESSORS.items():
            for argument, theirs in inspect.signature(getattr(kind, name)).parameters.items():
                if (who, argument) == ("Voxtral", "return_tensors"):
                    continue  # alone among the siblings, it has None for "auto"
                if argument in own and theirs.default is not theirs.empty and argument not in differing:
                    assert own[argument].default == theirs.default, (name, argument, who)


def test_the_table_in_the_docs_is_true():
    text = PAGE.read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == table()


if __name__ == "__main__":
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")
