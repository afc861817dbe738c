"""The answer parser over many ways of giving an answer, all written before the parser was tuned.

A phrasing is used with the right choice, which must be credited, and with a wrong one, which must not be credited
as the right one. Refusals must give nothing.
"""

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no
from eval.parsing import parse_choice

# @L@ and @T@: letter and text of the choice given; @OL@ and @OT@: of another one named along the way; @ALL@: all.
PHRASINGS = {
    "letter": "@L@",
    "letter_dot": "@L@.",
    "letter_parenthesis": "(@L@)",
    "letter_lower_parenthesis": "@l@)",
    "text": "@T@",
    "text_upper_stop": "@TU@.",
    "letter_and_text": "@L@. @T@",
    "parenthesis_and_text": "(@L@) @T@",
    "answer_is_letter": "The answer is @L@.",
    "answer_is_both": "The correct answer is (@L@) @T@.",
    "answer_colon_text": "Answer: @T@",
    "bold": "**@L@. @T@**",
    "bold_cue": "The best option is **@L@**, which says **@T@**.",
    "think": "<think>Could be @OT@. The answer is @OL@? No.</think>\n@L@",
    "tag": "I considered @OT@.\n<answer>@T@</answer>",
    "boxed": "We rule out @OT@. So \\boxed{@L@}",
    "boxed_text": "$\\boxed{\\text{@T@}}$",
    "json": '{"reason": "not @OT@", "answer": "@L@"}',
    "json_fence": '```json\n{\n "answer": "@T@"\n}\n```',
    "rather_than": "I think it is @T@ rather than @OT@.",
    "option_is_correct": "Option @L@ is correct.",
    "not_but": "It is not @OT@. It is @T@.",
    "sentence": "Based on the audio, I would say: @T@.",
    "because": "@L@, because that is what the recording suggests.",
    "explained_below": "@L@) @T@\n\nExplanation: this fits what can be heard.",
    "listing_first": "Choices:\n@ALL@\nThe answer is @L@.",
    "listing_then_text": "@ALL@\n\nFinal answer: @T@",
    "reasoning_names_other": (
        "One might first think of @OT@, since it is common. However, listening closely, the sound "
        "points to another option. Therefore, the correct choice is @L@. @T@."
    ),
    "other_is_wrong": "@OT@ is incorrect. The right answer would be @T@.",
    "choose": "Between (@OL@) and (@L@), I would choose (@L@).",
    "last_line": "Let me think step by step about the audio.\n\n@L@. @T@",
}

# Written after the parser was tuned on those above; blind once (93.8 % right, 0 % wrong on a fifth of the questions),
# then their failures were mended, so from then on they guard against regressions rather than measure.
LATER_PHRASINGS = {
    "correct_option_is": "The correct option is @L@: @T@.",
    "final": "Final Answer: **(@L@)**",
    "answer_nl": "### Answer\n\n@T@",
    "cot": (
        "Let's analyze each option:\n- **@OL@. @OT@**: This does not match the audio.\n- **@L@. @T@**: "
        "This matches the audio.\n\nTherefore, the answer is **@L@. @T@**."
    ),
    "cot2": (
        "First, I listened for @OT@. There were no clear cues for it. What I hear instead is closer to "
        "@T@. My final choice: @L@"
    ),
    "most_likely": "The most likely answer is @T@.",
    "so_answer": "... so the answer should be @L@, not @OL@.",
    "instead": "Instead of @OT@, the audio features @T@.",
    "unlike": "Unlike @OT@, @T@ fits what I hear.",
    "ruled": "@OT@ can be ruled out. @T@ is the best match.",
    "letter_colon": "@L@: @T@",
    "letter_dash": "@L@ - @T@",
    "bracket": "[@L@] @T@",
    "quote": '"@T@"',
    "answer_quote": 'The answer is "@T@".',
    "answer_quote2": "My answer is '@L@'.",
    "go": "I'd go with @L@.",
    "go2": "I'll go with option @L@ (@T@).",
    "would_be": "That would be @L@) @T@.",
    "correct": "@L@ is the correct answer.",
    "correct2": "@T@ is the correct answer because it is clearly audible, whereas @OT@ is not.",
    "corr3": "(@L@) is correct. (@OL@) is wrong.",
    "sure": "Sure! The answer to the question is: @L@. @T@",
    "json2": '{"Answer": "@L@. @T@", "confidence": 0.8}',
    "json3": 'Here you go: {"choice": "(@L@)"} Hope this helps.',
    "boxed2": "The final answer is $\\boxed{\\text{(@L@) @T@}}$.",
    "later_think": "Okay, so maybe @OT@... the answer is @OL@. Hmm wait.</think>\n\n**Answer:** @L@",
    "tag2": "<think>@OL@ or @L@</think><answer>@L@. @T@</answer>",
    "tag3": "<answer>(@L@)</answer>",
    "lower": "the answer is @l@",
    "lower2": "answer: (@l@) @t@",
    "trail": "@T@ (@L@)",
    "hear": "I hear @T@.",
    "noteither": "I don't think it's @OT@; I believe it's @T@.",
    "hedge": "It is difficult to say for sure, but I would choose @L@. @T@",
    "hedge2": "I'm not entirely sure, but the answer is probably @T@.",
    "hence": "Hence, @L@.",
    "opt_nl": "Option @L@",
    "choice_nl": "Choice: @L@",
    "select": "Based on the audio I select option (@L@).",
    "reason_after": "@T@\n\nThe audio contains characteristic features. It does not sound like @OT@.",
    "reason_after2": "@L@\n\nReason: @OT@ would sound different.",
    "q": "Is it @OT@? No, it is @T@.",
    "list_inline": "Given the options @INLINE@, the answer is @L@.",
    "para": (
        "The audio clip features several elements. While @OT@ might seem plausible, the evidence "
        "supports @T@. Thus, @L@ is the answer."
    ),
    "elim": "We can eliminate @OT@. That leaves @T@.",
    "emph": "The answer is: *@T@*",
    "tick": "✅ @L@. @T@",
    "answer_is_nl": "The answer is:\n\n@L@. @T@\n\nLet me know if you need more.",
    "corresponds": "This corresponds to option @L@.",
    "best_desc": "The option that best describes the audio is @L@.",
    "among": "Among the given options, @T@ is the most appropriate.",
    "neg_other_after": "The answer is @T@. @OT@ is incorrect.",
    "notanswer": "The answer is not @OT@. The answer is @T@.",
    "assistant": "Assistant: @L@",
    "A_hash": "Ans: @L@",
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
    return "\n".join(
        f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, choices, strict=False)
    )


