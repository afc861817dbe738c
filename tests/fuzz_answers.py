"""Answers of any kind: random pieces of everything that the parser knows, repeated up to a megabyte."""

import json
import random
import string
import time

from fuzzing import fuzz, report

from eval.parsing.choices import parse_choice
from eval.parsing.normalise import answers_match, normalise_answer, parse_yes_no

PIECES = (
    "answer",
    "is",
    "not",
    "A",
    "B",
    "(C)",
    "D.",
    ",",
    ".",
    "\n",
    "or",
    ":",
    "?",
    "!",
    "and",
    "I think",
    "wait",
    "actually,",
    "but",
    "no",
    "yes",
    "ruled out",
    "is correct",
    "cannot tell",
    "unsure",
    "option A",
    "the second one",
    "at first",
    "it is",
    "neither",
    "none of the above",
    "if it were",
    "why",
    "all but",
    "except",
    "**",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "}",
    '{"answer": "B"}',
    "{",
    "[",
    "<think>",
    "</think>",
    "<b>",
    "~~",
    "|",
    "`",
    "$",
    "*",
    "_",
    "- ",
    "(",
    ")",
    '"',
    "'",
    "than",
    "from",
    "to",
    "prefer",
    "over",
    "\u2713",
    "\u274c",
    "e.g.",
    " ",
    "\t",
    "\r",
    "\x00",
    "\u2028",
    "\ud800",
    "\U0001f600",
    "\u0130",
    "one hundred",
    "twenty",
    "1,000",
    "2.50",
    "&lt;",
    "&#0;",
    "done thinking",
    "so",
    "Sorry",
    "x",
    "a",
    "the",
    "aaaaaaaaaa",
)
CHOICES = (
    ["rain", "wind", "a dog", "two"],
    ["yes", "no"],
    ["A minor", "C# major", "F#"],
    ["In a library.", "At a concert; then home."],
    ["", " "],
    ["a", "b"],
    ["It rains.", "It is 5:30", "5", "(A)"],
    [f"label {number}" for number in range(300)],
)


def case(rng: random.Random):
    pool = [rng.choice(PIECES) for _ in range(rng.choice((1, 2, 3, 5, 30)))]
    unit = rng.choice(("", " ")).join(rng.choice(pool) for _ in range(rng.randint(1, 12)))
    if rng.random() < 0.2:
        unit = "".join(rng.choice(string.printable) for _ in range(rng.randint(1, 30)))
    length = rng.choice((20, 200, 2000, 8000, 1_000_000))
    text = (unit * (length // max(1, len(unit)) + 1))[:length]
    choices = rng.choice(CHOICES)

    def act() -> None:
        started = time.process_time()
        found = parse_choice(text, choices)
        # A parser that needs quadratic time would take minutes here.
        assert time.process_time() - started < 5, (
            f"{time.process_time() - started:.1f} s for {length} characters"
        )
        assert found is None or 0 <= found < len(choices)
        assert parse_choice(text, choices) == found
        answers_match(text, choices[0])
        if length < 10_000:
            parse_yes_no(text)
            assert normalise_answer(normalise_answer(text[:500])) is not None

    return f"{length} characters of {json.dumps(unit)} for {choices[:3]}", act


def main(seconds: float) -> int:
    return report(fuzz("answers", case, seconds))
