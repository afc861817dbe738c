"""Decoding: streaming, sampling, beams, clips encoded once; long audio; what is frozen stays; answers memorised."""

import csv
import importlib.util

import numpy as np
import pytest
import torch
from calls import model_inputs
from torch import nn
from transformers import AutoTokenizer, GenerationConfig

from alm.checkpoint import load_llm
from alm.common.errors import CheckpointError, UserError
from alm.decoding import check_generation_config, decoding_settings, take_stop_tokens
from alm.generation import generate_answers
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processor import build_processor
from encoders import encoder_class
from encoders.audio import load_audio


@pytest.fixture
def make(llm_dir):
    def build(projector="mlp", **options):
        torch.manual_seed(0)
        model = AudioLanguageModel.assemble(
            encoder_class("audiomosaic").tiny(),
            load_llm(str(llm_dir)),
            projector,
            options,
            llm_source=str(llm_dir),
        )
        return model.eval(), build_processor(AutoTokenizer.from_pretrained(llm_dir), model)

    return build


def ask(question, answer=None):
    turns = [{"role": "user", "content": f"<|audio|>{question}"}]
    return turns + ([{"role": "assistant", "content": answer}] if answer else [])


def test_a_clip_asked_many_questions_is_encoded_once(make, clips, monkeypatch):
    model, processor = make()
    questions = [ask(f"question {i} of many") for i in range(7)]
    audios = [[clips[i % 2]] for i in range(7)]
    expected = {}
    for i in range(7):  # the waveform path, one by one
        batch = model_inputs(processor, [questions[i]], [audios[i]], add_generation_prompt=True)
        ids = model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0)
        ids = ids[:, batch["input_ids"].shape[1] :]
        expected[i] = processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    encoded = []
    encode = model.encode

    def counted(input_values, padding_mask):
        encoded.extend(padding_mask.sum(dim=1).tolist())
        return encode(input_values, padding_mask)

    monkeypatch.setattr(model, "encode", counted)
    answers = dict(generate_answers(model, processor, questions, audios, 8, batch_size=2))
    assert answers == expected and sorted(encoded) == sorted([len(clips[0]), len(clips[1])])


def test_several_answers_beams_and_samples(make, clips):
    model, processor = make()
    plain = dict(generate_answers(model, processor, [ask("what")], [[clips[0]]], 6))
    several = list(
        generate_answers(
            model, processor, [ask("what"), ask("why")], [[clips[0]], [clips[2]]], 6,
            num_beams=3, num_return_sequences=2,
        )
    )  # fmt: skip
    assert [row for row, _ in several] == [0, 0, 1, 1]
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 5.0}
    samples = {
        dict(generate_answers(model, processor, [ask("what")], [[clips[0]]], 6, **options))[0]
        for _ in range(3)
    }
    assert (
        len(samples) > 1 and dict(generate_answers(model, processor, [ask("what")], [[clips[0]]], 6)) == plain
    )


def test_several_answers_belong_to_their_own_question(make, clips):
    """In a batch, each question has the answers that it has alone."""
    model, processor = make()
    questions, audios = [ask("what"), ask("why"), ask("who is it")], [[clips[i]] for i in (0, 2, 1)]
    options = {"num_beams": 3, "num_return_sequences": 3}
    alone = [
        [text for _, text in generate_answers(model, processor, [question], [audio], 6, **options)]
        for question, audio in zip(questions, audios, strict=True)
    ]
    together = [[], [], []]
    for row, text in generate_answers(model, processor, questions, audios, 6, **options):
        together[row].append(text)
    assert together == alone and len({text for texts in alone for text in texts}) > 5


