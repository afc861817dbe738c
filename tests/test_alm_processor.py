"""Conversations to tokens: templates, tokenizers, labels, several clips and turns, truncation."""

import numpy as np
import pytest
import sentencepiece
from calls import model_inputs
from transformers import AutoTokenizer, LlamaTokenizer

from alm.common.errors import AudioError, UserError
from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
from alm.processor import AudioLanguageProcessor
from encoders import encoder_class
from projectors import build_projector

ENCODER = encoder_class("audiomosaic").tiny()
PROJECTOR = build_projector("mlp", ENCODER, 8).config.to_dict()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Qwen3: the last answer follows an empty block of thoughts, earlier ones do not.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# Gemma: its own role names, no system turn, content stripped.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
# Llama-2 and Mistral: blanks around answers, the end token directly behind.
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
# Phi-3: every turn has an end, and the whole conversation one more.
PHI3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML, "qwen3": QWEN3, "gemma": GEMMA, "llama2": LLAMA2, "phi3": PHI3, "plain": "plain",
    "alpaca-short": "alpaca-short",
}  # fmt: skip
TURNS = [
    {"role": "user", "content": "<|audio|>what is this sound"},
    {"role": "assistant", "content": "a bell"},
    {"role": "user", "content": "and now<|audio|>"},
    {"role": "assistant", "content": "a dog barks"},
]
CLIPS = [np.zeros(n, dtype=np.float32) for n in (8000, 5000)]


