"""The processor called as transformers' audio processors are: text, conversations, clips, arguments, directories."""

import base64
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from calls import model_inputs
from test_alm_processor import (
    CLIPS,
    ENCODER,
    PROJECTOR,
    TEMPLATES,
    TURNS,
    build,
    sentencepiece_dir,
    tokenizers,
)
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from alm.common.errors import AudioError, CheckpointError, UserError
from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
from alm.processor import AudioLanguageProcessor
from encoders.audio import load_audio, resample

__all__ = ["sentencepiece_dir", "tokenizers"]  # fixtures
QUESTION = {"type": "text", "text": "what is this sound"}


def user(*content):
    return [{"role": "user", "content": list(content)}]


@pytest.fixture
def processor(llm_dir):
    return build(AutoTokenizer.from_pretrained(llm_dir), "chatml")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Half a second in stereo at 44.1 kHz."""
    path = tmp_path_factory.mktemp("recording") / "take one.wav"
    noise = np.random.default_rng(1).standard_normal((22050, 2))
    soundfile.write(path, 0.1 * noise, 44100)
    return path


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_text_and_conversation_give_the_same_prompt(tokenizers, template, kind):
    processor = build(tokenizers[kind], template)
    turns = TURNS[:3]
    whole = processor.apply_chat_template(
        turns, audio=CLIPS, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    prompt = processor.apply_chat_template(turns, audio=CLIPS, add_generation_prompt=True)
    assert prompt.count("<|audio|>") == 2 and "type" not in prompt
    again = processor(text=prompt, audio=CLIPS, sampling_rate=16000)
    assert whole.keys() == again.keys()
    if kind == "fast":  # SentencePiece writes the blank before a word into it, so the answer's edges matter
        assert whole["input_ids"].tolist() == again["input_ids"].tolist()
    for key in ("input_values", "padding_mask", "audio_index"):
        assert torch.equal(whole[key], again[key])


def test_every_source_of_a_clip_gives_the_samples_that_ask_reads(processor, recording):
    waveform = load_audio(recording, 16000)
    data = recording.read_bytes()
    text = base64.b64encode(data).decode()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(recording.parent))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sources = [
            {"path": str(recording)}, {"path": recording}, {"audio": str(recording)}, {"audio": waveform},
            {"audio": torch.from_numpy(waveform)}, {"audio": waveform.tolist()}, {"audio": data},
            {"audio": waveform[None].astype(np.float64)}, {"base64": text}, {"url": f"data:audio/wav;base64,{text}"},
            {"url": f"http://127.0.0.1:{server.server_port}/take%20one.wav"},
        ]  # fmt: skip
        batches = [
            model_inputs(processor, user({"type": "audio", **source}, QUESTION), add_generation_prompt=True)
            for source in sources
        ]
        server.shutdown()
    assert batches[0]["input_values"].dtype == torch.float32 and batches[0]["padding_mask"].all()
    assert np.array_equal(batches[0]["input_values"][0].numpy(), waveform)
    for source, batch in zip(sources, batches, strict=True):
        assert batch.keys() == batches[0].keys()
        assert all(torch.equal(batch[key], batches[0][key]) for key in batch), source
    direct = processor(text="<|audio|>", audio=str(recording))  # a file needs no sampling_rate
    assert torch.equal(direct["input_values"], batches[0]["input_values"])
    assert np.array_equal(processor.feature_extractor.fetch_audio([str(recording)])[0], waveform)


def test_items_in_any_order_several_clips_turns_and_conversations(processor, recording, monkeypatch):
    import alm.processing.feature_extraction

    read = []
    monkeypatch.setattr(
        alm.processing.feature_extraction,
        "load_audio",
        lambda source, rate: read.append(source) or load_audio(source, rate),
    )
    a, b = CLIPS
    path = {"type": "audio", "path": str(recording)}
    conversations = [
        [
            *user({"type": "text", "text": "first "}, {"type": "audio", "audio": a}, path, QUESTION),
            {"role": "assistant", "content": [{"type": "text", "text": "a bell"}]},
            *user(QUESTION, {"type": "audio", "audio": b}),
        ],
        user({"type": "text", "text": "no clip"}),
        user(path, {"type": "audio", "audio": a}),
    ]
    batch = model_inputs(processor, conversations, add_generation_prompt=True)
    assert read == [str(recording)]
    assert batch["audio_index"].tolist() == [0, 1, 2, 1, 0] and batch["input_values"].shape[0] == 3
    assert batch["padding_mask"].sum(dim=1).tolist() == [8000, len(load_audio(recording, 16000)), 5000]
    assert batch["attention_mask"][1, 0] == 0 and batch["attention_mask"][:, -1].all()  # left padding
    texts = processor.apply_chat_template(conversations)
    assert texts[0].split("<|audio|>")[0].endswith("user\nfirst ") and texts[0].count("<|audio|>") == 3
    assert "no clip" in texts[1] and texts[2].endswith("<|audio|><|audio|><|im_end|>\n")
    for i, conversation in enumerate(conversations):
        one = model_inputs(processor, conversation, add_generation_prompt=True)
        n = int(batch["attention_mask"][i].sum())
        assert batch["input_ids"][i, -n:].tolist() == one["input_ids"][0].tolist()
    ids = processor.apply_chat_template(conversations[1], tokenize=True)
    assert torch.equal(ids, model_inputs(processor, conversations[1])["input_ids"])


def test_text_alone_renders_without_reading_audio(processor):
    items = user({"type": "audio", "path": "/nowhere/at all.wav"}, QUESTION)
    text = processor.apply_chat_template(items, add_generation_prompt=True)
    assert text == "<|im_start|>user\n<|audio|>what is this sound<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(AudioError, match="at all.wav"):
        model_inputs(processor, items)


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ([], "expected a list of messages"),
        ("what is this", "expected a list of messages"),
        ([{"content": "x"}], "turn 0: .*expected a message with 'role'"),
        ([{"role": "user", "content": 3}], "turn 0: content is 3"),
        (user({"type": "image", "url": "x.png"}), "turn 0: content item is .*'image'"),
        (user({"type": "text"}), "turn 0: content item"),
        (user({"type": "audio", "path": "a.wav", "url": "b.wav"}), "turn 0: an audio item has path and url"),
        (user({"type": "audio"}), "has 1 <.audio.> markers for 0 clips"),
        (user({"type": "text", "text": "<|audio|>"}), "has 1 <.audio.> markers for 0 clips"),
        (user({"type": "audio", "base64": "é"}), "is not valid base64"),
    ],
)
def test_a_malformed_conversation_is_refused_with_its_place(processor, conversation, expected):
    with pytest.raises(UserError, match=expected):
        model_inputs(processor, conversation)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (np.zeros((2, 8000), np.float32), r"shape \(2, 8000\), expected \(S,\), mono"),
        (np.zeros(8000, np.int16), "dtype int16, expected floating-point numbers"),
        (torch.ones(8000, dtype=torch.int16), "dtype int16, expected floating-point numbers"),
        ([3, -2, 1], "dtype int64, expected floating-point numbers"),
        (np.linspace(-2e4, 2e4, 8000), r"peak of a waveform is 2e\+04, full scale is 1"),
        (torch.linspace(-9, 0, 8000, dtype=torch.bfloat16), "peak of a waveform is 9, full scale is 1"),
        (np.array([0.0, np.nan], np.float32), "NaN or infinite"),
        (np.zeros(0, np.float32), r"shape \(0,\)"),
        ({"array": [0.0], "sampling_rate": 16000}, "give its 'array', and its rate as sampling_rate"),
        ({"samples": [0.0]}, "is not a waveform"),
        ((np.zeros(8000), 16000), "16000 stands beside a clip; give a rate as sampling_rate=16000"),
        ("missing.wav", "missing.wav: no such file"),
        (b"not audio", "cannot be decoded"),
    ],
)
def test_a_clip_that_is_no_mono_waveform_is_refused(processor, clip, expected):
    with pytest.raises(AudioError, match=expected):
        processor(text="<|audio|>", audio=[clip], sampling_rate=16000)


def test_a_conversation_is_rendered_before_its_clips_are_given(processor):
    """The idiom of Qwen2-Audio: text from the conversation first, clips to the call."""
    bare, given = {"type": "audio"}, {"type": "audio", "audio": CLIPS[0]}
    text = processor.apply_chat_template(user(bare, QUESTION), add_generation_prompt=True)
    assert text == processor.apply_chat_template(user(given, QUESTION), add_generation_prompt=True)
    one = processor(text=text, audio=CLIPS[0], sampling_rate=16000)
    other = model_inputs(processor, user(given, QUESTION), add_generation_prompt=True)
    assert all(torch.equal(one[key], other[key]) for key in other)
    texts = processor.apply_chat_template([user(bare, QUESTION), user(QUESTION)])
    assert [row.count("<|audio|>") for row in texts] == [1, 0]
    for wrong in ({"tokenize": True}, {"audio": [*CLIPS[:2]]}):
        with pytest.raises(UserError, match="1 <|audio|> markers for"):
            processor.apply_chat_template(user(bare, QUESTION), **wrong)


def test_what_a_template_does_not_use_is_refused(processor):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for name, value in (("tools", [tool]), ("documents", [{"title": "notes", "text": "x"}])):
        with pytest.raises(UserError, match=f"{name}: this chat template does not use them"):
            processor.apply_chat_template(user(QUESTION), **{name: value})
        processor.apply_chat_template(user(QUESTION), **{name: []})
    for images in (np.zeros((2, 2)), ["a.png"], torch.zeros(3)):
        with pytest.raises(UserError, match="images is not supported"):
            processor(text="what", images=images)
    processor(text="what", images=None)


def test_a_waveform_above_full_scale_is_scaled_where_files_are(processor, monkeypatch):
    loud = np.linspace(-100, 50, 8000, dtype=np.float32)
    monkeypatch.setenv("ALM_AUDIO_PEAK", "normalise")
    batch = processor(text="<|audio|>", audio=loud, sampling_rate=16000)
    assert np.array_equal(batch["input_values"][0].numpy(), loud / np.float32(100))
    decoder = np.linspace(-7.9, 1, 8000, dtype=np.float32)  # overshoots
    batch = processor(text="<|audio|>", audio=decoder, sampling_rate=16000)
    assert np.array_equal(batch["input_values"][0].numpy(), decoder)


def test_a_wrong_sampling_rate_is_refused_and_a_missing_one_reported(processor, caplog, recording):
    with pytest.raises(AudioError, match="sampling_rate is 8000, this model's encoder takes 16000 Hz"):
        processor(text="<|audio|>", audio=CLIPS[0], sampling_rate=8000)
    with pytest.raises(AudioError, match="sampling_rate is 8000"):
        model_inputs(processor, TURNS, CLIPS, sampling_rate=8000)
    with pytest.raises(AudioError, match="sampling_rate is 8000"):
        processor.feature_extractor.fetch_audio(str(recording), sampling_rate=8000)
    from transformers.utils import logging

    logging.warning_once.cache_clear()
    logging.enable_propagation()
    try:
        model_inputs(processor, TURNS, CLIPS)
        processor(text="<|audio|>", audio=str(recording))
        processor(text="<|audio|>", audio=CLIPS[0], sampling_rate=16000)
        assert "sampling_rate" not in caplog.text
        processor(text="<|audio|>", audio=CLIPS[0])
        assert "strongly recommended to pass `sampling_rate`" in caplog.text
    finally:
        logging.disable_propagation()


def test_clips_are_dealt_out_by_markers_or_given_per_text(processor):
    a, b = CLIPS
    texts = ["<|audio|>x<|audio|>", "none", "<|audio|>"]
    flat = processor(text=texts, audio=[a, b, a], sampling_rate=16000)
    nested = processor(text=texts, audio=[[a, b], [], [a]], sampling_rate=16000)
    assert flat["audio_index"].tolist() == nested["audio_index"].tolist() == [0, 1, 0]
    assert torch.equal(flat["input_ids"], nested["input_ids"])
    numbers = processor(text="<|audio|>", audio=a.tolist(), sampling_rate=16000)
    assert numbers["input_values"].shape == (1, 8000)
    with pytest.raises(UserError, match="has 3 <.audio.> markers for 2 clips"):
        processor(text=texts, audio=[a, b])
    with pytest.raises(UserError, match="markers for 0 clips"):
        processor(text="<|audio|>")
    with pytest.raises(UserError, match="got 1 conversations and 2 lists of clips"):
        model_inputs(processor, [TURNS], CLIPS)
    with pytest.raises(UserError, match="needs text, audio or both"):
        processor()
    with pytest.raises(UserError, match="text: expected a string or a list of strings"):
        processor(text=[["what"]])
    alone = processor(audio=CLIPS, sampling_rate=16000)
    assert set(alone) == {"input_values", "padding_mask"} and alone["padding_mask"].sum(1).tolist() == [
        8000,
        5000,
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_lenght": 3}, "does not take 'max_lenght'; did you mean 'max_length'?"),
        ({"images": ["a.png"]}, "images is not supported"),
        ({"text_kwargs": {"stride": 3}}, "text_kwargs does not take 'stride'"),
        ({"text_kwargs": {"return_offsets_mapping": True}}, "does not take 'return_offsets_mapping'"),
        ({"text_kwargs": {"max_length": 9}, "max_length": 9}, "max_length: given twice"),
        ({"audio_kwargs": {"chunk_length": 30}}, "audio_kwargs does not take 'chunk_length'"),
        ({"return_tensors": "np"}, "got 'np', only 'pt' is supported"),
        ({"padding": "widest"}, "padding"),
        ({"padding": "max_length"}, "max_length is None"),
        ({"padding": False}, "rows have lengths from"),
        ({"padding": "max_length", "max_length": 4}, "more than max_length=4"),
        ({"truncation": True, "max_length": 4}, "a prompt is not cut"),
    ],
)
def test_an_argument_without_an_effect_is_refused_by_name(processor, arguments, expected):
    with pytest.raises(UserError, match=expected):
        processor(text=["what is this, and why?", "a bell"], **arguments)


def test_arguments_flat_or_by_modality_have_the_same_effect(processor):
    texts, clip = ["what is this<|audio|>", "a bell"], CLIPS[1]
    one = processor(text=texts, audio=clip, sampling_rate=16000, padding_side="right", pad_to_multiple_of=8)
    two = processor(
        text=texts, audio=clip, text_kwargs={"padding_side": "right", "pad_to_multiple_of": 8},
        audio_kwargs={"sampling_rate": 16000},
    )  # fmt: skip
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert one["input_ids"].shape[1] % 8 == 0 and one["attention_mask"][:, 0].all()
    long = processor(text=texts, audio=clip, sampling_rate=16000, padding="max_length", max_length=200)
    assert long["input_ids"].shape[1] == 200 and long["input_values"].shape == (1, 5000)
    padded = processor(
        text=texts, audio=clip, sampling_rate=16000, return_mm_token_type_ids=True, return_attention_mask=False,
        audio_kwargs={"padding": "max_length", "max_length": 6000},
    )  # fmt: skip
    assert padded["input_values"].shape == (1, 6000) and int(padded["padding_mask"].sum()) == 5000
    assert ((padded["mm_token_type_ids"] == 3) == (padded["input_ids"] == processor.audio_token_id)).all()
    n_audio = int((padded["input_ids"] == processor.audio_token_id).sum())
    assert (
        n_audio == processor.n_audio_tokens(5000)
        and "attention_mask" not in padded.keys() - {"labels"} - one.keys()
    )
    clip = np.linspace(0, 0.5, 5000, dtype=np.float32)
    cut = processor(
        text=texts, audio=clip, sampling_rate=16000, audio_kwargs={"truncation": True, "max_length": 4000}
    )
    assert torch.equal(cut["input_values"], torch.from_numpy(clip[None, :4000]))  # its beginning
    assert int((cut["input_ids"] == processor.audio_token_id).sum()) == processor.n_audio_tokens(4000)


def test_labels_of_text_are_all_of_it_but_audio_and_padding(processor):
    batch = processor(
        text=["a bell<|audio|>rings", "a"], audio=CLIPS[0], sampling_rate=16000, output_labels=True
    )
    kept = (batch["input_ids"] != processor.audio_token_id) & batch["attention_mask"].bool()
    assert ((batch["labels"] != -100) == kept).all() and (
        batch["labels"][kept] == batch["input_ids"][kept]
    ).all()
    assert batch["attention_mask"][:, 0].all()  # right padding


@pytest.mark.parametrize("template", TEMPLATES)
def test_assistant_masks_are_where_labels_are(tokenizers, template):
    processor = build(tokenizers["fast"], template)
    batch = model_inputs(
        processor,
        [TURNS, TURNS[:2]],
        [CLIPS, CLIPS[:1]],
        output_labels=True,
        return_assistant_tokens_mask=True,
    )
    assert batch["assistant_masks"].bool().equal(batch["labels"] != -100) and batch["assistant_masks"].any()
    with pytest.raises(UserError, match="return_assistant_tokens_mask: supervise is 'all'"):
        model_inputs(processor, [TURNS], [CLIPS], return_assistant_tokens_mask=True, supervise="all")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_final_message_is_continued_where_its_answer_was_learnt(tokenizers, template):
    processor = build(tokenizers["fast"], template)
    turns = [TURNS[0], {"role": "assistant", "content": "a dog"}]
    whole = [TURNS[0], {"role": "assistant", "content": "a dog barks"}]
    begun = model_inputs(processor, turns, CLIPS[:1], continue_final_message=True)["input_ids"][0].tolist()
    trained = model_inputs(processor, whole, CLIPS[:1], output_labels=True)["input_ids"][0].tolist()
    assert trained[: len(begun)] == begun
    assert processor.apply_chat_template(turns, audio=CLIPS[:1], continue_final_message=True).endswith(
        "a dog"
    )
    with pytest.raises(UserError, match="the last message is not an answer"):
        model_inputs(processor, turns[:1], CLIPS[:1], continue_final_message=True)
    with pytest.raises(UserError, match="continue_final_message excludes add_generation_prompt"):
        model_inputs(processor, turns, CLIPS[:1], continue_final_message=True, add_generation_prompt=True)


def test_variables_of_the_template_pass_and_others_are_refused(processor):
    template = (
        "{{ style }}:{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for d in documents or [] %}"
        "({{ d.title }}){% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )

    def loudness(file: str) -> float:
        """Loudness of a file.

        Args:
            file: Its name.
        """
        raise NotImplementedError

    text = processor.apply_chat_template(
        user(QUESTION),
        chat_template=template,
        style="short",
        tools=[loudness],
        documents=[{"title": "notes"}],
    )
    assert text == "short:[loudness](notes)what is this sound"
    assert processor.apply_chat_template(user(QUESTION), chat_template="plain").startswith("<s>User: what")
    with pytest.raises(UserError, match="apply_chat_template does not take 'style'"):
        processor.apply_chat_template(user(QUESTION), style="short")
    for refused in ("load_audio_from_video", "sanitize_control_tokens"):
        with pytest.raises(UserError, match=f"{refused} is not supported"):
            processor.apply_chat_template(user(QUESTION), **{refused: True})
    options = {"padding_side": "right", "pad_to_multiple_of": 16}
    one = model_inputs(processor, user(QUESTION), **options)
    two = model_inputs(processor, user(QUESTION), processor_kwargs=options)
    assert torch.equal(one["input_ids"], two["input_ids"]) and one["input_ids"].shape[1] % 16 == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_waveforms_stay_float32_whatever_the_dtype_of_the_batch(processor, dtype):
    for arguments in (
        {"args": (dtype,)}, {"args": ("cpu", dtype)}, {"args": ("meta",), "device": "meta"},
        {"args": (), "dtype": dtype, "device": "cpu"},
        {"args": (torch.device("meta"),), "dtype": dtype, "device": "meta"},
    ):  # fmt: skip
        batch = model_inputs(processor, TURNS, CLIPS)
        before = batch["input_values"].clone()
        batch["features"] = torch.zeros(1, 2, 3)
        given = {key: arguments[key] for key in ("dtype",) if key in arguments}
        if not arguments["args"]:
            given["device"] = "cpu"
        moved = batch.to(*arguments["args"], **given)
        assert moved is batch and batch["input_values"].dtype == torch.float32
        where = arguments.get("device", "cpu")
        assert {value.device.type for value in batch.values()} == {where}
        if where == "cpu":
            assert torch.equal(batch["input_values"], before)
        wanted = dtype if dtype in arguments["args"] or "dtype" in given else torch.float32
        assert batch["features"].dtype == wanted and batch["input_ids"].dtype == torch.int64


def test_names_decoding_and_tokens_are_those_of_transformers(processor):
    batch = model_inputs(processor, TURNS[:2], CLIPS[:1])
    assert set(batch) == set(processor.model_input_names)
    assert processor.audio_token == "<|audio|>" and processor.audio_token_ids == [processor.audio_token_id]
    (text,) = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert text == processor.decode(batch["input_ids"][0], skip_special_tokens=True)
    assert "what is this sound" in text and "<|audio|>" not in text
    assert processor.feature_extractor.sampling_rate == processor.sample_rate == 16000


def same_inputs(a, b):
    one, two = (model_inputs(p, [TURNS], [CLIPS], output_labels=True) for p in (a, b))
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_saved_it_loads_by_the_auto_classes_and_saves_to_the_same(processor, tmp_path):
    processor.max_audio_tokens = 90
    processor.save_pretrained(tmp_path / "a")
    again = AutoProcessor.from_pretrained(tmp_path / "a")
    assert (
        type(again) is AudioLanguageProcessor
        and again.max_audio_tokens == 90
        and same_inputs(again, processor)
    )
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "a")
    assert type(extractor) is AudioLanguageFeatureExtractor
    assert extractor.to_dict() == processor.feature_extractor.to_dict()
    again.save_pretrained(tmp_path / "b")
    saved = [json.loads((tmp_path / name / "processor_config.json").read_text()) for name in "ab"]
    assert all(values.pop("files") for values in saved) and saved[0] == saved[1]
    extractor.save_pretrained(tmp_path / "alone")
    alone = AutoFeatureExtractor.from_pretrained(tmp_path / "alone")
    assert alone.n_audio_tokens(8000) == processor.n_audio_tokens(8000)
    with pytest.raises(UserError, match="does not take 'chunk_length'"):
        AutoFeatureExtractor.from_pretrained(tmp_path / "a", chunk_length=30)
    with pytest.raises(CheckpointError, match="sampling_rate is 8000, the encoder takes 16000 Hz"):
        AutoFeatureExtractor.from_pretrained(tmp_path / "a", sampling_rate=8000)


def test_a_directory_of_an_earlier_release_loads_and_is_upgraded_on_save(processor, tmp_path):
    processor.save_pretrained(tmp_path / "old")
    old = {"audio_token": "<|audio|>", "encoder": ENCODER.config.to_dict(), "max_audio_tokens": 90,
           "processor_class": "AudioLanguageProcessor", "projector": PROJECTOR}  # fmt: skip
    (tmp_path / "old/processor_config.json").write_text(json.dumps(old))
    loaded = AutoProcessor.from_pretrained(tmp_path / "old")
    assert same_inputs(loaded, processor) and loaded.max_audio_tokens == 90
    loaded.save_pretrained(tmp_path / "new")
    new = json.loads((tmp_path / "new/processor_config.json").read_text())
    assert "encoder" not in new and new["feature_extractor"]["encoder"] == old["encoder"]
    assert same_inputs(AutoProcessor.from_pretrained(tmp_path / "new"), processor)


def test_every_argument_of_from_pretrained_has_its_effect_or_is_refused(processor, tmp_path):
    processor.save_pretrained(tmp_path / "hub/in/here")
    cache, commit = tmp_path / "cache/models--org--bells", "0123456789abcdef0123456789abcdef01234567"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/v2").write_text(commit)
    shutil.copytree(tmp_path / "hub", cache / "snapshots" / commit)
    load = AudioLanguageProcessor.from_pretrained
    assert load(tmp_path / "hub", subfolder="in/here").max_audio_tokens is None
    local = {"local_files_only": True, "subfolder": "in/here"}
    found = load("org/bells", cache_dir=tmp_path / "cache", revision="v2", max_audio_tokens=90, **local)
    assert found.max_audio_tokens == 90 and same_inputs(found, processor)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("org/bells", cache_dir=tmp_path / "cache", revision="v3", **local)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("org/bells", cache_dir=tmp_path / "other", revision="v2", **local)
    plain = load(tmp_path / "hub/in/here", chat_template="plain", trust_remote_code=False, token=False)
    assert plain.apply_chat_template(user(QUESTION)).startswith("<s>User:")
    for name in ("use_fast", "return_unused_kwargs", "dtype", "max_audio_token"):
        with pytest.raises(UserError, match=f"from_pretrained does not take '{name}'"):
            load(tmp_path / "hub/in/here", **{name: True})
    with pytest.raises(UserError, match="save_pretrained does not take 'safe_serialization'"):
        processor.save_pretrained(tmp_path / "x", safe_serialization=True)
    with pytest.raises(CheckpointError, match="cannot be made"):
        processor.save_pretrained(tmp_path / "hub/in/here/tokenizer.json")


def test_several_templates_are_chosen_by_name(processor, tmp_path):
    processor.chat_template = {"default": TEMPLATES["chatml"], "short": "{{ messages[0].content }}"}
    processor.save_pretrained(tmp_path)
    again = AudioLanguageProcessor.from_pretrained(tmp_path)
    assert again.chat_template == processor.chat_template
    assert again.apply_chat_template(user(QUESTION), chat_template="short") == "what is this sound"
    assert again.apply_chat_template(user(QUESTION)).startswith("<|im_start|>user")


def test_resampled_by_hand_an_array_is_what_its_file_is(processor, tmp_path):
    wave = (0.1 * np.random.default_rng(2).standard_normal(8000)).astype(np.float32)
    soundfile.write(Path(tmp_path / "a.wav"), wave, 8000, subtype="FLOAT")
    one = processor(text="<|audio|>", audio=tmp_path / "a.wav")
    two = processor(text="<|audio|>", audio=resample(wave, 8000, 16000), sampling_rate=16000)
    torch.testing.assert_close(one["input_values"], two["input_values"], atol=1e-6, rtol=0)
