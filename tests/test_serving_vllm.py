"""The plug-in for vLLM: the same answers as ours, token for token, and the same refusals."""

import base64
import copy
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]


def test_the_entry_point_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"alm": "alm.serving.vllm:register"}
    assert any(line.startswith("vllm") for line in project["optional-dependencies"]["vllm"])


def test_the_plug_in_needs_nothing_of_training():
    program = (
        "import sys\n"
        "heavy = ['deepspeed', 'datasets', 'torchaudio', 'matplotlib', 'evaluate', 'tensorboard', 'train', 'eval']\n"
        "sys.modules |= dict.fromkeys(heavy)\n"  # an import of one of them fails
        "import alm.serving.vllm, alm.checkpoint, alm.model, alm.processor, alm.policy\n"
        "from encoders.registry import encoder_class, list_encoders\n"
        "from projectors.registry import list_projectors, projector_class\n"
        "print(all(map(encoder_class, list_encoders())) and all(map(projector_class, list_projectors())))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert found.stdout == "True\n", found.stderr


pytestmark_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vllm is not installed (pip install 'alm-toolkit[vllm]')",
    ),
]


def vllm_test(function):
    for mark in pytestmark_vllm:
        function = mark(function)
    return function


SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "llama": {"tie_word_embeddings": False},
    "llama, heads without a kernel": {"head_dim": 24},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "phi3": {},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32, "final_logit_softcapping": 1.5},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 5.0},
    "gpt2": {"n_head": 2},
}
ZOO = {
    "mlp": ("audiomosaic", "mlp", {}),
    "qformer": ("whisper", "qformer", {"n_queries": 6, "depth": 1, "heads": 2}),
    "window_qformer": ("beats", "window_qformer", {"depth": 1, "heads": 2}),
}


@pytest.fixture(scope="module", autouse=True)
def vllm_settings():
    with pytest.MonkeyPatch.context() as patch:
        for key, value in SETTINGS.items():
            patch.setenv(key, value)
        yield


def tiny_llm(family, vocab_size):
    """The tiny LLM of a family with heads as wide as vLLM's kernels ask."""
    import tiny_model

    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
    }
    return tiny_model.tiny_llm(family.partition(",")[0], vocab_size, **sizes, **FAMILIES[family])


@pytest.fixture(scope="module")
def tokenizer(llm_dir):
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(llm_dir)
    found.chat_template = TEMPLATE
    return found


def build(tokenizer, folder, family="llama", zoo="mlp", lora=False, llm_source=None):
    """Save a tiny model whose answers depend on its audio."""
    from alm.model import AudioLanguageModel
    from alm.policy import LoraOptions, Policy
    from alm.processor import build_processor
    from encoders import encoder_class

    encoder, projector, options = ZOO[zoo]
    tokenizer = copy.deepcopy(tokenizer)  # the placeholder is added to it, outside the LLM's vocabulary
    llm = tiny_llm(family, len(tokenizer))
    if llm_source:
        llm.save_pretrained(llm_source)
        tokenizer.save_pretrained(llm_source)
        from alm.llm import load_llm

        llm = load_llm(str(llm_source))
    torch.manual_seed(1)
    model = AudioLanguageModel.assemble(
        encoder_class(encoder).tiny(), llm, projector, options, llm_source=llm_source and str(llm_source)
    ).eval()
    processor = build_processor(tokenizer, model)
    model.generation_config.eos_token_id = processor.stop_token_ids
    if lora:
        model.set_policy(Policy(encoder="lora", llm="lora", llm_lora=LoraOptions(r=4, alpha=16)))
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():  # clips must change the answers more than the question does
        last = [p for p in model.projector.parameters() if p.ndim == 2][-1]
        last.mul_(8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def engine(folder, **options):
    from vllm import LLM

    from alm.serving.vllm import register

    register()
    settings = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "seed": 0,
    }
    return LLM(str(folder), **{**settings, **options})


def greedy(n_tokens=12):
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=n_tokens)


def address(clip, rate=16000):
    content = io.BytesIO()
    soundfile.write(content, clip, rate, format="WAV", subtype="FLOAT")
    return "data:audio/wav;base64," + base64.b64encode(content.getvalue()).decode()


def request(clips, text):
    items = [{"type": "audio_url", "audio_url": {"url": address(clip)}} for clip in clips]
    return [{"role": "user", "content": [*items, {"type": "text", "text": text}]}]


