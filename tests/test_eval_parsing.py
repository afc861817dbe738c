"""The answer parser over many ways of giving an answer (`phrasings.py`); refusals must give nothing.

`pytest -s -k mmau` prints the table per phrasing over the questions of MMAU.
"""

import json

import answer_families
import cue_alternatives
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phrasings import (
    ALL_PHRASINGS,
    FOURTH_REFUSALS,
    PHRASINGS,
    REFUSALS,
    THIRD_REFUSALS,
    means,
    measure,
    table,
)

from eval.parsing.choices import parse_choice
from eval.parsing.mentions import Options
from eval.parsing.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no
from eval.parsing.reworded import reworded

OWN_QUESTIONS = [
    (["a dog", "a cat", "a bird", "rain"], "a dog"),
    (["Yes", "No"], "No"),
    (["yes", "no"], "yes"),
    (["two", "three", "four", "twenty-three"], "three"),
    (["1", "2", "3", "12"], "2"),
    (["Man", "Woman", "Child", "Robot"], "Woman"),
    (["a siren, then a bell", "a bell, then a siren", "only a siren", "only a bell"], "a bell, then a siren"),
    (["Rock", "Funk rock", "Electronic rock", "Funk"], "Funk"),
    (["In a library.", "At a music concert.", "During a marathon.", "In a meeting."], "During a marathon."),
    (
        ["No, it is not present.", "Yes, it is the first sound.", "Yes, it is the last sound."],
        "No, it is not present.",
    ),
    (["first speaker", "second speaker", "both speakers", "none of the speakers"], "none of the speakers"),
    (["C#", "F#", "Ebm", "G#"], "F#"),
    (["E:min7/1", "A:7/1", "D:maj7(11)/4", "G:maj7/1"], "A:7/1"),
    (["2.5 seconds", "5 seconds", "0.5 seconds", "25 seconds"], "5 seconds"),
    (["engine hum", "drum", "bubbles", "click train", "bird-like chirp"], "click train"),
    (["Crackling", "None", "Echoing", "Muted"], "None"),
]


def test_own_questions():
    results = measure(OWN_QUESTIONS)
    assert {name: results[name][2] for name in PHRASINGS if results[name][2]} == {}
    assert sum(credited for credited, _, _ in results.values()) / len(ALL_PHRASINGS) >= 0.98
    assert not any(wrongly for _, wrongly, _ in results.values())


def test_mmau_questions(shared_dir):
    questions = [
        (item["choices"], item["answer"])
        for item in json.loads((shared_dir / "data" / "mmau" / "mmau-test-mini.json").read_text())
    ]
    assert len(questions) == 1000
    # A share of all pairs, to be quick; `python tests/phrasings.py QUESTIONS.json` goes through all of them.
    results = measure(questions[::3], every=16)
    right, wrong = means(results)
    print(table(results))
    assert right >= 0.995
    assert wrong <= 0.002
    assert min(credited for credited, _, _ in results.values()) >= 0.95


def test_families_of_phrasings(shared_dir):
    # A share of all pairs; `python tests/answer_families.py QUESTIONS.json` goes through more of them.
    items = json.loads((shared_dir / "data" / "mmau" / "mmau-test-mini.json").read_text())
    questions = [(item["choices"], item["answer"]) for item in items]
    families = {**answer_families.FAMILIES, **answer_families.LATER_FAMILIES}
    results = answer_families.measure(families, questions, every=200)
    print(answer_families.table(results))
    right, wrong, _ = answer_families.totals(results)
    assert right >= 0.995
    assert wrong <= 0.002
    nothing = answer_families.measure(answer_families.NO_CHOICE, questions, every=200, expected=False)
    assert answer_families.totals(nothing)[1] <= 0.01


def test_every_alternative_of_every_cue():
    right, wrong, pairs, failures = cue_alternatives.rates(OWN_QUESTIONS)
    assert pairs > 3000 and right >= 0.999 and wrong == 0, failures


def test_every_alternative_of_every_cue_on_mmau(shared_dir):
    # A share of all pairs; `python tests/cue_alternatives.py QUESTIONS.json` goes through all of them.
    items = json.loads((shared_dir / "data" / "mmau" / "mmau-test-mini.json").read_text())
    questions = [(item["choices"], item["answer"]) for item in items]
    right, wrong, pairs, failures = cue_alternatives.rates(questions[::125])
    assert pairs > 1500 and right >= 0.995 and wrong <= 0.002, failures


