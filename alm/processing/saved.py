"""Reading a saved processor's files, in the current layout and in that of earlier releases."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.hub import CHAT_TEMPLATE_DIR

from alm.common.errors import CheckpointError
from alm.common.files import changed_file, file_entry, read_text
from alm.common.json_text import read_json_object
from alm.common.pretrained import from_pretrained, typed_errors
from alm.configuration import AudioLanguageConfig, read_model_config
from alm.processing.feature_extraction import AudioLanguageFeatureExtractor

PROCESSOR_CONFIG = "processor_config.json"
# Files beside the vocabulary that tokens depend on.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class SavedProcessor:
    """The checked contents of a saved processor's directory."""

    feature_extractor: AudioLanguageFeatureExtractor
    tokenizer: Any
    chat_template: str | dict[str, str] | None
    audio_token: str | None
    max_audio_tokens: int | None
    config: AudioLanguageConfig | None
    """The config of the model in the same directory; None if there is none."""
    template_source: Path
    """Where the chat template is, for messages."""


def read_processor(folder: Path, trust_remote_code: bool = False) -> SavedProcessor:
    """Read a processor's directory, and compare it with the model's config where there is one.

    Args:
        folder: The directory.
        trust_remote_code: Run Python code in the directory of a referenced LLM, or of the tokenizer.

    Raises:
        CheckpointError: A file is missing or broken (names file and key), or belongs to another model.
    """
    has_model = (folder / "config.json").exists()
    config = read_model_config(folder, trust_remote_code) if has_model else None
    path = folder / PROCESSOR_CONFIG
    if not path.exists():
        raise CheckpointError(f"{path}: the processor's config is missing; expected it beside config.json")
    values = read_json_object(path, CheckpointError, constants=True)
    extractor = values.get("feature_extractor", values)  # earlier releases: no section of its own
    if not isinstance(extractor, dict):
        raise CheckpointError(f"{path}: feature_extractor is not a JSON object; restore the file")
    _check(values, extractor, config, path)
    _check_files(folder, values)
    tokenizer = from_pretrained(
        AutoTokenizer,
        folder,
        role="processor: tokenizer",
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    template = folder / "chat_template.jinja"
    with typed_errors(f"{folder}: cannot use the tokenizer"):
        check_tokenizer(tokenizer)
    with typed_errors(str(path)):
        feature_extractor = AudioLanguageFeatureExtractor(
            extractor["encoder"], extractor["projector"], extractor.get("sampling_rate")
        )
        feature_extractor.encoder_config, feature_extractor.projector_config  # noqa: B018 (a broken one raises here)
    return SavedProcessor(
        feature_extractor=feature_extractor,
        tokenizer=tokenizer,
        chat_template=_templates(folder),
        audio_token=values.get("audio_token"),
        max_audio_tokens=values.get("max_audio_tokens"),
        config=config,
        template_source=template if template.exists() else folder,
    )


def tokenizer_files(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Size and hash of each file that a tokenizer and its chat template were saved in, by name."""
    names = sorted({*_TOKENIZER_FILES, *tokenizer.vocab_files_names.values()})
    return {name: file_entry(folder / name) for name in names if (folder / name).is_file()}


def _check_files(folder: Path, values: dict[str, Any]) -> None:
    """Refuse tokenizer files other than those saved with processor_config.json: another vocabulary makes other tokens.

    The file of an earlier version lists none.
    """
    if "files" in values and (difference := changed_file(folder, values["files"], PROCESSOR_CONFIG)):
        raise CheckpointError(
            f"{folder}: {difference} since the processor was saved; restore it, or remove its entry from 'files' in "
            f"{PROCESSOR_CONFIG} if the change is intended"
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Use a tokenizer once, so that a wrong value in its files raises here and not in the middle of a run."""
    for text in ("What is this?", "<|audio|>\n é 音"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokenizer.batch_decode([ids], skip_special_tokens=True)
        if not ids or not all(isinstance(token, int) for token in ids):
            raise CheckpointError(f"the tokenizer makes no tokens of {text!r}; restore its files")


def _templates(folder: Path) -> str | dict[str, str] | None:
    """The chat template; by name if there are several; None if there is none."""
    named = {file.stem: file for file in sorted((folder / CHAT_TEMPLATE_DIR).glob("*.jinja"))}
    files = {"default": folder / "chat_template.jinja", **named}
    texts = {
        name: read_text(file, "a chat template", CheckpointError)
        for name, file in files.items()
        if file.exists()
    }
    return texts.get("default") if set(texts) <= {"default"} else texts


def _check(
    values: dict[str, Any], extractor: dict[str, Any], config: AudioLanguageConfig | None, path: Path
) -> None:
    for key, section in (("encoder", extractor), ("projector", extractor), ("audio_token", values)):
        if config is None and not isinstance(section.get(key), str if key == "audio_token" else dict):
            raise CheckpointError(f"{path}: {key} is missing or broken; restore the file")
        if config is not None and section.get(key) != getattr(config, key):
            raise CheckpointError(
                f"{path}: {key} is not that of config.json; restore the processor of this model"
            )
    most = values.get("max_audio_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise CheckpointError(
            f"{path}: max_audio_tokens is {most!r}, expected a whole number from 1, or null"
        )