def mixed_clips(n, longest_s, seed=0):
    """Tones in noise, from 0.3 s to the longest; lengths in steps that no encoder divides."""
    rng = np.random.default_rng(seed)
    found = []
    for seconds in np.geomspace(0.3, longest_s, n):
        time = np.arange(round(16000 * seconds) + rng.integers(0, 500)) / 16000
        tone = np.sin(2 * np.pi * rng.uniform(100, 6000) * time)
        found.append(
            (rng.uniform(0.05, 0.4) * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)
        )
    return [found[i] for i in rng.permutation(n)]


def ours(folder, rows, n_tokens=12):
    """Token ids of our answers to rows of clips and a question."""
    import alm

    model, processor = alm.load(folder, device="cpu")
    answers = []
    for clips, text in rows:
        inputs = processor.apply_chat_template(
            request_without(clips, text),
            audio=clips,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
        )
        out = model.generate(
            **inputs, max_new_tokens=n_tokens, do_sample=False, eos_token_id=processor.stop_token_ids
        )
        answers.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def request_without(clips, text):
    return [
        {"role": "user", "content": [*({"type": "audio"} for _ in clips), {"type": "text", "text": text}]}
    ]


def client_error():
    """What vLLM answers with status 400 and the message."""
    from vllm.exceptions import VLLMClientError

    return VLLMClientError


def answers(llm, rows, n_tokens=12):
    outs = llm.chat([request(clips, text) for clips, text in rows], greedy(n_tokens), use_tqdm=False)
    return [list(out.outputs[0].token_ids) for out in outs]


@pytest.fixture(scope="module", params=list(ZOO))
def served(request, tokenizer, tmp_path_factory):
    """A model directory and the engine that serves it."""
    folder = build(tokenizer, tmp_path_factory.mktemp(request.param) / "model", zoo=request.param)
    yield folder, engine(folder)


@vllm_test
def test_answers_are_ours_token_for_token(served):
    folder, llm = served
    clips = mixed_clips(64, 12)
    rows = [([clip], f"what is sound {i % 7}") for i, clip in enumerate(clips)]
    expected = ours(folder, rows)
    assert len({tuple(answer) for answer in expected}) > 32, "the answers hardly depend on the audio"
    assert answers(llm, rows) == expected  # sixteen under way
    llm.reset_prefix_cache()
    llm.llm_engine.reset_mm_cache()
    assert [answers(llm, [row])[0] for row in rows] == expected  # alone


@vllm_test
def test_several_clips_text_alone_and_other_audio(served):
    folder, llm = served
    question = "what is this sound"
    clips = mixed_clips(8, 6, seed=1)
    pairs = [list(pair) for pair in itertools.pairwise(clips)]
    rows = [(pair, question) for pair in pairs] + [(pair[::-1], question) for pair in pairs]
    rows += [([clip], question) for clip in clips] + [([], question)]
    found = answers(llm, rows)
    assert found == ours(folder, rows)
    there, back, single = found[:7], found[7:14], found[14:22]
    assert there != back, "the order of the clips changes no answer"
    assert len({tuple(answer) for answer in single}) > 1 and found[22] not in single, (
        "the audio changes no answer"
    )


