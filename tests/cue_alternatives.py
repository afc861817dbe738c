"""Every alternative of every cue of the answer parser, before answers to multiple-choice questions.

`python tests/cue_alternatives.py QUESTIONS.json [STEP]` prints which share of right answers is credited, and of wrong
ones, with the answers that are misread; every STEP-th question is asked.
"""

import collections
import json
import re
import string
import sys
from re import _parser as grammar

from test_eval_parsing_patterns import samples

from eval.parsing import cues
from eval.parsing.choices import parse_choice

BEFORE = (cues.CUE, cues.WEAK_CUE)
FORMS = ("@L@", "(@L@)", "option @L@", "@L@. @T@", "@T@", "**@T@**.")


def alternatives():
    """Return (pattern, announcing or affirming text) for each alternative in the patterns of cues."""
    found = {}
    for pattern in (*BEFORE, cues.CORRECT):
        for text in samples(grammar.parse(pattern.pattern, pattern.flags)):
            words = " ".join("likely" if word == "x" else word for word in text.strip(" ").split(" "))
            if re.search(r"\w", words):
                found[words] = pattern
    return [(pattern, words) for words, pattern in found.items()]


def sentence(pattern, words, form, choice, choices):
    """Return the words around the choice in that form; None where the pattern does not match them."""
    named = form.replace("@L@", string.ascii_uppercase[choice]).replace("@T@", choices[choice])
    if pattern not in BEFORE:
        return f"{named} {words}" if pattern.match(f" {words}") else None
    text = f"{words}{'' if words.endswith(chr(10)) else ' '}{named}"
    return text if pattern.match(text) else None


def rates(items, forms=FORMS):
    """Return (share of right answers credited, share of wrong ones credited as right, number of pairs, failures).

    Args:
        items: (choices, right choice) of each question.
        forms: Ways of naming a choice; each question takes one for each alternative.
    """
    right = wrong = n = 0
    failures = collections.Counter()
    for at, (pattern, words) in enumerate(alternatives()):
        fitting = [form for form in forms if sentence(pattern, words, form, 0, ["rain", "wind"])]
        for number, (choices, answer) in enumerate(items):
            form = fitting[(at + number) % len(fitting)]
            truth = choices.index(answer)
            others = [index for index, choice in enumerate(choices) if choice != answer]
            other = others[number % len(others)]
            texts = [sentence(pattern, words, form, given, choices) for given in (truth, other)]
            if None in texts:
                continue
            credited = parse_choice(texts[0], choices) == truth
            n, right = n + 1, right + credited
            mistaken = parse_choice(texts[1], choices) == truth
            wrong += mistaken
            if mistaken or not credited:
                failures[texts[1] if mistaken else texts[0], "WRONG" if mistaken else ""] += 1
    return right / n, wrong / n, n, failures


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        questions = [(item["choices"], item["answer"]) for item in json.load(file)]
    credited, mistaken, pairs, failed = rates(questions[:: int(sys.argv[2]) if len(sys.argv) > 2 else 1])
    print(f"{len(alternatives())} alternatives, {pairs} pairs: right {credited:.3%}, wrong {mistaken:.3%}")
    for (words, form), count in failed.most_common(60):
        print(f"{count:5d} {words!r} {form}")