def test_families_without_reference_data():
    questions = [
        (choices, answer) for choices, answer in OWN_QUESTIONS if choices[0] in ("a dog", "Man", "engine hum")
    ]
    results = answer_families.measure(
        {**answer_families.FAMILIES, **answer_families.LATER_FAMILIES}, questions
    )
    right, wrong, _ = answer_families.totals(results)
    assert right >= 0.99
    assert wrong <= 0.001
    assert not answer_families.totals(
        answer_families.measure(answer_families.NO_CHOICE, questions, expected=False)
    )[1]


@pytest.mark.parametrize("refusal", [*REFUSALS, *THIRD_REFUSALS, *FOURTH_REFUSALS])
def test_refusals_give_nothing(refusal):
    for choices, _ in OWN_QUESTIONS:
        if any(text.lower().startswith(("no", "yes")) for text in choices):
            continue  # there, "none" and "no" are answers
        assert parse_choice(refusal.format(*choices), choices) is None


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("A dog", ["a cat", "a dog"], 1),
        ("A dog barks in the distance.", ["rain", "thunder"], None),
        ("Blues", ["Jazz", "Blues"], 1),
        ("B. Man", ["Man", "Woman"], None),  # letter and text disagree
        ("None of the above", ["rain", "none of the above"], 1),
        ("I'd go with the second one: rain.", ["wind", "rain"], 1),
        ("The answer is A dog", ["a cat", "a dog"], 1),
        ("The answer is A", ["a cat", "a dog"], 0),
        ("answer is: b", ["a cat", "a dog"], 1),
        ("I hear a dog", ["cat", "bird"], None),
        ("I think so.", [f"choice {word}" for word in "q r s t u v w x y".split()], None),
        ("It isn't rain, it's wind", ["rain", "wind"], 1),
        ("It doesn't sound like rain.", ["rain", "wind"], None),
        ("the sound is rain, not wind", ["wind", "rain"], 1),
        ("The answer is B. Wait, no. The answer is A.", ["rain", "wind"], 0),
        # What stands before "but" is taken back, also the choice right before it.
        ("rain, but wind", ["rain", "wind", "thunder"], 1),
        ("First rain, then rain, but wind", ["rain", "wind", "thunder"], 1),
        ("Thunder and rain, but finally wind at last here", ["rain", "wind", "thunder"], 1),
        ("Rain is there at the start; still, what dominates is wind", ["rain", "wind", "thunder"], 1),
        ("Option E is right", ["rain", "wind"], None),
        ("fourteen", ["4", "14"], 1),
        ("I hear 14 beeps", ["four", "fourteen"], 1),
        ("woman", ["man", "woman"], 1),
        ("A woman speaks", ["man", "woman"], 1),
        ("Ａ", ["rain", "wind"], 0),
        ("（Ｂ）", ["rain", "wind"], 1),
        ("Answer：B", ["rain", "wind"], 1),
        ("", ["rain"], None),
        ("A. rain", ["rain"], 0),  # a single choice is no list that an answer repeats
        ("rain", [], None),
        # Initials, articles and chords within choices leave letters to be labels; keys do not.
        ("I'm torn between A and B, but I lean towards B.", ["John F. Kennedy", "Lyndon B. Johnson"], 1),
        ("Both A and B are correct.", ["John F. Kennedy", "Lyndon B. Johnson"], None),
        ("Torn between A and B, I lean towards A.", ["A Western film", "A middle eastern film"], 0),
        ("I lean towards A.", ["A:maj/5", "A:7/1"], 0),
        ("I lean towards A.", ["C major", "A minor"], None),
        ("I would answer A slow stop.", ["a crash", "a slow stop"], 1),
        ("A obviously", ["rain", "wind"], 0),
        # Places in the list, beside choices that hold other numbers or ordinals.
        ("Option 1.", ["Two men", "Two women"], 0),
        ("Option 2", ["3", "4", "5"], 1),
        ("The correct option is the fourth one.", ["Largo", "Andante", "Moderato", "Presto"], 3),
        ("The first one.", ["first speaker", "second speaker"], None),
        # What stands after a colon, and what its heading puts aside.
        ("Of the two candidates, rain and wind, the latter fits: wind.", ["rain", "wind", "hail"], 1),
        ("Is it this: rain?", ["rain", "wind"], None),
        ("I can rule out: rain", ["rain", "wind"], None),
        ("The others are wrong: A.", ["rain", "wind"], 0),
        ("B contradicts the audio, A does not.", ["rain", "wind"], 0),
        ("A does not fit and B does not.", ["rain", "wind"], None),
    ],
)
def test_single_cases(text, choices, expected):
    assert parse_choice(text, choices) == expected


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.lists(st.text(max_size=12), max_size=6))
@example("(A)", ["", ""])
@example("\\boxed{", ["a"])
@example('{"answer": [1, {"a": 2}]}', ["1", "2"])
@example("<answer><answer></answer>", ["a"])
def test_any_text_gives_a_choice_or_nothing(text, choices):
    got = parse_choice(text, choices)
    assert got is None or 0 <= got < len(choices)
    assert got == parse_choice(text, choices)


