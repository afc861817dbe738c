"""Ways of giving an answer to a multiple-choice question, and a measure of how a parser reads them.

A phrasing is used with the right choice, which must be credited, and with a wrong one, which must not be credited
as the right one. Each set says when it was written.
"""

import json
import string
import sys

from eval.parsing.choices import parse_choice

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

# Written third, before a line of the parser was changed for them. When first run: 93.0 % of right answers and 0.08 %
# of wrong ones credited.
THIRD_PHRASINGS = {
    "not_letter_but_letter": "it's not @OL@, it's @L@",
    "not_text_but_text": "It's not @OT@, it's @T@.",
    "lower_letter": "@l@",
    "lower_text": "@t@",
    "based_on_bold": "Based on the audio provided, the correct option is **@L@) @T@**.",
    "single_quotes": "'@T@'",
    "curly_quotes": "\u201c@T@.\u201d",
    "cue_parenthesis": "The answer is (@L@).",
    "json_explained": '{"explanation": "@OT@ would sound different", "final_answer": "@T@"}',
    "think_then_cue": "<think>The options include @OT@. Hmm, I'd pick @OT@. No: @T@</think>The answer is @T@.",
    "and_not": "I am confident that the answer is @T@ and not @OT@.",
    "initial_thought": "My initial thought was @OT@, but after listening again I believe the answer is @T@.",
    "question_no": "@OT@? No, definitely @T@.",
    "sound_of": "The sound is that of @T@.",
    "definitely": "Definitely (@L@), since the other options such as @OT@ do not fit.",
    "dash_explained": "@L@ \u2014 @T@. @OT@ would have needed other cues.",
    "option_parenthesis": "Option (@L@): @T@",
    "out_of": "Out of @OT@ and @T@, the recording fits @T@ better.",
    "bold_answer_explained": "**Answer: @L@**\n\n**Explanation:** The clip does not contain @OT@.",
    "headings": (
        "### Reasoning\n1. The audio begins quietly.\n2. @OT@ is unlikely.\n3. @T@ matches.\n\n"
        "### Final answer\n@L@"
    ),
    "shouting": "ANSWER: @L@",
    "arrow": "Correct answer => @L@",
    "say_lower": "I'd say @l@.",
    "has_to_be": "It has to be @T@.",
    "matches_choice": "The audio most closely matches choice @L@.",
    "one_by_one": "@OL@. @OT@ \u2014 does not fit.\n@L@. @T@ \u2014 fits best.\n\nSo I choose @L@.",
    "letter_line_text": "@L@.\n@T@",
    "code": "`@L@`",
    "boxed_both": "\\boxed{@L@. @T@}",
    "boxed_display": "\\[\\boxed{\\textbf{(@L@)}}\\]",
    "after_consideration": "After careful consideration, @T@.",
    "later_apparent": "At first one notices @OT@. Later, it becomes apparent that @T@ is right.",
    "correct_option_lower": "the correct answer is option @l@",
    "cannot_so_must": "It can't be @OT@, so it must be @T@.",
    "only_remaining": "Since @OT@ is not present in the clip, the only remaining sensible option is @T@.",
    "answer_hyphen": "Answer - @L@",
    "letter_space_text": "@L@ @T@",
    "tag_explained": "<answer>@L@. @T@</answer> because @OT@ is absent",
    "json_list": '["@T@"]',
    "json_single_quotes": "{'answer': '@L@'}",
    "confidence": "Answer: @L@\nConfidence: 85%",
    "believe_to_be": "I believe the answer to be @T@, given what I hear.",
    "ie": "My answer: @L@, i.e. @T@.",
    "final_then_bracket": "Final answer: @L@\n\n(I considered @OL@ but rejected it.)",
    "better_fit": "I initially considered option @OL@ but option @L@ is a better fit.",
    "settle": (
        "Let me consider. Option @OL@ (@OT@) seems plausible at first. Option @L@ (@T@) also does. "
        "Weighing both, I settle on @L@."
    ),
    "thus_final": "The listener asks for the best choice. Thus final: @L@",
    "right_choice_would_be": "The right choice here would be @T@; @OT@ does not agree with what is heard.",
    "text_dash": "@T@ - this is what the audio indicates.",
    "its_letter": "It's @L@.",
    "exclaimed": "@L@!",
    "response": "Response: (@L@) @T@",
    "one_that_says": "Therefore the correct option is the one that says @T@.",
    "quoted_both": 'The answer: "@L@: @T@"',
    "bold_letter": "**@L@**: @T@",
    "letter_bracketed_text": "@L@ (@T@)",
    "as_opposed": "In conclusion, @T@ best describes the audio, as opposed to @OT@.",
    "bold_line": "The final answer is:\n**@T@**",
    "long": (
        "Let me listen closely. In the first seconds there are cues that could suggest @OT@. I also considered "
        "whether (@OL@) would explain the background. However, the later part of the recording is inconsistent "
        "with that reading: the timing and the level do not agree. Putting this together, the evidence points "
        "towards @T@.\n\nAnswer: (@L@) @T@"
    ),
    "long_text_end": (
        "We need to decide among the options. @OT@ comes to mind because it is common in such clips. But the "
        "recording lacks its typical features. What remains is @T@, which agrees with everything that is heard. "
        "So the final answer is @T@."
    ),
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

# Written with the third set of phrasings, before the parser was changed for them.
THIRD_REFUSALS = [
    "I am not able to hear the audio.",
    "There is no audio provided.",
    "N/A",
    "Unknown",
    "All of the above.",
    "Both {0} and {1}.",
    "A or B",
    "A and B",
    "A, B",
    "(A) or (B)",
    "I can't choose between {0} and {1}.",
    "It's impossible to say.",
    "The audio does not match any of the options.",
    "No option fits.",
    "None of the provided choices is correct.",
    "I would need to listen to the audio to say whether it is {0}.",
    "Answer: none of the above",
    "\\boxed{{None of the above}}",
    '{{"answer": null}}',
    '{{"answer": "none of the above"}}',
    "The answer is neither A nor B.",
    "Not A.",
    "It isn't {0} or {1}.",
    "I refuse to answer.",
    "Z",
    "The answer is either A or B.",
    "The answer could be A, B or C.",
    "Could be {0}, could be {1}.",
    "A. {1}",
    "<think>The answer is {0}.",
    "Maybe {0}? Maybe {1}?",
    "It's not {0}. It's not {1}.",
    "Without the audio I cannot say whether the answer is A.",
]


# Written fourth, after the failures of the third were mended. When first run: 77.0 % and 2.6 %.
FOURTH_PHRASINGS = {
    "ok_its": "Ok so it's clearly @T@",
    "hash_answer": "#### @L@",
    "bracket_tag": "[ANSWER] @L@ [/ANSWER]",
    "xml_final": "<final>@L@</final>",
    "hmm_wait": "@OL@... hmm, wait. Listening again, it is @L@.",
    "given_the": "Given the tempo and the level, @T@ seems right.",
    "more_likely_than": "@T@ is more likely than @OT@.",
    "confident": "@T@, I'm fairly confident.",
    "number_of_option": 'The correct one is option @L@: "@T@".',
    "would_go_text": "If I had to choose, I'd go for @T@.",
    "both_lines": "Choice: @L@\nText: @T@",
    "table_like": "| Answer | @L@ |",
    "yaml": "reasoning: @OT@ lacks support\nanswer: @T@",
    "json_nested": '{"result": {"answer": "@L@", "why": "@OT@ is absent"}}',
    "json_array_objects": '[{"id": 1, "answer": "@L@"}]',
    "polite": "Thank you for the question! After listening, my answer would be **@T@**. Hope that helps!",
    "capital_words": "THE CORRECT ANSWER IS @L@",
    "not_x_y_correct": "@OL@ is not correct, @L@ is.",
    "leaning": "I'm leaning towards @T@.",
    "suggests": "The recording strongly suggests @T@.",
    "consistent": "What is heard is consistent with @T@ but not with @OT@.",
    "indicating": "There is a clear pattern in the clip, indicating @T@.",
    "rule_out_letters": "(@OL@) can be excluded, which leaves (@L@).",
    "answer_last_para": "The clip is short.\n\nIt has one event.\n\n@T@",
    "latex_text": "The answer is $\\text{@L@}$.",
    "latex_final": "Final Answer: The final answer is $\\boxed{@L@}$. I hope it is correct.",
    "correct_colon": "Correct: @L@",
    "pipe": "@L@ | @T@",
    "underscore": "_@T@_",
    "letter_semicolon": "@L@; the others do not apply.",
    "turn_prefix": "<|assistant|> @L@. @T@",
    "end_token": "@L@. @T@<|im_end|>",
    "question_echo": "Question: which one is it? Answer: @L@. @T@",
    "i_hear_so": "I hear something that matches @T@, so @L@.",
    "rather": "Rather than @OT@, I would say @T@.",
    "could_be_but": "It could be @OT@, but @T@ is the better answer.",
    "though": "Though @OT@ is tempting, the answer has to be @T@.",
    "step_conclusion": "Step 1: listen.\nStep 2: compare with @OT@.\nStep 3: compare with @T@.\nConclusion: @T@",
    "letter_equals": "Answer = @L@",
    "emoji": "\U0001f3b5 The answer is @T@ \U0001f3b5",
}

# Written fifth, after the failures of the fourth were mended. When first run: 88.7 % of right answers and 0.05 % of
# wrong ones credited (23 of 26 phrasings read, the others not at all); the three were mended afterwards.
FIFTH_PHRASINGS = {
    "clearly_colon": "Clearly: @T@",
    "answer_below": "Answer below:\n(@L@)",
    "as_such": "As such, I will answer with @L@.",
    "no_doubt": "There is no doubt that it's @T@.",
    "would_fit_best": "Of the four, @T@ would fit best.",
    "strike": "Not @OT@. @T@.",
    "rest_wrong": "@T@ is right, the rest is wrong.",
    "per_option_verdict": "@OL@) @OT@: no\n@L@) @T@: yes",
    "hedged_percent": "80% @T@, 20% @OT@. Answer: @T@",
    "switch": "I first thought @OT@ but switched to @T@.",
    "explanation_first": "Explanation: the sound has a fast decay. Answer: (@L@).",
    "parenthesised_reason": "@T@ (the recording has no sign of @OT@)",
    "listen_carefully": "If you listen carefully you can tell that this is @T@.",
    "quoted_letter": '"@L@"',
    "json_option_text": '{"option": "@L@", "text": "@T@"}',
    "starred": "* @L@. @T@",
    "dotted_lower": "@l@. @t@",
    "final_choice_bold": "My final choice is **@L@**.",
    "not_only": "While @OT@ can be heard in many clips like this, here it is @T@.",
    "question_restated": "You ask which one it is. It is @T@.",
    "double_negative": "It is not that @OT@ is impossible, but the answer is @T@.",
    "ellipsis": "...@T@...",
    "correct_tick": "@L@ \u2714",
    "two_sentences": "@T@. That is my answer.",
    "name_letter": "Letter @L@.",
    "think_tag_only_end": "first @OT@, then again @T@ ... decide: @L@\n</think>\n@L@",
}

FOURTH_REFUSALS = [
    "I do not have the ability to process audio.",
    "Please upload the recording.",
    "It might be A, but it might also be B.",
    "Neither.",
    "no answer",
    "The question cannot be answered.",
    "{0} or {1}, hard to say.",
    "A/B",
    "Options A and C both fit.",
    "The answer is not A, and it is not B.",
    "I am torn between {0} and {1}.",
    "As a text model I cannot play sounds, so I can't say if it is {1}.",
]

ALL_PHRASINGS = {**PHRASINGS, **LATER_PHRASINGS, **THIRD_PHRASINGS, **FOURTH_PHRASINGS, **FIFTH_PHRASINGS}


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
    for number, (name, template) in enumerate(ALL_PHRASINGS.items()):
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


def means(results: dict[str, tuple[float, float, list]]) -> tuple[float, float]:
    """Shares of right and of wrong answers credited, over all phrasings."""
    right = sum(credited for credited, _, _ in results.values()) / len(results)
    return right, sum(wrongly for _, wrongly, _ in results.values()) / len(results)


def table(results: dict[str, tuple[float, float, list]]) -> str:
    """The shares per phrasing, in percent."""
    rows = [f"{'phrasing':28s} right credited  wrong credited"]
    rows += [
        f"{name:28s} {100 * right:14.2f} {100 * wrong:15.2f}" for name, (right, wrong, _) in results.items()
    ]
    right, wrong = means(results)
    return "\n".join([*rows, f"{'all ' + str(len(results)):28s} {100 * right:14.2f} {100 * wrong:15.2f}"])


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(table(measure([(item["choices"], item["answer"]) for item in json.load(file)])))