@pytest.mark.parametrize("projector", ["mlp", "qformer", "window_qformer"])
def test_ten_minutes_are_windows_of_the_same_audio(make, projector):
    """Tokens of a long clip are those of its windows, in order; nothing is clamped."""
    model, processor = make(projector)
    window = round(model.encoder.config.clip_s * 16000)
    rng = np.random.default_rng(0)
    long = (0.1 * rng.standard_normal(600 * 16000)).astype(np.float32)
    processor.context_length = None  # the token counts alone; the test's LLM reads 512 tokens
    n = processor.n_audio_tokens(len(long))
    rate = processor.projector_config.tokens_per_second
    assert n == (pytest.approx(600 * rate, abs=2) if rate else processor.projector_config.n_queries)
    with torch.no_grad():
        tokens = model.encode(torch.from_numpy(long)[None])
        middle = 300 * 16000 // window
        alone = model.encode(
            torch.from_numpy(long[middle * window : (middle + 1) * window + 240])[None],
        )
        projected, valid = model.projector(tokens.tokens, tokens.mask, tokens.grid)
    n_window = model.encoder.config.grid[0] * model.encoder.config.n_freq
    stitched = tokens.tokens[0, middle * n_window : (middle + 1) * n_window]
    torch.testing.assert_close(stitched, alone.tokens[0, :n_window], atol=1e-2, rtol=0)
    assert int(valid.sum()) == n and torch.isfinite(projected).all()


