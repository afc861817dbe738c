"""Every alternative of every pattern of the answer parser is reached by a text made for it, and parsing is linear."""

import ast
import importlib
import pkgutil
import re
import time
import tokenize
from pathlib import Path
from re import _constants as op
from re import _parser as grammar

import pytest
from fuzz_answers import case
from fuzzing import fuzz

import eval.parsing
from eval.parsing.choices import parse_choice
from eval.parsing.markup import LONGEST
from eval.parsing.normalise import answers_match

MODULES = [module.name for module in pkgutil.iter_modules(eval.parsing.__path__)]
PATTERNS = {
    f"{name}.{key}": value
    for name in MODULES
    for key, value in vars(importlib.import_module(f"eval.parsing.{name}")).items()
    if isinstance(value, re.Pattern)
}
# What may have to stand around a text that lookarounds of a pattern ask for.
AROUND = (
    "",
    " ",
    ".",
    "\n",
    " B",
    " is",
    "\x00",
    " A)",
    ": ",
    " X x",
    "a",
    "1",
    '"',
    ") ",
    " option",
    "(?",
    " one",
    " to \x00",
    "'",
    " of",
    "}",
)
# What a lookahead wants in the place of any word.
NAMED = {"markup._TAG": "answer", "markup._LOOSE_FIELD": "answer"}


def characters(items):
    """A character of a set."""
    excluded = items[0][0] is op.NEGATE
    ok = []
    for kind, value in items:
        if kind is op.LITERAL:
            ok.append(chr(value))
        elif kind is op.RANGE:
            ok.append(chr(value[0]))
        elif kind is op.CATEGORY:
            ok.append(
                {
                    op.CATEGORY_SPACE: " ",
                    op.CATEGORY_DIGIT: "1",
                    op.CATEGORY_WORD: "x",
                    op.CATEGORY_NOT_WORD: " ",
                    op.CATEGORY_NOT_SPACE: "x",
                    op.CATEGORY_NOT_DIGIT: "x",
                }[value]
            )
    if not excluded:
        return ok[0]
    return next(one for one in " x,1." if not any(_in(one, kind, value) for kind, value in items))


def _in(character, kind, value):
    if kind is op.LITERAL:
        return ord(character) == value
    if kind is op.RANGE:
        return value[0] <= ord(character) <= value[1]
    if kind is op.CATEGORY:
        pattern = {
            op.CATEGORY_SPACE: r"\s",
            op.CATEGORY_DIGIT: r"\d",
            op.CATEGORY_WORD: r"\w",
            op.CATEGORY_NOT_WORD: r"\W",
            op.CATEGORY_NOT_SPACE: r"\S",
            op.CATEGORY_NOT_DIGIT: r"\D",
        }[value]
        return bool(re.match(pattern, character))
    return False


def samples(tree, groups=None):
    """Texts that a parsed pattern describes: one for each alternative in it, the rest as short as it may be."""
    groups = {} if groups is None else groups
    texts = [""]
    for kind, value in tree:
        if kind in (op.LITERAL, op.NOT_LITERAL):
            parts = [chr(value) if kind is op.LITERAL else next(c for c in "x " if ord(c) != value)]
        elif kind is op.ANY:
            parts = ["x"]
        elif kind is op.IN:
            parts = [characters(value)]
        elif kind is op.BRANCH:
            parts = [text for one in value[1] for text in samples(one, groups)]
        elif kind is op.SUBPATTERN:
            parts = samples(value[3], groups)
            groups[value[0]] = parts[0]
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            low, _, inner = value
            once = samples(inner, groups)
            # White space that may stand there does; words that may stand there are left out first.
            parts = [text * max(1, low) for text in once] if low or once == [" "] else ["", *once]
        elif kind is op.GROUPREF:
            parts = [groups.get(value, "")]
        else:
            assert kind in (op.AT, op.ASSERT, op.ASSERT_NOT), kind
            parts = [""]
        # One alternative at a time, so that their number stays the sum over the places and not the product.
        texts = [text + parts[0] for text in texts] + [texts[0] + part for part in parts[1:]]
    return texts