WORDS = [
    "answer",
    "is",
    "not",
    "the",
    "A",
    "B",
    "(C)",
    "D.",
    "rain",
    "wind",
    "a dog",
    "two",
    ",",
    ".",
    "\n",
    "or",
    ":",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_sentences_of_cue_words_give_a_choice_or_nothing(words):
    got = parse_choice(" ".join(words), ["rain", "wind", "a dog", "two"])
    assert got is None or 0 <= got < 4


SOUNDS = ["dog barking", "cat meowing", "car horn", "rain"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat is meowing.", 1), ("It's raining", 3), ("a car's horn", 2), ("A barking dog can be heard", 0),
        ("someone honks a car horn", 2), ("The dog barked", 0),
        ("A cat is not meowing", None), ("A dog barks while a cat meows", None), ("Is a cat meowing?", None),
        ("A dog barks at a cat", None), ("The horn of a car frightens a dog", None),
        ("It may be raining", None), ("a cat", None), ("There was a dog. It barked. Then a bird.", None),
    ],
)  # fmt: skip
def test_a_choice_in_other_words(text, expected):
    assert parse_choice(text, SOUNDS) == expected


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("There were two very loud dogs", ["two dogs", "three dogs"]),
        ("There was a key in G or so, a minor thing", ["G minor", "D major"]),
        ("It went up and then to the left", ["up left", "down right"]),
    ],
)
def test_numbers_letters_and_short_words_alone_paraphrase_nothing(text, choices):
    assert reworded(text, Options(choices)) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("Yeah, there is", 0), ("Nope", 1), ("Yes and no", None), ("No match.", None)]
)
def test_yes_and_no_in_other_words(text, expected):
    assert parse_choice(text, ["Yes", "No"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", True),
        ("no.", False),
        ("Yes, there is a dog.", True),
        ("Nope", False),
        ("The answer is no.", False),
        ("I hear a siren, so yes.", True),
        ("yes or no", None),
        ("There is no dog", None),
        ("maybe", None),
        ("", None),
        ("<think>no no</think>Yes", True),
        ("**No**, it does not.", False),
    ],
)
def test_yes_no(text, expected):
    assert parse_yes_no(text) is expected


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("A dog.", "dog", True),
        ("The answer is: Two", "2", True),
        ("twenty-one", "21", True),
        ("1,000", "one thousand", True),
        ("2.0", "2", True),
        ("2.5", "25", False),
        ("Yes, a bell rings.", "yes", True),
        ("No", "yes", False),
        ("cat", "dog", False),
        ("a", "a", True),
        ("two dogs", "2", False),
    ],
)
def test_answers_match(first, second, same):
    assert answers_match(first, second) is same


def test_number_words():
    assert digits_for_number_words("one thousand, nine hundred and nineteen") == "1919"
    assert digits_for_number_words("two three, twenty-three and a hundred") == "2 3, 23 and a 100"
    assert normalise_answer("Zero") == "0"


@given(
    choice=st.lists(
        st.sampled_from(["rain", "wind", "thunder", "dog", "cat", "bell"]),
        min_size=3,
        max_size=6,
        unique=True,
    ),
    pick=st.integers(0, 2),
    frame=st.sampled_from(
        ["{}", "The answer is {}.", "({})", "**{}**", "<think>{o}</think>{}", "not {o}, but {}"]
    ),
    lower=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_said_is_what_is_read(choice, pick, frame, lower):
    other = choice[(pick + 1) % len(choice)]
    said = frame.format(choice[pick], o=other)
    assert parse_choice(said.lower() if lower else said, choice) == pick
    # Where the choices stand does not matter, nor do choices that are not named.
    turned = choice[::-1]
    assert parse_choice(said, turned) == turned.index(choice[pick])


@given(st.text(max_size=60))
def test_any_text_normalises_to_single_spaced_words(text):
    assert normalise_answer(text) == " ".join(normalise_answer(text).split())