@pytest.fixture(scope="module")
def sentencepiece_dir(tmp_path_factory):
    """A Llama tokenizer in SentencePiece's own format, as released with Llama-2 and Vicuna."""
    folder = tmp_path_factory.mktemp("sp")
    text = folder / "text.txt"
    text.write_text(
        "\n".join(["what is this sound", "a bell", "a dog barks and a bell rings", "and now"] * 20)
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=300, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizers(llm_dir, sentencepiece_dir):
    sp = AutoTokenizer.from_pretrained(sentencepiece_dir)
    sp.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    return {"fast": AutoTokenizer.from_pretrained(llm_dir), "sentencepiece": sp}


def build(tokenizer, template):
    extractor = AudioLanguageFeatureExtractor(ENCODER.config.to_dict(), PROJECTOR)
    return AudioLanguageProcessor(extractor, tokenizer, TEMPLATES.get(template, template))


def supervised(processor, batch, row=0):
    """The labelled pieces of a sample, each decoded."""
    labels = batch["labels"][row].tolist()
    pieces, piece = [], []
    for label in [*labels, -100]:
        if label == -100 and piece:
            pieces.append(processor.tokenizer.decode(piece).strip())
            piece = []
        elif label != -100:
            piece.append(label)
    return pieces


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_answers_and_their_ends_are_labelled_whatever_the_template(tokenizers, template, kind):
    processor = build(tokenizers[kind], template)
    batch = model_inputs(processor, [TURNS], [CLIPS], output_labels=True)
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    end = {"plain": "eos", "alpaca-short": "eos", "llama2": "eos"}.get(template)
    end = processor.tokenizer.eos_token if end else "<|im_end|>"
    found = [piece.replace(" ", "") for piece in supervised(processor, batch)]
    assert found == [f"abell{end}", f"adogbarks{end}"]
    assert (labels[labels != -100] == ids[labels != -100]).all()
    n_audio = sum(processor.n_audio_tokens(len(clip)) for clip in CLIPS)
    assert int((ids == processor.audio_token_id).sum()) == n_audio
    assert processor.tokenizer.convert_tokens_to_ids(end) in processor.stop_token_ids
    # The prompt of a generated answer is the text before the answer in training.
    for n in (1, 3):
        if (template, n) == ("alpaca-short", 1):
            continue  # this template also moves the later clip to the front
        prompt = model_inputs(processor, [TURNS[:n]], [CLIPS[: (n + 1) // 2]], add_generation_prompt=True)[
            "input_ids"
        ][0]
        trained = model_inputs(processor, [TURNS[: n + 1]], [CLIPS[: (n + 1) // 2]], output_labels=True)
        n_prompt = len(prompt)
        assert trained["input_ids"][0][:n_prompt].tolist() == prompt.tolist()
        assert trained["labels"][0][n_prompt - 1] == -100 != trained["labels"][0][n_prompt]


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
def test_tokens_are_those_of_the_whole_text(tokenizers, kind):
    """Taking a conversation apart must not change how the LLM's tokenizer writes it."""
    processor = build(tokenizers[kind], CHATML)
    texts = [{**turn, "content": turn["content"].replace("<|audio|>", "")} for turn in TURNS]
    whole = processor.tokenizer.apply_chat_template(
        texts, chat_template=processor.chat_template, tokenize=True, return_dict=False
    )
    assert model_inputs(processor, [texts])["input_ids"][0].tolist() == whole


def test_all_text_is_labelled_by_option_and_audio_never(tokenizers):
    processor = build(tokenizers["fast"], CHATML)
    batch = model_inputs(
        processor, [TURNS, TURNS[:2]], [CLIPS, CLIPS[:1]], output_labels=True, supervise="all"
    )
    is_text = (batch["input_ids"] != processor.audio_token_id) & batch["attention_mask"].bool()
    assert ((batch["labels"] != -100) == is_text).all()
    with pytest.raises(UserError, match="expected one of assistant, all"):
        model_inputs(processor, [TURNS], [CLIPS], output_labels=True, supervise="user")


def test_a_template_that_marks_no_end_gets_the_end_of_text(tokenizers):
    processor = build(tokenizers["fast"], NO_END)
    batch = model_inputs(processor, [TURNS[:2]], [CLIPS[:1]], output_labels=True)
    assert supervised(processor, batch) == ["a bell<|im_end|>"]  # this tokenizer's end of text


def test_a_template_that_hides_answers_is_refused(tokenizers):
    processor = build(
        tokenizers["fast"], "{% for m in messages %}{{ m.content | upper }}{{ m.role }}{% endfor %}"
    )
    with pytest.raises(UserError, match="changes or drops turn 1"):
        model_inputs(processor, [TURNS[:2]], [CLIPS[:1]], output_labels=True)


def test_content_may_be_a_list_of_items(tokenizers):
    processor = build(tokenizers["fast"], CHATML)
    items = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "what is this sound"}]}]
    a, b = (
        model_inputs(processor, [turns], [CLIPS[:1]], add_generation_prompt=True)
        for turns in (items, TURNS[:1])
    )
    assert a["input_ids"].tolist() == b["input_ids"].tolist()


def test_alpaca_short_is_ltus_prompt(tokenizers):
    processor = build(tokenizers["fast"], "alpaca-short")
    parts = processor.template().parts(TURNS[:2])
    assert parts == [
        ("<|audio|><s>### Instruction:\nwhat is this sound\n\n### Response:\n", False),
        ("a bell<|im_end|>", True),
    ]


def test_truncation_keeps_clips_whole_and_is_reported(tokenizers):
    processor = build(tokenizers["fast"], CHATML)
    whole = model_inputs(processor, [TURNS], [CLIPS], output_labels=True)
    ids = whole["input_ids"][0]
    is_audio = (ids == processor.audio_token_id).tolist()
    second = max(i for i in range(len(ids)) if is_audio[i] and not is_audio[i - 1])
    n_second = processor.n_audio_tokens(len(CLIPS[1]))
    assert n_second > 2
    for limit in range(second - 2, len(ids)):
        with pytest.warns(UserWarning, match=f"1 of 2 samples were cut to {limit} tokens or less"):
            batch = model_inputs(
                processor,
                [TURNS, TURNS[:2]],
                [CLIPS, CLIPS[:1]],
                output_labels=True,
                max_length=limit,
                truncation=True,
            )
        kept = batch["attention_mask"][0].sum()
        inside = second < limit < second + n_second
        assert kept == (second if inside else limit)
        assert len(batch["audio_index"]) == (2 if limit < second + n_second else 3)
        assert batch["input_values"].shape[0] == len(set(batch["audio_index"].tolist()))
        assert batch["input_ids"][0, :kept].tolist() == ids[:kept].tolist()
    with pytest.raises(UserError, match="more than max_length=20"):
        model_inputs(processor, [TURNS], [CLIPS], output_labels=True, max_length=20)
    with pytest.raises(UserError, match="no answer left"), pytest.warns(UserWarning):
        model_inputs(processor, [TURNS], [CLIPS], output_labels=True, max_length=10, truncation=True)
    with pytest.raises(UserError, match="a prompt is not cut"):
        model_inputs(
            processor, [TURNS[:1]], [CLIPS[:1]], add_generation_prompt=True, max_length=10, truncation=True
        )


def test_audio_beyond_the_budget_is_refused_by_clip_and_by_conversation(tokenizers, tmp_path):
    processor = build(tokenizers["fast"], CHATML)
    counts = [processor.n_audio_tokens(len(clip)) for clip in CLIPS]
    processor.max_audio_tokens = sum(counts)
    model_inputs(processor, [TURNS], [CLIPS])
    processor.save_pretrained(tmp_path)
    processor = AudioLanguageProcessor.from_pretrained(tmp_path)
    assert processor.max_audio_tokens == sum(counts)
    processor.max_audio_tokens -= 1
    message = f"of a conversation .2 clips. takes {sum(counts)} audio tokens, more than max_audio_tokens"
    with pytest.raises(AudioError, match=message):
        model_inputs(processor, [TURNS], [CLIPS])
    with pytest.raises(AudioError, match=r"a clip of 600\.0 s takes"):
        processor.n_audio_tokens(600 * 16000)


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
def test_saved_and_loaded_it_gives_the_same(tokenizers, tmp_path, kind):
    processor = build(tokenizers[kind], "alpaca-short")
    processor.save_pretrained(tmp_path)
    again = AudioLanguageProcessor.from_pretrained(tmp_path)
    a, b = (model_inputs(p, [TURNS], [CLIPS], output_labels=True) for p in (processor, again))
    assert a["input_ids"].tolist() == b["input_ids"].tolist() and a["labels"].tolist() == b["labels"].tolist()
