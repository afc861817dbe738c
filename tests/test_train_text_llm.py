import json
import stat

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alm.common.errors import ConfigError, UserError
from alm.data.records import AUDIO_MARKER, format_choices
from alm.data.scenes.events import GeneratedEvents
from alm.data.scenes.language import Language
from train.text_llm.config import TextLLMConfig
from train.text_llm.muon import MuonAdamW, orthogonalize
from train.text_llm.reading import (
    Exercise,
    ReadingBatches,
    ReadingScene,
    RowPacker,
    draw_reading_scene,
    score_reading,
)
from train.text_llm.stage import build_llm, reading_text, train_text_llm
from train.text_llm.tokenizer import train_tokenizer

LANGUAGE = Language(GeneratedEvents.kinds)
TINY = TextLLMConfig(
    hidden_size=32, intermediate_size=48, n_layers=2, n_heads=2, steps=12, batch_scenes=2, n_test_scenes=3
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(reading_text(LANGUAGE, 0), 600)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("llm") / "llm"
    return out, train_text_llm(TINY, LANGUAGE, out, out.parent / "run")


def test_every_name_is_few_pieces_also_with_other_kinds(tokenizer):
    assert len(tokenizer) <= 600
    for kind in LANGUAGE.kinds:
        assert len(tokenizer.tokenize(LANGUAGE.word(kind))) == 1
        assert tokenizer.tokenize(LANGUAGE.phrase(kind)) == [
            f"▁{word}" for word in LANGUAGE.phrase(kind).split()
        ]
    recorded = Language(("crackling_fire", "crying_baby", "sea_waves", "clock_tick", "dog"))
    other = train_tokenizer(reading_text(recorded, 0), 600)
    assert [len(other.tokenize(recorded.name(kind))) for kind in recorded.kinds] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    "text", ["a bell", "Hello,  wörld!\n\n 日本 x", "What?\nA. a bell\nB. an alarm", "", "'\t~"]
)
def test_any_text_survives(tokenizer, tmp_path, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (
        again(text)["input_ids"] == tokenizer(text)["input_ids"]
        and again.decode(again(text)["input_ids"]) == text
    )


def test_a_question_reads_the_same_behind_audio_as_behind_words(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.add_tokens([AUDIO_MARKER], special_tokens=True)

    def rendered(content):
        turns = [{"role": "user", "content": content}]
        ids = own.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return own.convert_ids_to_tokens(ids)

    spoken = rendered(f"{AUDIO_MARKER}What is this sound?")
    assert spoken[:3] == ["<|user|>", AUDIO_MARKER, "▁What"] and spoken[-2:] == ["<|end|>", "<|assistant|>"]
    assert rendered("bell What is this sound?") == ["<|user|>", "▁bell", *spoken[2:]]
    ids = own("<|assistant|>a bell<|end|>")["input_ids"]
    assert own.decode(ids, skip_special_tokens=True) == "a bell" and ids[-1] == own.eos_token_id


def test_packed_exercises_are_what_the_chat_template_gives_and_see_only_their_own(tokenizer):
    choice = format_choices("Which of these can be heard?", ("a bell", "rain"))
    exercises = (
        Exercise("order", "Which sound is first?", ("a bell",)),
        Exercise("choice", choice, ("a bell",)),
        Exercise("presence", "Can you hear rain?", ("no",)),
    )
    scene = ReadingScene("silence bell bell silence", exercises)
    packer = RowPacker(tokenizer)
    rng = np.random.default_rng(0)
    batch = packer.batch([packer.row(one, rng) for one in (scene, ReadingScene("rain", exercises[:1]))])
    model = build_llm(TINY, tokenizer).eval()
    with torch.no_grad():
        packed = model(
            **{key: value for key, value in batch.items() if key not in ("labels", "segments")}
        ).logits
    for number, exercise in enumerate(exercises, start=1):
        turns = [
            {"role": "user", "content": f"{scene.description} {exercise.request}"},
            {"role": "assistant", "content": exercise.answers[0]},
        ]
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        where = (batch["segments"][0] == 0) | (batch["segments"][0] == number)
        assert batch["input_ids"][0][where].tolist() == ids
        assert batch["position_ids"][0][where].tolist() == list(range(len(ids)))
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([ids])).logits[0]
        assert torch.allclose(packed[0][where], alone, atol=1e-5)
        supervised = batch["labels"][0][(batch["segments"][0] == number) & (batch["labels"][0] != -100)]
        assert tokenizer.decode(supervised) == f"{exercise.answers[0]}<|end|>"
    assert (batch["labels"][batch["segments"] <= 0] == -100).all()


def test_the_stream_repeats_itself_grows_and_ends(tokenizer):
    stream = ReadingBatches(RowPacker(tokenizer), LANGUAGE, 3, 2, 5)
    first, again = list(stream), list(stream)
    assert len(first) == 5
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    rng = np.random.default_rng(0)
    short = [len(draw_reading_scene(LANGUAGE, rng, shrink=0.15).description.split()) for _ in range(50)]
    full = [len(draw_reading_scene(LANGUAGE, rng, n_steps=16).description.split()) for _ in range(5)]
    assert np.mean(short) < 6 and full == [16] * 5


def test_exercises_of_a_scene_agree_with_each_other():
    rng = np.random.default_rng(0)
    for shrink in (0.15, 0.5, 1.0):
        for _ in range(100):
            scene = draw_reading_scene(LANGUAGE, rng, n_steps=16, shrink=shrink)
            words = [w for w in scene.description.split() if w not in ("silence", "quiet", "background")]
            runs = [w for i, w in enumerate(words) if i == 0 or w != words[i - 1]]
            for exercise in scene.exercises:
                if exercise.kind == "what":
                    assert {
                        LANGUAGE.word(k) for k in LANGUAGE.kinds if LANGUAGE.phrase(k) in exercise.answers
                    } == set(runs)
                if exercise.kind == "order" and exercise.request == "Which sound is first?":
                    assert runs[0] in exercise.answers[0]


def test_training_saves_what_reloads_and_learns_something(trained):
    out, scores = trained
    assert (
        set(scores) <= {"caption", "what", "how_many", "order", "presence", "choice", "all"}
        and "all" in scores
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32 and model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    lines = [json.loads(line) for line in (out.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]
    assert speeds and all(0 < speed < 1e9 for speed in speeds)
    assert lines[-1]["step"] == TINY.steps
    fresh = build_llm(TINY, tokenizer)
    batch = next(iter(ReadingBatches(RowPacker(tokenizer), LANGUAGE, 9, 8, 1)))
    with torch.no_grad():
        assert model(**batch).loss < fresh(**batch).loss - 0.5
    assert sorted(path.name for path in out.parent.iterdir()) == ["llm", "run"]


def test_scores_count_exact_answers(trained, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    monkeypatch.setattr(
        "train.text_llm.reading._reply", lambda model, tokenizer, requests: ["yes"] * len(requests)
    )
    model = build_llm(TINY, tokenizer)
    scores = score_reading(model, RowPacker(tokenizer), LANGUAGE, 0, 60)
    assert 0.2 < scores["presence"] < 0.8 and scores["order"] == scores["caption"] == 0.0
    assert model.training


def test_orthogonalized_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert 0.6 < values.min() and values.max() < 1.3


def test_the_optimiser_moves_matrices_by_muon_and_the_rest_by_adamw():
    torch.manual_seed(0)
    wide, tall, vector = (torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 9), (9, 4), (5,)))
    before = [p.detach().clone() for p in (wide, tall, vector)]
    optimizer = MuonAdamW([wide, tall], [vector], lr=0.1, weight_decay=0.0)
    ((wide**2).sum() + (tall**2).sum() + (vector**2).sum()).backward()
    optimizer.step()
    for parameter, old in zip((wide, tall), before, strict=False):
        values = torch.linalg.svdvals((old - parameter).detach()) / (0.1 * 0.2 * 3)
        assert 0.6 < values.min() and values.max() < 1.3
    assert torch.allclose((before[2] - vector).detach(), 0.1 * before[2].sign(), atol=1e-4)
    assert len(optimizer.param_groups) == 2
    optimizer.load_state_dict(optimizer.state_dict())


def test_bad_configurations_and_places_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="text_llm.hidden_size is 30; expected a multiple"):
        TextLLMConfig(hidden_size=30, n_heads=4)
    with pytest.raises(ConfigError, match="text_llm.steps is 0"):
        TextLLMConfig(steps=0)
    with pytest.raises(ConfigError, match="vocab_size is 100"):
        TextLLMConfig(vocab_size=100)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written.*choose a new folder"):
        train_text_llm(TINY, LANGUAGE, tmp_path / "file" / "llm", tmp_path / "run")


def test_muon_equals_a_reference_in_numpy():
    """Three steps on a wide and a tall matrix: Nesterov momentum, five quintic iterations, AdamW's size of update."""
    rng = np.random.default_rng(0)
    for shape in ((4, 6), (6, 4)):
        weight, velocity = rng.standard_normal(shape), np.zeros(shape)
        parameter = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float32))
        optimizer = MuonAdamW([parameter], [torch.nn.Parameter(torch.zeros(2))], 0.1)
        for _ in range(3):
            gradient = rng.standard_normal(shape)
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
            optimizer.step()
            velocity = 0.95 * velocity + 0.05 * gradient
            x = 0.05 * gradient + 0.95 * velocity
            x = x / np.sqrt((x**2).sum())
            for _ in range(5):
                x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
            weight = weight - 0.1 * 0.2 * np.sqrt(6) * x
        np.testing.assert_allclose(parameter.detach().numpy(), weight, atol=1e-4)


def test_others_may_read_the_weights_where_the_umask_says_so(trained):
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in trained[0].iterdir() if file.is_file()}
    log = stat.S_IMODE((trained[0].parent / "run/metrics.jsonl").stat().st_mode)
    assert modes["model.safetensors"] == modes["config.json"] == log