@pytest.mark.parametrize("name", PATTERNS)
def test_every_alternative_of_a_pattern_is_reached(name):
    pattern = PATTERNS[name]
    unreached = []
    for text in dict.fromkeys(samples(grammar.parse(pattern.pattern, pattern.flags))):
        text = text.replace("x", NAMED.get(name, "x"))
        around = ((before, after) for after in AROUND for before in AROUND)
        if not any(pattern.search(before + text + after) for before, after in around):
            unreached.append(text)
    assert not unreached


def test_no_pattern_holds_a_line_break_of_its_source():
    """A pattern wrapped inside triple quotes takes the line break, quotes and indentation into its alternatives."""
    wrapped = [
        name
        for name, pattern in PATTERNS.items()
        if "\n" in pattern.pattern or '"\\n    r"' in pattern.pattern
    ]
    for name in MODULES:
        path = Path(importlib.import_module(f"eval.parsing.{name}").__file__)
        tree = ast.parse(path.read_text())
        docstrings = {
            node.body[0].lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
        }
        attributes = {node.lineno for node in tree.body if isinstance(node, ast.Expr)}
        attributes |= {
            line.lineno
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            for line in node.body
            if isinstance(line, ast.Expr)
        }
        with open(path, "rb") as file:
            for token in tokenize.tokenize(file.readline):
                many = token.type == tokenize.STRING and token.start[0] != token.end[0]
                if many and token.start[0] not in docstrings | attributes:
                    wrapped.append(f"{path.name}:{token.start[0]}")
    assert not wrapped


CHOICES = ["rain", "wind", "thunder"]


@pytest.mark.parametrize(
    "lead",
    [
        "that",
        "it is",
        "it's",
        "with",
        "as",
        "to be",
        "for",
        "probably",
        "likely",
        "definitely",
        "clearly",
        "actually",
    ],
)
def test_words_between_a_cue_and_a_small_letter(lead):
    assert parse_choice(f"The answer is {lead} b.", CHOICES) == 1


UNITS = (
    "Answer: A? ",
    "A ",
    "(A) ",
    "not A ",
    "<think>",
    "</think>",
    "<answeranswer",
    '{"a":',
    "A. ",
    "A\n",
    "\t \n",
    "rain ",
    "not rain or ",
    "answer: ",
    "the answer is ",
    "cannot tell answer: ",
    "<a>",
    "\\boxed{",
    "{,answer:'x ",
    "A is correct or ",
    "wait ",
    "all but A ",
    "why A? ",
    "option A, ",
    "A is very ",
    "i think ",
    "one hundred ",
    "a.b-c/",
)


def _growth(unit, length, read):
    """How many times longer `length` characters take than an eighth of them: 8 if linear, 64 if quadratic."""

    def seconds(characters):
        text = (unit * (characters // len(unit) + 1))[:characters]
        times = []
        for _ in range(3):  # the least of three: other processes slow a run down, none speeds it up
            started = time.process_time()
            read(text)
            times.append(time.process_time() - started)
        return min(times)

    return seconds(length) / (seconds(length // 8) + 1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_takes_linear_time(unit):
    """`python -m benchmarks.parsing` says how long: at most a second."""
    assert _growth(unit, 1_000_000, lambda text: parse_choice(text, CHOICES)) < 24
    assert _growth(unit, 1_000_000, lambda text: answers_match(text, "yes")) < 24


@pytest.mark.parametrize("unit", ["Answer: A? ", "not A ", "cannot tell answer: "])
def test_the_longest_text_that_is_read_whole_takes_linear_time(unit):
    assert _growth(unit, LONGEST, lambda text: parse_choice(text, CHOICES)) < 24


def test_a_long_answer_is_read_from_both_ends():
    filler = "the spectrum shows energy in many bands and more of it later. " * 400
    assert parse_choice(f"B\n\n{filler}", CHOICES) == 1
    assert parse_choice(f"{filler} So the answer is C.", CHOICES) == 2
    assert parse_choice(f"<think>{filler}{filler}A, then.</think>rain", CHOICES) == 0
    assert parse_choice(filler, CHOICES) is None


def test_deeply_nested_json_is_no_crash():
    text = '{"a":' + "[" * 700 + '"x"' + "]" * 700 + "}"
    assert parse_choice(text + " The answer is B.", CHOICES) == 1


def test_hostile_answers_are_read_without_errors():
    outcome = fuzz("answers", case, n=60, seed=0)
    assert not outcome.findings and outcome.counts["accepted"] == 60