def fill(name: str, template: str, pick: int, other: int, choices: list[str]) -> str:
    values = {
        "L": string.ascii_uppercase[pick],
        "l": string.ascii_lowercase[pick],
        "T": choices[pick],
        "t": choices[pick].lower(),
        "TU": choices[pick].upper(),
        "OL": string.ascii_uppercase[other],
        "OT": choices[other],
        "ALL": listing(choices),
        "INLINE": listing(choices).replace("\n", ", "),
    }
    if "json" in name:
        values = {key: json.dumps(value)[1:-1] for key, value in values.items()}
    for key, value in values.items():
        template = template.replace(f"@{key}@", value)
    return template


def measure(questions: list[tuple[list[str], str]], every: int = 1) -> dict[str, tuple[float, float, list]]:
    """Per phrasing: share of right answers credited, share of wrong ones credited, and the failures.

    Each phrasing sees one question in `every`, another one than its neighbours.
    """
    results = {}
    for number, (name, template) in enumerate({**PHRASINGS, **LATER_PHRASINGS}.items()):
        seen = questions[number % every :: every]
        credited = wrongly = 0
        failures = []
        for choices, answer in seen:
            right = choices.index(answer)
            # Of choices listed twice either one is right.
            wrong = next(i for i in range(1, len(choices)) if choices[(right + i) % len(choices)] != answer)
            wrong = (right + wrong) % len(choices)
            for pick, other in ((right, wrong), (wrong, right)):
                said = fill(name, template, pick, other, choices)
                got = parse_choice(said, choices)
                hit = got is not None and choices[got] == answer
                if pick == right:
                    credited += hit
                else:
                    wrongly += hit
                if hit != (pick == right):
                    failures.append((said, choices, got))
        results[name] = (credited / len(seen), wrongly / len(seen), failures)
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
    assert sum(results[name][0] for name in LATER_PHRASINGS) / len(LATER_PHRASINGS) >= 0.98
    assert not any(wrongly for _, wrongly, _ in results.values())


def test_mmau_questions(shared_dir):
    questions = [
        (item["choices"], item["answer"])
        for item in json.loads((shared_dir / "data" / "mmau" / "mmau-test-mini.json").read_text())
    ]
    assert len(questions) == 1000
    # A share of all pairs, to be quick; over all of them the figures are 99.92 % and 0.03 %.
    results = measure(questions[::3], every=4)
    right = sum(credited for credited, _, _ in results.values()) / len(results)
    wrong = sum(wrongly for _, wrongly, _ in results.values()) / len(results)
    assert right >= 0.995
    assert wrong <= 0.002
    assert min(credited for credited, _, _ in results.values()) >= 0.97


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
def test_any_text_normalises_to_single_spaced_words(text):
    assert normalise_answer(text) == " ".join(normalise_answer(text).split())
