"""Label tables as conversations: captions and questions written from the names of sounds.

Every wording is chosen by the record's id, so a table always gives the same manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.data.records import CAPTION_PROMPTS

KINDS = ("caption", "what", "choice", "presence")
N_CHOICES = 4

_CAPTIONS = ("The sound of {label}.", "This is the sound of {label}.", "One can hear {label}.", "{Label}.")
_WHAT = (
    "What is this sound?",
    "What can be heard in this recording?",
    "Which sound is this?",
    "Name the sound in the clip.",
)
_CHOICE = ("Which of these can be heard?", "Which of these is the sound in the recording?")
_PRESENCE = ("Is there {label} in this recording?", "Can {label} be heard?", "Does one hear {label}?")
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Templates:
    """The wordings; `{label}` stands for the sound's name, `{Label}` for it with a capital.

    Attributes:
        caption: Captions.
        prompt: Requests for a caption.
        what: Questions answered by the name.
        choice: Questions with options under them.
        presence: Questions answered by `yes_no`.
        yes_no: The two answers.
        names: Label → its wording, if replacing underscores by spaces is not enough.
    """

    caption: tuple[str, ...] = _CAPTIONS
    prompt: tuple[str, ...] = CAPTION_PROMPTS
    what: tuple[str, ...] = _WHAT
    choice: tuple[str, ...] = _CHOICE
    presence: tuple[str, ...] = _PRESENCE
    yes_no: tuple[str, ...] = _YES_NO
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("caption", "presence"):
            for text in getattr(self, key):
                if "{label}" not in text.lower():
                    raise ConfigError(f"templates.{key}: {text!r} does not contain {{label}}; add it")
        empty = [key for key in ("prompt", "what", "choice") if not getattr(self, key)]
        if empty or len(self.yes_no) != 2:
            raise ConfigError(
                f"templates: {empty or 'yes_no'} needs texts (yes_no: two); remove it for the defaults"
            )

    def spoken(self, label: str) -> str:
        """The wording of a label."""
        return self.names.get(label, label.replace("_", " ").strip())


class QuestionWriter:
    """Writes records about labelled clips.

    Args:
        labels: All labels of the table; wrong options and absent sounds are drawn from them.
        kinds: Which of `caption`, `what`, `choice`, `presence` to write for each clip.
        templates: The wordings.

    Raises:
        ConfigError: An unknown kind, or too few labels to choose from.
    """

    def __init__(
        self, labels: Sequence[str], kinds: Sequence[str] = KINDS, templates: Templates | None = None
    ) -> None:
        self.labels = tuple(dict.fromkeys(labels))
        self.kinds = tuple(kinds)
        self.templates = templates or Templates()
        wrong = [kind for kind in kinds if kind not in KINDS]
        if wrong or not kinds:
            raise ConfigError(f"kinds: got {wrong or 'none'}, expected some of {', '.join(KINDS)}")
        if len(self.labels) < 2 and {"choice", "presence"} & set(kinds):
            raise ConfigError(
                f"kinds: choice and presence need two labels or more, the table has {len(self.labels)}"
            )

    def write(self, name: str, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The records of one clip, without `audio`.

        Args:
            name: The clip's name; ids are `name/kind`, and every wording is chosen by them.
            labels: What can be heard in it.
        """
        spoken = " and ".join(
            part
            for part in (
                ", ".join(map(self.templates.spoken, labels[:-1])),
                self.templates.spoken(labels[-1]),
            )
            if part
        )
        for kind in self.kinds:
            identity = f"{name}/{kind}"
            record = getattr(self, f"_{kind}")(identity, spoken, labels)
            if record is not None:
                yield {"id": identity, **record, "labels": list(labels)}

    def _caption(self, identity: str, spoken: str, labels: Sequence[str]) -> dict[str, Any]:
        captions = [_fill(text, spoken) for text in self.templates.caption]
        return {"captions": captions, "prompt": _pick(self.templates.prompt, identity)}

    def _what(self, identity: str, spoken: str, labels: Sequence[str]) -> dict[str, Any]:
        return {"kind": "what", "question": _pick(self.templates.what, identity), "answer": spoken}

    def _choice(self, identity: str, spoken: str, labels: Sequence[str]) -> dict[str, Any] | None:
        answer = _pick(labels, identity)
        others = _shuffled([label for label in self.labels if label not in labels], identity)[: N_CHOICES - 1]
        if not others:
            return None
        options = [
            self.templates.spoken(label) for label in _shuffled([answer, *others], identity + "/order")
        ]
        question = _pick(self.templates.choice, identity)
        return {
            "kind": "choice",
            "question": question,
            "choices": options,
            "answer": self.templates.spoken(answer),
        }

    def _presence(self, identity: str, spoken: str, labels: Sequence[str]) -> dict[str, Any]:
        absent = [label for label in self.labels if label not in labels]
        there = _number(identity + "/there") % 2 == 0 or not absent
        label = _pick(labels if there else absent, identity)
        question = _fill(_pick(self.templates.presence, identity), self.templates.spoken(label))
        return {"kind": "presence", "question": question, "answer": self.templates.yes_no[0 if there else 1]}


def load_templates(path: str | Path | None) -> Templates:
    """Wordings from a YAML file with some of the keys of `Templates`; None gives the usual ones."""
    from alm.common.settings import load_settings

    return Templates() if path is None else load_settings(Templates, path)


def _fill(template: str, spoken: str) -> str:
    return template.format_map(_Names(label=spoken, Label=spoken[:1].upper() + spoken[1:]))


class _Names(dict[str, str]):
    def __missing__(self, key: str) -> str:
        raise ConfigError(f"templates: unknown field {{{key}}}; known are {{label}} and {{Label}}")


def _number(identity: str) -> int:
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


def _pick(options: Sequence[str], identity: str) -> str:
    return options[_number(identity) % len(options)]


def _shuffled(items: Sequence[str], identity: str) -> list[str]:
    return sorted(items, key=lambda item: _number(f"{identity}/{item}"))