class _Moody(nn.Module):
    """BatchNorm statistics and dropout: both must stay off in a frozen part."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner, self.norm, self.drop = inner, nn.BatchNorm1d(width), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.inner(x).transpose(1, 2)).transpose(1, 2))


def test_a_frozen_encoder_is_the_same_after_20_training_steps(make, clips):
    model, processor = make()
    model.encoder.norm_pre = _Moody(model.encoder.norm_pre, model.encoder.dim)
    model.set_policy(Policy(llm="lora"))
    batch = model_inputs(processor, [ask("what", "a bell")] * 4, [[c] for c in clips], output_labels=True)
    audio = (batch["input_values"], batch["padding_mask"])
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    tokens = model.encode(*audio).tokens
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        model.train()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert not any(module.training for module in model.encoder.modules())
    after = model.encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(model.encode(*audio).tokens, tokens)
    model.set_policy(
        Policy(encoder="full")
    )  # a step does change a part that is not frozen, apart from its statistics
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    assert any(module.training for module in model.encoder.modules())
    model(**batch).loss.backward()
    optimizer.step()
    assert not torch.equal(before["norm_pre.norm.weight"], model.encoder.norm_pre.norm.weight)
    assert torch.equal(before["norm_pre.norm.running_mean"], model.encoder.norm_pre.norm.running_mean)


def learn(model, batch, steps, lr=5e-3):
    """Train on one batch until its loss is next to nothing; the encoder is frozen and heard once."""
    with torch.no_grad():
        tokens = model.encode(batch.pop("input_values"), batch.pop("padding_mask"))
    batch |= {"features": tokens.tokens, "features_mask": tokens.mask}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        model.train()
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 19 and loss.item() < 0.003:
            break


BY_HEART = pytest.mark.parametrize(
    ("projector", "options"), [("mlp", {}), ("qformer", {"n_queries": 8, "heads": 2})]
)


def learn_by_heart(make, projector, options, clips, answers, lr=5e-3):
    """A model that trained on one batch of these answers, and the function that asks it about clips."""
    model, processor = make(projector, **options)
    with torch.no_grad():  # a random head of this size cannot be sure of any word, and stays frozen
        model.get_output_embeddings().weight.mul_(30)
    model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=16, alpha=32)))
    batch = model_inputs(
        processor, [ask("what", a) for a in answers], [[c] for c in clips], output_labels=True
    )
    learn(model, batch, steps=1000, lr=lr)

    def hear(heard):
        turns = [ask("what")] * len(heard)
        found = dict(generate_answers(model, processor, turns, [[c] for c in heard], 40))
        return [found[i] for i in range(len(heard))]

    return hear


@pytest.mark.slow
@BY_HEART
def test_sixteen_clips_are_learnt_by_heart(make, projector, options):
    rng = np.random.default_rng(0)
    clips = []
    # Each clip is a tone of its own frequency, switched on and off in a rhythm of its own.
    for i in range(16):
        t = np.arange(10000) / 16000
        tone = np.sin(2 * np.pi * (200 + 350 * i) * t) * (np.sin(2 * np.pi * (2 + i % 4) * t) > 0)
        clips.append((0.4 * tone + 0.005 * rng.standard_normal(len(t))).astype(np.float32))
    words = ["bell", "dog", "rain", "horn"]
    answers = [f"{words[i % 4]} {words[i // 4]}" for i in range(16)]
    assert learn_by_heart(make, projector, options, clips, answers)(clips) == answers


@pytest.mark.slow
@BY_HEART
def test_sixteen_recordings_are_learnt_by_heart(make, shared_dir, projector, options):
    """Eight kinds, two recordings and one answer each; with another kind's audio the model gives that kind's answer."""
    folder = shared_dir / "data" / "esc10"
    of_kind: dict[str, list[str]] = {}
    with (folder / "meta.csv").open() as file:
        for row in csv.DictReader(file):
            of_kind.setdefault(row["category"], []).append(row["filename"])
    clips, answers = [], []
    for kind in sorted(of_kind)[:8]:
        for name, which in zip(of_kind[kind], ("first", "second"), strict=False):
            clips.append(load_audio(folder / name, 16000, None, 2.0))
            answers.append(f"the {which} {kind.replace('_', ' ')}")
    hear = learn_by_heart(make, projector, options, clips, answers, lr=2e-3)
    assert hear(clips) == answers
    assert hear(clips[1:] + clips[:1]) == answers[1:] + answers[:1]


def test_quantisation_without_its_library_says_so(llm_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None)
    with pytest.raises(UserError, match=r"alm-toolkit\[quant\]"):
        load_llm(str(llm_dir), bits=4)
    with pytest.raises(UserError, match="expected 4 or 8"):
        load_llm(str(llm_dir), bits=3)


PENALTIES = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(4, 200)),
    "bad_words_ids": [[8]],
    "min_new_tokens": 7,
    "temperature": 0.3,
    "num_return_sequences": 3,
    "guidance_scale": 3.0,
}


def test_greedy_answers_do_not_obey_the_generation_config(make, clips):
    model, processor = make()
    conversations = [[{"role": "user", "content": f"<|audio|>what is this {i}"}] for i in range(3)]
    audios = [[clip] for clip in clips[:3]]
    plain = dict(generate_answers(model, processor, conversations, audios, 12))
    settings = decoding_settings(model, processor, 12)
    assert settings == {
        "do_sample": False, "num_beams": 1, "eos_token_id": [3], "pad_token_id": 0, "max_new_tokens": 12,
    }  # fmt: skip
    for key, value in PENALTIES.items():
        setattr(model.generation_config, key, value)
    own = model.generation_config
    assert dict(generate_answers(model, processor, conversations, audios, 12)) == plain

    assert decoding_settings(model, processor, 12) == settings
    assert model.generation_config is own and own.repetition_penalty == 5.0
    penalty = {"suppress_tokens": PENALTIES["suppress_tokens"]}
    asked = dict(generate_answers(model, processor, conversations, audios, 12, **penalty))
    assert asked != plain


def test_answers_end_at_the_stop_tokens_of_the_template_and_of_the_llm(make):
    model, processor = make()
    for own, wanted in (([7, 3], [3, 7]), (9, [3, 9]), (None, [3])):
        model.generation_config.eos_token_id = own
        assert decoding_settings(model, processor)["eos_token_id"] == wanted
    model.generation_config.eos_token_id = 9
    take_stop_tokens(model, processor)
    assert model.generation_config.eos_token_id == [3, 9]
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_sampling_follows_the_generation_config(make):
    model, processor = make()
    model.generation_config.top_p, model.generation_config.repetition_penalty = 0.5, 1.1
    settings = decoding_settings(model, processor, do_sample=True, temperature=0.7)
    assert (settings["top_p"], settings["repetition_penalty"], settings["temperature"]) == (0.5, 1.1, 0.7)
    for bad in ({"temperature": 0.0}, {"top_p": 2}, {"temperature": float("nan")}, {"top_k": "x"}):
        with pytest.raises(UserError, match=f"decoding: {next(iter(bad))} is "):
            decoding_settings(model, processor, do_sample=True, **bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("repetition_penalty", 0.0),
        ("eos_token_id", "abc"),
        ("eos_token_id", [1, -2]),
        ("eos_token_id", [None]),
        ("eos_token_id", [True]),
        ("eos_token_id", []),
        ("top_k", [1]),
    ],
)
def test_a_broken_generation_config_is_named(key, value):
    config = GenerationConfig()
    setattr(config, key, value)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} is .*expected"):
        check_generation_config(config, "m/generation_config.json")
