"""Ranking choices by likelihood: equal to the whole model run once per choice, for any batch and order."""

import numpy as np
import pytest
import torch
from calls import model_inputs

from alm.common.errors import UserError
from eval.errors import EvaluationError
from eval.models.base import Prompt
from eval.models.likelihood import NEUTRAL_PROMPT, NORMALISATIONS, rank_choices
from eval.models.own import OwnModel

CHOICES = [["a bell", "a dog barks", "x"], ["rain", "a bell"], ["a", "a b", "a b c d e f g"], ["what", "is"]]


@pytest.fixture(scope="module")
def loaded(llm_dir):
    from transformers import AutoTokenizer

    from alm.checkpoint import load_llm
    from alm.model import AudioLanguageModel
    from alm.processor import build_processor
    from encoders import encoder_class

    torch.manual_seed(0)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    return model.eval(), build_processor(AutoTokenizer.from_pretrained(llm_dir), model)


@pytest.fixture(scope="module")
def asked(clips):
    questions = ["what is this sound", "which", "a longer question about this sound, is it", "what"]
    conversations = [[{"role": "user", "content": f"<|audio|>{text}"}] for text in questions]
    return conversations, [[clip] for clip in clips]


def naive(model, processor, conversation, audio, choice, normalise="sum"):
    """The whole conversation with this choice as the answer, in one pass."""
    turns = [*conversation, {"role": "assistant", "content": choice}]
    batch = model_inputs(processor, [turns], [audio], output_labels=True)
    labels = batch.pop("labels")
    with torch.inference_mode():
        logits = model(**batch).logits[:, :-1].float().log_softmax(-1)
    wanted = labels[:, 1:]
    found = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    total = float(found[wanted != -100].sum())
    return total / int((wanted != -100).sum()) if normalise == "length" else total


def test_a_model_of_this_toolkit_ranks_as_it_is_told(loaded, asked):
    own = OwnModel(*loaded, "id")
    prompts = [
        Prompt(turns, lambda clips=clips: clips, choices)
        for turns, clips, choices in zip(*asked, CHOICES, strict=True)
    ]
    found = []
    for normalise in NORMALISATIONS:
        ranked = [(index, said.text, said.ranking) for index, said in own.rank(prompts, 16, normalise)]
        assert ranked == list(rank_choices(*loaded, *asked, CHOICES, normalise=normalise))
        found.append(ranked)
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_equals_one_pass_per_choice(loaded, asked, batch_size):
    model, processor = loaded
    for normalise in ("sum", "length"):
        found = {
            index: (choice, scores)
            for index, choice, scores in rank_choices(
                model, processor, *asked, CHOICES, batch_size=batch_size, normalise=normalise
            )
        }
        assert sorted(found) == [0, 1, 2, 3]
        for index, (choice, scores) in found.items():
            wanted = [
                naive(model, processor, asked[0][index], asked[1][index], text, normalise)
                for text in CHOICES[index]
            ]
            assert scores == pytest.approx(wanted, abs=1e-4)
            assert choice == CHOICES[index][int(np.argmax(wanted))]


def test_correction_takes_off_what_a_choice_has_without_the_question(loaded, asked):
    model, processor = loaded
    neutral = [{"role": "user", "content": NEUTRAL_PROMPT}]
    found = {
        i: scores for i, _, scores in rank_choices(model, processor, *asked, CHOICES, normalise="corrected")
    }
    for index, scores in found.items():
        wanted = [
            naive(model, processor, asked[0][index], asked[1][index], text)
            - naive(model, processor, neutral, [], text)
            for text in CHOICES[index]
        ]
        assert scores == pytest.approx(wanted, abs=1e-4)


def test_many_choices_go_through_in_parts(loaded, asked, monkeypatch):
    model, processor = loaded
    whole = sorted(rank_choices(model, processor, *asked, CHOICES))
    monkeypatch.setattr("eval.models.likelihood._ROWS", 2)
    parts = sorted(rank_choices(model, processor, *asked, CHOICES))
    for one, other in zip(whole, parts, strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-5)


def test_wrong_input_is_a_typed_error(loaded, asked):
    with pytest.raises(EvaluationError, match="no choices"):
        next(rank_choices(*loaded, *asked, [["a"], [], ["b"], ["c"]]))
    with pytest.raises(EvaluationError, match="'mean'"):
        next(rank_choices(*loaded, *asked, CHOICES, normalise="mean"))


def test_a_record_beyond_the_context_is_named(loaded, asked, monkeypatch):
    model, processor = loaded
    prompts = [
        Prompt(turns, lambda clips=clips: clips, ("a", "a b c d e f g"), f"q{number}")
        for number, (turns, clips) in enumerate(zip(*asked, strict=True))
    ]
    lengths = [
        model_inputs(processor, [turns], [clips], add_generation_prompt=True)["input_ids"].shape[1]
        for turns, clips in zip(*asked, strict=True)
    ]
    longest = int(np.argmax(lengths))
    own = OwnModel(model, processor, "id", max_new_tokens=1)
    # The longest prompt fits with one token, and with no more: the longer choice has several.
    monkeypatch.setattr(processor, "context_length", max(lengths) + 1)
    assert len(list(own.generate(prompts, 4))) == 4
    with pytest.raises(
        UserError, match=rf"^q{longest}: \d+ audio tokens, \d+ text tokens and an answer of up to "
    ):
        list(own.rank(prompts, 4, "sum"))
    monkeypatch.setattr(processor, "context_length", max(lengths))
    with pytest.raises(
        UserError, match=rf"^q{longest}: \d+ audio tokens, \d+ text tokens and an answer of up to 1 "
    ):
        list(own.generate(prompts, 4))
