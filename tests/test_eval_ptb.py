"""The tokenizer against the tokens of the official Java program."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics._ptb import tokenize


def test_golden_captions_have_the_official_tokens(shared_dir):
    golden = json.loads((shared_dir / "golden" / "captions_audiocaps200.json").read_text())["audiocaps200"]
    captions = golden["candidates"] + [text for texts in golden["references"] for text in texts]
    tokens = golden["ptb_candidates"] + [text for texts in golden["ptb_references"] for text in texts]
    assert len(captions) == 1000
    assert [" ".join(tokenize(text)) for text in captions] == tokens


# What the Java program printed for each line (CoreNLP 3.4.1, official options), the dropped marks taken out.
JAVA = {
    "A man's dog can't bark, don’t ask": "a man 's dog ca n't bark do n't ask",
    "(hello) [x] {y} <a>": "-lrb- hello -rrb- -lsb- x -rsb- -lcb- y -rcb- <a>",
    "50% of $5 and £3 1/2": "50 % of $ 5 and # 3 1/2",
    "“smart” \"quoted\" 'single' ``x''": "smart quoted single x",
    "e.g. the U.S. president Mr. Smith. Etc. a.m. end.": "e.g. the u.s. president mr. smith etc. a.m. end",
    "wait... what?! -- yes --- no - a-b rock-n-roll": "wait what ?! yes no a-b rock-n-roll",
    "café naïve \U0001f600 emoji \U0001f3b5 x ♪": "café naïve emoji x ♪",
    "3.5 1,000 10:30 5-10 1960s '90s 2nd": "3.5 1,000 10:30 5-10 1960s '90s 2nd",
    "rock 'n' roll o'clock d'you ma'am y'all 'tis": "rock 'n' roll o'clock d'you ma'am y' all 't is",
    "gimme lemme gotta gonna wanna cannot dunno": "gim me lem me got ta gon na wan na can not dunno",
    "C++ C# at&t R&B and/or a/b": "c++ c# at & t r&b and/or a/b",
    "hello.goodbye man speaking.A dog. A cat": "hello.goodbye man speaking.a dog a cat",
    "sound,another sound;third": "sound another sound third",
    "2–3 a—b ½ cup €5 ¢ x²": "2 3 a b 1/2 cup $ 5 cents x ²",
    ":) ;-) =D": ":-rrb- ;--rrb- =d",
    "zero\u200bwidth soft\u00adhyphen a\u00a0b": "zero width softhyphen a b",
    "日本語 テスト مرحبا": "日本語 テスト مرحبا",
    "barking., dog word.; x no. 5 No. five": "barking. dog word. x no. 5 no five",
    "": "",
    " ... ": "",
}


@pytest.mark.parametrize("text", JAVA)
def test_tokens_of_the_java_program(text):
    assert " ".join(tokenize(text)) == JAVA[text]


@pytest.mark.parametrize("separator", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_line_separators_are_spaces(separator):
    assert tokenize(f"a dog{separator}barks") == ["a", "dog", "barks"]


@given(st.text(max_size=60))
def test_any_text_gives_words_without_white_space(text):
    tokens = tokenize(text)
    assert all(token and token.split() == [token] and token == token.lower() for token in tokens)
