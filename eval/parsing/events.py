"""Sound events with onset and offset in an answer: "dog from 1.2 to 3.4 s", "dog: 0:01.2 - 0:03.4", one or many."""

import re
from dataclasses import dataclass

_TIME = r"(?:(\d+):)?(\d+(?:\.\d+)?)(?:\s*(?:s|secs?|seconds?)\b)?"
_LONGEST_LABEL = 200  # characters between the times of two events
_TIMES = re.compile(
    rf"(?<![\w.:]){_TIME}\s*(?:-|\u2013|\u2014|~|to|until|till|and)\s*{_TIME}(?![\w:]|\.\d)", re.IGNORECASE
)
# Words between a label and its times, and before a label.
_AFTER = re.compile(
    r"(?:[\s:,=(\[|@*\"'-]|\b(?:from|at|between|is|are|can|be|heard|occurs?|starts?|sounds?|audible|present|active|with"
    r"|onset|offset|time|timestamps?|during|seconds?)\b)*$",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"^(?:[\s:,;.)\]|*\"'-]|\d+[.)]\s|\b(?:s|secs?|seconds?|an?|the|then|and|there|is|are|another|of|sound|finally|next|followed|by"
    r"|event|label)\b)*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Event:
    """A sound event.

    Attributes:
        label: What sounds, in lower case.
        onset_s: Where it begins, in seconds.
        offset_s: Where it ends.
    """

    label: str
    onset_s: float
    offset_s: float


def parse_events(text: str) -> list[Event]:
    """The events that a text gives with a label and two times, in its order; incomplete ones are ignored.

    A label is the text before its times in the same line or after the last separator. Several pairs of times after one
    label are several events.
    """
    events: list[Event] = []
    for line in re.split(r"[;\n]", text):
        label, end = "", 0
        for match in _TIMES.finditer(line):
            said = plain_label(line[end : match.start()])
            label, end = said or label, match.end()
            onset, offset = (_seconds(*match.group(at, at + 1)) for at in (1, 3))
            if label and offset > onset:
                events.append(Event(label, onset, offset))
    return events


def plain_label(text: str) -> str:
    """A label without the words around it, in lower case."""
    words = _AFTER.sub("", _BEFORE.sub("", text[-_LONGEST_LABEL:]))
    return " ".join(words.lower().replace("_", " ").split())


def _seconds(minutes: str | None, seconds: str) -> float:
    return 60 * int(minutes or 0) + float(seconds)


def events_text(events: list[Event]) -> str:
    """Events as the text that `parse_events` reads, in the order of their onsets."""
    listed = sorted(events, key=lambda event: (event.onset_s, event.offset_s, event.label))
    return (
        "; ".join(f"{event.label}: {event.onset_s:.2f} - {event.offset_s:.2f}" for event in listed) or "none"
    )
