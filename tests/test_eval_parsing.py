"""The answer parser over many ways of giving an answer, all written before the parser was tuned.

A phrasing is used with the right choice, which must be credited, and with a wrong one, which must not be credited
as the right one. Refusals must give nothing.
"""

import json
import string
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no
from eval.parsing import parse_choice

# letter, text, the other choice named along the way (letter, text), all choices as one listing
Phrasing = Callable[[str, str, str, str, str], str]
PHRASINGS: dict[str, Phrasing] = {
    "letter": lambda l, t, ol, ot, every: l,
    "letter_dot": lambda l, t, ol, ot, every: f"{l}.",
    "letter_parenthesis": lambda l, t, ol, ot, every: f"({l})",
    "letter_lower_parenthesis": lambda l, t, ol, ot, every: f"{l.lower()})",
    "text": lambda l, t, ol, ot, every: t,
    "text_upper_stop": lambda l, t, ol, ot, every: f"{t.upper()}.",
    "letter_and_text": lambda l, t, ol, ot, every: f"{l}. {t}",
    "parenthesis_and_text": lambda l, t, ol, ot, every: f"({l}) {t}",
    "answer_is_letter": lambda l, t, ol, ot, every: f"The answer is {l}.",
    "answer_is_both": lambda l, t, ol, ot, every: f"The correct answer is ({l}) {t}.",
    "answer_colon_text": lambda l, t, ol, ot, every: f"Answer: {t}",
    "bold": lambda l, t, ol, ot, every: f"**{l}. {t}**",
    "bold_cue": lambda l, t, ol, ot, every: f"The best option is **{l}**, which says **{t}**.",
    "think": lambda l, t, ol, ot, every: f"<think>Could be {ot}. The answer is {ol}? No.</think>\n{l}",
    "tag": lambda l, t, ol, ot, every: f"I considered {ot}.\n<answer>{t}</answer>",
    "boxed": lambda l, t, ol, ot, every: f"We rule out {ot}. So \\boxed{{{l}}}",
    "boxed_text": lambda l, t, ol, ot, every: f"$\\boxed{{\\text{{{t}}}}}$",
    "json": lambda l, t, ol, ot, every: json.dumps({"reason": f"not {ot}", "answer": l}),
    "json_fence": lambda l, t, ol, ot, every: f"```json\n{json.dumps({'answer': t}, indent=1)}\n```",
    "rather_than": lambda l, t, ol, ot, every: f"I think it is {t} rather than {ot}.",
    "option_is_correct": lambda l, t, ol, ot, every: f"Option {l} is correct.",
    "not_but": lambda l, t, ol, ot, every: f"It is not {ot}. It is {t}.",
    "sentence": lambda l, t, ol, ot, every: f"Based on the audio, I would say: {t}.",
    "because": lambda l, t, ol, ot, every: f"{l}, because that is what the recording suggests.",
    "explained_below": lambda l, t, ol, ot, every: f"{l}) {t}\n\nExplanation: this fits what can be heard.",
    "listing_first": lambda l, t, ol, ot, every: f"Choices:\n{every}\nThe answer is {l}.",
    "listing_then_text": lambda l, t, ol, ot, every: f"{every}\n\nFinal answer: {t}",
    "reasoning_names_other": lambda l, t, ol, ot, every: (
        f"One might first think of {ot}, since it is common. However, listening closely, the sound points to "
        f"another option. Therefore, the correct choice is {l}. {t}."
    ),
    "other_is_wrong": lambda l, t, ol, ot, every: f"{ot} is incorrect. The right answer would be {t}.",
    "choose": lambda l, t, ol, ot, every: f"Between ({ol}) and ({l}), I would choose ({l}).",
    "last_line": lambda l, t, ol, ot, every: f"Let me think step by step about the audio.\n\n{l}. {t}",
}

REFUSALS = [
    "I cannot determine the answer from the audio.",
    "None of the above.",
    "The answer is none of the above.",
    "I'm sorry, but I can't listen to audio.",
    "It is unclear whether it is {0} or {1}.",
    "It could be {0} or {1}.",
    "I don't know.",
    "Not enough information to tell {0} from {1}.",
    "",
    "...",
    "Sorry, as an AI model I am unable to tell if this is {0}.",
    "Neither {0} nor {1}.",
    "<think>It must be {0}",
    "<answer>unsure</answer>",
    "None of these options are right.",
    "It is not {0}.",
    "The answer is not {0}.",
    "{0}, {1}",
    "Either {1} or {0}",
]