@vllm_test
def test_prompts_have_exactly_as_many_tokens_as_ours(served):
    folder, llm = served
    import alm

    _, processor = alm.load(folder, device="cpu")
    for clip in mixed_clips(12, 20, seed=2):
        out = llm.chat(request([clip, clip[: len(clip) // 2 + 4000]], "hm"), greedy(1), use_tqdm=False)[0]
        batch = processor.apply_chat_template(
            request_without([1, 2], "hm"), audio=[clip, clip[: len(clip) // 2 + 4000]], tokenize=True,
            return_dict=True, add_generation_prompt=True,
        )  # fmt: skip
        assert len(out.prompt_token_ids) == batch["input_ids"].shape[1]


@pytest.fixture(scope="module")
def one(tokenizer, tmp_path_factory):
    """One model, and one engine for requests of every kind."""
    folder = build(tokenizer, tmp_path_factory.mktemp("one") / "model")
    return folder, engine(folder)


@vllm_test
def test_prefixes_are_cached_by_the_content_of_audio(one):
    folder, llm = one
    long, other = mixed_clips(2, 25, seed=3)
    other = np.resize(other, long.shape).astype(np.float32)
    text = "what is this sound, and which one came before it? " * 4
    llm.reset_prefix_cache()
    first = llm.chat(request([long], text), greedy(), use_tqdm=False)[0]
    again = llm.chat(request([long.copy()], text), greedy(), use_tqdm=False)[0]
    another = llm.chat(request([other], text), greedy(), use_tqdm=False)[0]
    assert not first.num_cached_tokens
    assert again.num_cached_tokens >= 128 and again.outputs[0].token_ids == first.outputs[0].token_ids
    assert not another.num_cached_tokens
    assert [list(out.outputs[0].token_ids) for out in (first, another)] == ours(
        folder, [([long], text), ([other], text)]
    )


@vllm_test
def test_turns_are_tokenised_as_in_training(one):
    folder, llm = one
    import alm

    model, processor = alm.load(folder, device="cpu")
    first, second = mixed_clips(2, 3, seed=4)
    talk = [
        {"role": "system", "content": "be brief"},
        *request([first], "what is this"),
        {"role": "assistant", "content": " a bell"},
        *request([second], "and this"),
    ]
    own = [
        {"role": "system", "content": "be brief"},
        *request_without([first], "what is this"),
        {"role": "assistant", "content": " a bell"},
        *request_without([second], "and this"),
    ]
    inputs = processor.apply_chat_template(
        own, audio=[first, second], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=processor.stop_token_ids)
    found = llm.chat(talk, greedy(), use_tqdm=False)[0]
    assert list(found.outputs[0].token_ids) == out[0, inputs["input_ids"].shape[1] :].tolist()
    assert [t for t in found.prompt_token_ids if t < processor.vocab_size and t not in (0, 1)] == [
        t for t in inputs["input_ids"][0].tolist() if t < processor.vocab_size and t not in (0, 1)
    ]


@vllm_test
def test_rendered_text_with_waveforms_is_a_request_too(one):
    folder, llm = one
    clips = mixed_clips(2, 3, seed=5)
    import alm

    _, processor = alm.load(folder, device="cpu")
    text = processor.apply_chat_template(
        request_without(clips, "compare them"), audio=clips, add_generation_prompt=True
    )
    out = llm.generate(
        {"prompt": text, "multi_modal_data": {"audio": [(clip, 16000) for clip in clips]}},
        greedy(),
        use_tqdm=False,
    )[0]
    assert list(out.outputs[0].token_ids) == ours(folder, [(clips, "compare them")])[0]


@vllm_test
def test_other_rates_and_channels_are_resampled_and_mixed_as_by_ask(one, tmp_path):
    folder, llm = one
    from encoders.audio import load_audio

    stereo = np.stack([mixed_clips(1, 2, seed=6)[0], mixed_clips(1, 2, seed=6)[0] * 0.5], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 44100, subtype="FLOAT")
    expected = ours(folder, [([load_audio(tmp_path / "stereo.wav", 16000)], "hm")])
    assert answers(llm, [([stereo], "hm")]) != expected  # `address` says 16 kHz
    url = address(stereo, 44100)
    messages = [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}},
                                             {"type": "text", "text": "hm"}]}]  # fmt: skip
    assert list(llm.chat(messages, greedy(), use_tqdm=False)[0].outputs[0].token_ids) == expected[0]


@vllm_test
@pytest.mark.parametrize(
    ("clips", "text", "message"),
    [
        ((), "what is <|audio|>", "1 <|audio|> markers for 0 clips"),
        ((16000,), "what is <|audio|>", "2 <|audio|> markers for 1 clips"),
        ((40,), "hm", "clip of 40 samples"),
        ((16000 * 200,), "hm", "takes 2500 audio tokens, the LLM's context has 1024"),
        ((16000 * 60,), "hm", "512"),
    ],
)
def test_requests_are_refused_with_the_reason(one, clips, text, message):
    _, llm = one
    rng = np.random.default_rng(0)
    with pytest.raises(client_error()) as caught:
        llm.chat(request([rng.uniform(-0.1, 0.1, n).astype(np.float32) for n in clips], text), greedy())
    assert message in str(caught.value)
    assert answers(llm, [([], "hm")])  # the engine lives on


@vllm_test
def test_prompt_tokens_without_a_clip_cannot_reach_the_embeddings(one):
    folder, llm = one
    import alm

    _, processor = alm.load(folder, device="cpu")
    assert processor.audio_token_id >= processor.vocab_size
    with pytest.raises(client_error(), match=r"1 <\|audio\|> markers for 0 clips"):
        llm.generate({"prompt_token_ids": [1, processor.audio_token_id, 5]}, greedy())


@vllm_test
def test_penalties_and_prompt_log_probabilities_bear_placeholders_outside_the_vocabulary(one):
    from vllm import SamplingParams

    folder, llm = one
    clip = mixed_clips(1, 2)[0]
    options = SamplingParams(temperature=0, max_tokens=4, repetition_penalty=1.2, prompt_logprobs=1)
    out = llm.chat(request([clip], "hm"), options, use_tqdm=False)[0]
    assert len(out.prompt_logprobs) == len(out.prompt_token_ids) and out.outputs[0].token_ids


@vllm_test
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_every_family_of_llms_answers_as_ours(family, tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path / "model", family)
    llm = engine(folder)
    rows = [([clip], "what is this") for clip in mixed_clips(6, 6)] + [([], "what is this")]
    assert answers(llm, rows) == ours(folder, rows)


@vllm_test
@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_adapters_are_merged_while_loading(family, referenced, tokenizer, tmp_path):
    plain = build(tokenizer, tmp_path / "plain", family)
    source = tmp_path / "llm" if referenced else None
    folder = build(tokenizer, tmp_path / "model", family, lora=True, llm_source=source)
    if referenced:  # found relative to the directory, wherever vLLM is started
        assert not Path(json.loads((folder / "config.json").read_text())["llm"]).is_absolute()
    rows = [([clip], "what is this") for clip in mixed_clips(6, 6)] + [([], "what is this")]
    expected = ours(folder, rows)
    assert expected != ours(plain, rows)
    assert answers(engine(folder), rows) == expected


def damaged(folder, change, header=True):
    """Change the weights of a model without updating their hashes."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    if header:
        config.pop("weights_header_sha256")
    (folder / "config.json").write_text(json.dumps(config))


@vllm_test
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("llm.model.layers.1.mlp.up_proj.weight"),
            "missing llm.model.layers.1.mlp.up_proj.weight",
        ),
        (lambda t: t.update({"llm.extra": torch.zeros(2)}), "unexpected llm.extra"),
        (lambda t: t.update({"other": torch.zeros(2)}), "unexpected other"),
        (lambda t: t.update({"llm.model.norm.weight": torch.zeros(3)}), "mis-shaped llm.model.norm.weight"),
        (lambda t: t["llm.model.norm.weight"].fill_(torch.nan), "NaN"),
        (lambda t: t.pop(next(k for k in t if k.startswith("projector."))), "missing"),
        (
            lambda t: t[next(k for k in t if k.startswith("encoder.") and t[k].is_floating_point())].fill_(
                torch.inf
            ),
            "Infinity",
        ),
    ],
)
def test_every_tensor_is_accounted_for(change, message, tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path / "model")
    damaged(folder, change)
    with pytest.raises(Exception) as caught:  # vLLM wraps it in its own types
        engine(folder)
    assert message in chain(caught.value)


@vllm_test
def test_a_flipped_bit_is_found(tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path / "model")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1  # the last tensor; the header, which config.json identifies, stays
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(Exception) as caught:
        engine(folder)
    assert "are not those that were saved (checksum)" in chain(caught.value)


@vllm_test
def test_changed_files_are_refused_before_the_engine_starts(tokenizer, tmp_path):
    folder = build(tokenizer, tmp_path / "model", llm_source=tmp_path / "llm")
    weights = tmp_path / "llm" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(Exception) as caught:
        engine(folder)
    assert "has changed since training" in chain(caught.value)


def chain(error):
    """The messages of an error and its causes."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@vllm_test
def test_the_longest_clip_fits_and_no_longer_one(one):
    from alm.serving.vllm.processing import _n_tokens

    _, llm = one
    info = llm.llm_engine.renderer.get_mm_processor().info
    processor = info.get_hf_processor()
    longest = info.longest_clip()
    assert _n_tokens(processor, longest) <= 511 < _n_tokens(processor, longest + 16000)
    assert info.get_mm_max_tokens_per_item(512) == {"audio": _n_tokens(processor, longest)}