def listing(choices: list[str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, choices, strict=False))


def measure(questions: list[tuple[list[str], str]]) -> dict[str, tuple[float, float, list]]:
    """Per phrasing: share of right answers credited, share of wrong ones credited, and the failures."""
    results = {}
    for name, phrase in PHRASINGS.items():
        credited = wrongly = 0
        failures = []
        for choices, answer in questions:
            right = choices.index(answer)
            # duplicated choices: any of the equal ones is right
            wrong = next(i for i in range(1, len(choices)) if choices[(right + i) % len(choices)] != answer)
            wrong = (right + wrong) % len(choices)
            for pick, other in ((right, wrong), (wrong, right)):
                said = phrase(
                    string.ascii_uppercase[pick],
                    choices[pick],
                    string.ascii_uppercase[other],
                    choices[other],
                    listing(choices),
                )
                got = parse_choice(said, choices)
                hit = got is not None and choices[got] == answer
                if pick == right:
                    credited += hit
                else:
                    wrongly += hit
                if hit != (pick == right):
                    failures.append((said, choices, got))
        results[name] = (credited / len(questions), wrongly / len(questions), failures)
    return results


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
    (["No, it is not present.", "Yes, it is the first sound.", "Yes, it is the last sound."], "No, it is not present."),
    (["first speaker", "second speaker", "both speakers", "none of the speakers"], "none of the speakers"),
    (["C#", "F#", "Ebm", "G#"], "F#"),
    (["E:min7/1", "A:7/1", "D:maj7(11)/4", "G:maj7/1"], "A:7/1"),
    (["2.5 seconds", "5 seconds", "0.5 seconds", "25 seconds"], "5 seconds"),
    (["engine hum", "drum", "bubbles", "click train", "bird-like chirp"], "click train"),
    (["Crackling", "None", "Echoing", "Muted"], "None"),
]


def test_own_questions():
    results = measure(OWN_QUESTIONS)
    assert {name: failures for name, (_, _, failures) in results.items() if failures} == {}


def test_mmau_questions(shared_dir):
    questions = [
        (item["choices"], item["answer"])
        for item in json.loads((shared_dir / "data" / "mmau" / "mmau-test-mini.json").read_text())
    ]
    results = measure(questions)
    assert len(questions) == 1000 and len(results) >= 12
    right = sum(credited for credited, _, _ in results.values()) / len(results)
    wrong = sum(wrongly for _, wrongly, _ in results.values()) / len(results)
    assert right >= 0.995
    assert wrong <= 0.002
    assert min(credited for credited, _, _ in results.values()) >= 0.98


@pytest.mark.parametrize("refusal", REFUSALS)
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
        ("Option E is right", ["rain", "wind"], None),
        ("fourteen", ["4", "14"], 1),
        ("I hear 14 beeps", ["four", "fourteen"], 1),
        ("woman", ["man", "woman"], 1),
        ("A woman speaks", ["man", "woman"], 1),
        ("full-width Ａ", ["rain", "wind"], None),
        ("（Ｂ）", ["rain", "wind"], 1),
        ("Answer：B", ["rain", "wind"], 1),
        ("", ["rain"], None),
        ("rain", [], None),
    ],
)
def test_single_cases(text, choices, expected):
    assert parse_choice(text, choices) == expected


@given(st.text(max_size=80), st.lists(st.text(max_size=12), max_size=6))
@example("(A)", ["", ""])
@example("\\boxed{", ["a"])
@example('{"answer": [1, {"a": 2}]}', ["1", "2"])
@example("<answer><answer></answer>", ["a"])
def test_any_text_gives_a_choice_or_nothing(text, choices):
    got = parse_choice(text, choices)
    assert got is None or 0 <= got < len(choices)
    assert got == parse_choice(text, choices)


WORDS = ["answer", "is", "not", "the", "A", "B", "(C)", "D.", "rain", "wind", "a dog", "two", ",", ".", "\n", "or", ":"]


@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_sentences_of_cue_words_give_a_choice_or_nothing(words):
    got = parse_choice(" ".join(words), ["rain", "wind", "a dog", "two"])
    assert got is None or 0 <= got < 4


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


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text):
    once = normalise_answer(text)
    assert normalise_answer(once) == once
