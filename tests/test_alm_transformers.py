"""The model as `transformers` knows its own: generation, embeddings, attention, loading anywhere."""

import ast
import copy
import inspect
import itertools
import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    StaticCache,
    TextIteratorStreamer,
)
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import alm
from alm.auto import AUTO_MAP, STUB
from alm.cli import main
from alm.common.errors import CheckpointError, UserError
from alm.export import export_model
from alm.generation import generate_answers
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processing.feature_extraction import collate_waveforms
from alm.processor import build_processor
from encoders import encoder_class

GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


def assembled(llm_dir, encoder="audiomosaic", **options):
    torch.manual_seed(0)
    llm = load_llm(str(llm_dir))
    model = AudioLanguageModel.assemble(
        encoder_class(encoder).tiny(), llm, "mlp", llm_source=str(llm_dir), **options
    )
    return model.eval(), build_processor(AutoTokenizer.from_pretrained(llm_dir), model)


@pytest.fixture(scope="module")
def model(llm_dir):
    """A model that answers until it is stopped."""
    model, _ = assembled(llm_dir)
    model.generation_config.eos_token_id = None
    return model


def prompts(model, rows, side="left"):
    """A batch whose rows hold some text and the given clips; clips that repeat are given once."""
    distinct = list({id(clip): clip for row in rows for clip in row}.values())
    _, audio = collate_waveforms(distinct) if distinct else (None, {})
    index = [next(i for i, one in enumerate(distinct) if one is clip) for row in rows for clip in row]
    ids = []
    for number, row in enumerate(rows):
        ids.append([1, 40 + number])
        for clip in row:
            n = len(model.get_audio_features(**collate_waveforms([clip])[1]).pooler_output)
            ids[-1] += [model.config.audio_token_id] * n
        ids[-1] += [50, 60 + number]
    width = max(map(len, ids))
    pads = [[0] * (width - len(row)) for row in ids]
    left = side == "left"
    values = [pad + row if left else row + pad for pad, row in zip(pads, ids, strict=True)]
    mask = [
        [0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
        for pad, row in zip(pads, ids, strict=True)
    ]
    batch = {"input_ids": torch.tensor(values), "attention_mask": torch.tensor(mask), **audio}
    return batch | ({"audio_index": torch.tensor(index)} if index else {})


def answers(model, batch, **options):
    out = model.generate(**batch, **{**GREEDY, **options})
    return out[:, batch["input_ids"].shape[1] :].tolist()


def one_by_one(model, rows, **options):
    return [a for i, row in enumerate(rows) for a in answers(model, prompts_of(model, rows, i), **options)]


def prompts_of(model, rows, i):
    """The i-th prompt of `prompts`, alone."""
    batch = prompts(model, [[] for _ in range(i)] + [rows[i]])
    keep = batch["attention_mask"][i].bool()
    one = {key: batch[key][i : i + 1, keep] for key in ("input_ids", "attention_mask")}
    return {**{key: value for key, value in batch.items() if key not in one}, **one}


@pytest.fixture
def rows(clips):
    return [[clips[0], clips[1]], [], [clips[2]], [clips[1]]]


def test_generate_returns_prompts_with_their_answers(model, rows):
    batch = prompts(model, rows)
    out = model.generate(**batch, **GREEDY)
    assert torch.equal(out[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    assert out.shape[1] == batch["input_ids"].shape[1] + 8
    found = model.generate(**batch, **GREEDY, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(found.sequences, out) and len(found.scores) == 8
    assert found.past_key_values.get_seq_length() == out.shape[1] - 1
    assert answers(model, batch) == one_by_one(model, rows)
    assert answers(model, prompts(model, rows, "right")) == answers(model, batch)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 2, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"repetition_penalty": 5.0},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "offloaded"} if torch.cuda.is_available() else {"min_new_tokens": 8},
    ],
    ids=str,
)
def test_decoding_does_not_mix_up_the_clips_of_a_batch(model, rows, options):
    together = answers(model, prompts(model, rows), **options)
    assert together == one_by_one(model, rows, **options)
    assert len(set(map(tuple, together))) > 1


def test_what_changes_nothing_gives_the_greedy_answer(model, rows):
    batch = prompts(model, rows)
    expected = answers(model, batch)
    assert answers(model, batch, use_cache=False) == expected
    assert answers(model, batch, cache_implementation="static") == expected
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=batch["input_ids"].shape[1] + 8)
    assert answers(model, batch, past_key_values=cache) == expected
    for i in range(len(rows)):
        one = prompts_of(model, rows, i)
        alone = answers(model, one)
        assert answers(model, one, prompt_lookup_num_tokens=3) == alone
        assert answers(model, one, assistant_model=model) == alone


def test_logits_processors_see_the_prompt(model, clips):
    """A repetition penalty counts the words of the question, though the placeholder is outside the vocabulary."""
    batch = prompts(model, [[clips[0]]])
    assert model.config.audio_token_id >= model.get_input_embeddings().num_embeddings
    first = answers(model, batch)[0][0]
    batch["input_ids"][0, 1] = first
    before = model(**batch).logits[0, -1]
    options = {**GREEDY, "max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True}
    scores = model.generate(**batch, **options, repetition_penalty=100.0).scores[0][0]
    seen = sorted(set(batch["input_ids"][0].tolist()) - {model.config.audio_token_id})
    others = [i for i in range(len(before)) if i not in seen]
    torch.testing.assert_close(scores[others], before[others])
    expected = torch.where(before[seen] < 0, before[seen] * 100, before[seen] / 100)
    torch.testing.assert_close(scores[seen], expected)


def test_guidance_compares_an_answer_with_that_without_audio(model, clips):
    batch = prompts(model, [[clips[0]]])
    options = {**GREEDY, "max_new_tokens": 1, "return_dict_in_generate": True, "output_scores": True}
    alone = batch["input_ids"][:, -1:]
    with torch.no_grad():
        heard, unheard = (model(**one).logits[:, -1].log_softmax(-1) for one in (batch, {"input_ids": alone}))
    found = model.generate(**batch, **options, guidance_scale=3.0, repetition_penalty=1.0001).scores[0]
    torch.testing.assert_close(found, 3 * (heard - unheard) + unheard, atol=2e-3, rtol=1e-3)


def test_labels_at_audio_are_refused(model, clips):
    batch = prompts(model, [[clips[0]]])
    with pytest.raises(UserError, match="labels hold audio placeholders"):
        model(**batch, labels=batch["input_ids"])


def test_saving_honours_its_arguments_or_refuses_them(model, tmp_path):
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="variant='fp16' is not supported"):
        model.save_pretrained(tmp_path / "m", variant="fp16")


def test_sampling_gives_every_sample_its_own_clips(model, rows):
    batch = prompts(model, rows)
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 1}
    expected = [answer for answer in answers(model, batch) for _ in range(3)]
    assert answers(model, batch, **options) == expected
    torch.manual_seed(0)
    free = answers(model, batch, do_sample=True, num_return_sequences=3, temperature=5.0)
    assert len(set(map(tuple, free))) > 6


def test_a_conversation_goes_on_from_its_cache(model, clips):
    first = prompts(model, [[clips[0]]])
    cache = DynamicCache(config=model.config.get_text_config())
    told = model.generate(**first, **GREEDY, past_key_values=cache)
    second = prompts(model, [[clips[2]]])
    ids = torch.cat([told, second["input_ids"]], dim=1)
    _, audio = collate_waveforms([clips[0], clips[2]])
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **audio}
    assert answers(model, whole, past_key_values=cache) == answers(model, whole)


def test_clips_are_encoded_once_and_the_cache_has_both_names(model, rows):
    """`past_key_values` is called `cache` in newer releases of transformers."""
    batch, calls = prompts(model, rows), []
    hook = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    answers(model, batch)
    hook.remove()
    assert len(calls) == 1
    one = prompts_of(model, rows, 2)
    following = torch.tensor([[5]])
    with torch.no_grad():
        read = model(**one, use_cache=True)[model.cache_name]
        by_name = [
            model(input_ids=following, **{name: copy.deepcopy(read)}).logits[0, -1]
            for name in ("past_key_values", "cache")
        ]
        one |= {
            "input_ids": torch.cat([one["input_ids"], following], dim=1),
            "attention_mask": torch.ones(1, one["input_ids"].shape[1] + 1, dtype=torch.long),
        }
        whole = model(**one).logits[0, -1]
    assert torch.equal(*by_name)
    torch.testing.assert_close(by_name[0], whole, atol=1e-4, rtol=1e-4)


def test_answers_are_streamed(llm_dir, clips):
    model, processor = assembled(llm_dir)
    batch = prompts(model, [[clips[0]]])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    out = model.generate(**batch, **GREEDY, streamer=streamer)
    assert "".join(streamer) == processor.tokenizer.decode(out[0, batch["input_ids"].shape[1] :])


def test_the_model_follows_its_own_generation_config(llm_dir, clips, tmp_path):
    model, _ = assembled(llm_dir)
    batch = prompts(model, [[clips[0]]])
    plain = model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0)
    model.generation_config.suppress_tokens = sorted(set(plain[0, batch["input_ids"].shape[1] :].tolist()))
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(tmp_path / "m")
    loaded = AudioLanguageModel.from_pretrained(
        tmp_path / "m"
    )  # it refers to its LLM, which has settings of its own
    out = loaded.generate(**batch)
    assert out.shape[1] <= batch["input_ids"].shape[1] + 5
    assert not {*out[0, batch["input_ids"].shape[1] :].tolist()} & {*model.generation_config.suppress_tokens}


def test_parts_are_found_as_in_the_siblings(llm_dir, clips):
    model, _ = assembled(llm_dir)
    _, audio = collate_waveforms(clips[:2])
    found = model.get_audio_features(**audio)
    tokens = model.encode(**audio)
    assert torch.equal(found.last_hidden_state, tokens.tokens)
    projected, valid = model.projector(tokens.tokens, tokens.mask, tokens.grid)
    assert torch.equal(found.pooler_output, projected[valid])
    assert model.get_encoder(modality="audio") is model.encoder and model.get_encoder() is model
    assert model.get_decoder() is model.llm.model
    assert model.config.get_text_config() is model.llm.config
    assert (model.input_modalities, model.output_modalities) == (("audio", "text"), ("text",))
    with pytest.raises(UserError, match="modality is 'image'"):
        model.get_encoder(modality="image")


@pytest.mark.parametrize("tied", [False, True])
def test_token_embeddings_are_resized(llm_dir, clips, tmp_path, tied):
    model, _ = assembled(llm_dir)
    if tied:
        model.llm.config.tie_word_embeddings = True
        model.tie_weights()
    batch = prompts(model, [[clips[0]]])
    before, size = model(**batch).logits, model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size + 20)  # now holds the placeholder's id
    assert model.config.text_config.vocab_size == size + 20 > model.config.audio_token_id
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    after = model(**batch).logits
    assert after.shape[-1] == size + 20
    torch.testing.assert_close(after[..., :size], before)
    model.save_pretrained(tmp_path / "m")  # with the LLM, whose directory has other shapes
    torch.testing.assert_close(AudioLanguageModel.from_pretrained(tmp_path / "m")(**batch).logits, after)
    fresh = torch.nn.Embedding(size, 32)
    model.set_input_embeddings(fresh)
    assert model.llm.get_input_embeddings() is fresh


def test_activations_are_recomputed_in_the_backward_pass(llm_dir, clips):
    model, _ = assembled(llm_dir)
    model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=2)))
    batch = prompts(model, [[clips[0]], [clips[1]]])
    batch["labels"] = batch["input_ids"].masked_fill(
        (batch["input_ids"] == model.config.audio_token_id) | (batch["attention_mask"] == 0), -100
    )
    gradients = []
    for enable in (False, True):
        model.train()
        model.zero_grad()
        if enable:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.is_gradient_checkpointing and model.llm.is_gradient_checkpointing
        model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_attention_is_chosen_for_every_part(llm_dir, clips):
    model, _ = assembled(llm_dir, encoder="hubert")
    batch = prompts(model, [[clips[0]], [clips[1]]])
    real = batch["attention_mask"].bool()
    expected = model(**batch).logits[real]
    inner = next(part for part in model.encoder.modules() if isinstance(part, PreTrainedModel))
    for asked, llm, encoder in (
        ("eager", "eager", "eager"),
        ({"encoder": "sdpa"}, "eager", "sdpa"),
        ({"text_config": "sdpa", "encoder": "eager"}, "sdpa", "eager"),
    ):
        model.set_attn_implementation(asked)
        found = model.llm.config._attn_implementation, inner.config._attn_implementation
        assert found == (llm, encoder)
        torch.testing.assert_close(model(**batch).logits[real], expected, atol=1e-4, rtol=1e-4)
    for wrong in ("no-such", {"text_config": "flash_attention_2"}, {"llm": "eager"}):
        with pytest.raises(UserError, match="attn_implementation"):
            model.set_attn_implementation(wrong)
    own = assembled(llm_dir)[0]
    with pytest.raises(UserError, match=r"AudioMosaicEncoder \(encoder\) has one implementation"):
        own.set_attn_implementation({"encoder": "eager"})


# from_pretrained, argument by argument


def arguments_of_the_release():
    """Every name that the installed `PreTrainedModel.from_pretrained` takes: its signature, and what it pops."""
    method = PreTrainedModel.from_pretrained
    names = {p.name for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "kwargs":
                names |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        if isinstance(node, ast.For) and isinstance(node.iter, ast.List):
            names |= {one.value for one in node.iter.elts if isinstance(one, ast.Constant)}
    return names


PRIVATE = {"_commit_hash", "_from_auto", "_from_pipeline"}  # what the Auto classes say about themselves

REFUSED = {
    "adapter_kwargs": ({"_adapter_model_path": "x"}, "PeftModel"),
    "adapter_name": ("mine", "PeftModel"),
    "allow_all_kernels": (True, "code of others"),
    "device_mesh": ("mesh", "device_map"),
    "disable_mmap": (True, "read once"),
    "distributed_config": ({"tp_size": 2}, "device_map"),
    "experts_implementation": ("eager", "set it on the LLM"),
    "from_flax": (True, "does nothing"),
    "from_tf": (True, "does nothing"),
    "_fast_init": (True, "does nothing"),
    "fusion_config": ({"patch_embeddings": True}, "change the outputs"),
    "gguf_file": ("model.gguf", "one file"),
    "ignore_mismatched_sizes": (True, "strict"),
    "kernel_config": ({"x": 1}, "code of others"),
    "key_mapping": ({"a": "b"}, "strict"),
    "mirror": ("x", "does nothing"),
    "offload_state_dict": (True, "does nothing"),
    "proxies": ({"http": "x"}, "HTTPS_PROXY"),
    "state_dict": ({"a": torch.zeros(1)}, "load_state_dict"),
    "tp_plan": ("auto", "device_map"),
    "tp_size": (2, "device_map"),
    "tqdm_class": (object, "no progress bars"),
    "use_kernels": (True, "code of others"),
    "use_safetensors": (False, "one file"),
    "variant": ("fp16", "one file"),
    "weights_only": (False, "never run"),
}


@pytest.fixture(scope="module")
def saved(llm_dir, tmp_path_factory):
    """A model that refers to its LLM, and one that holds it, both with other weights than the first draw gives."""
    folder = tmp_path_factory.mktemp("saved")
    for name, policy in (("refers", Policy()), ("holds", Policy(llm="full"))):
        model, processor = assembled(llm_dir)
        model.set_policy(policy)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def hub(root, saved):
    """The Hub's cache with two revisions of a model, one in a subfolder too; nothing else is reachable."""
    base = root / "models--someone--model"
    for number, (ref, source) in enumerate((("main", "holds"), ("old", "holds"))):
        commit = str(number) * 40
        (base / "refs").mkdir(parents=True, exist_ok=True)
        (base / "refs" / ref).write_text(commit)
        for place in ("", "inner"):
            folder = base / "snapshots" / commit / place
            folder.mkdir(parents=True, exist_ok=True)
            for file in (saved / source).iterdir():
                text = file.read_bytes()
                if file.name == "generation_config.json":
                    values = {**json.loads(text), "max_new_tokens": 10 * (number + 1) + bool(place)}
                    text = json.dumps(values).encode()
                (folder / file.name).write_bytes(text)
    return root


SPLIT = {
    "encoder": "cpu",
    "projector": "cpu",
    "llm.model.embed_tokens": "cpu",
    "llm.model.rotary_emb": "cpu",
    "llm.model.layers.0": "cpu",
    "llm.model.layers.1": "disk",
    "llm.model.norm": "cpu",
    "llm.lm_head": "cpu",
}


def load(saved, **options):
    return AudioLanguageModel.from_pretrained(saved, **options)


def check_cache(saved, tmp_path):
    cache = hub(tmp_path / "cache", saved)
    for options, marker in (
        ({}, 10),
        ({"revision": "old"}, 20),
        ({"subfolder": "inner"}, 11),
        ({"revision": "old", "subfolder": "inner"}, 21),
    ):
        for auto in (AudioLanguageModel, AutoModelForCausalLM):
            found = auto.from_pretrained("someone/model", cache_dir=cache, local_files_only=True, **options)
            assert found.generation_config.max_new_tokens == marker
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        load("someone/model", cache_dir=tmp_path / "empty", local_files_only=True)
    assert load(cache / "models--someone--model/snapshots" / ("0" * 40), subfolder="inner")
    for wrong in ({"revision": "old"}, {"subfolder": "../holds"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            load(saved / "holds", **wrong)


def check_config(saved, tmp_path):
    config = alm.AudioLanguageConfig.from_pretrained(saved / "refers")
    config.loss_chunk = 7
    config.text_config.rms_norm_eps = 0.5
    found = load(saved / "refers", config=config)
    assert found.config.loss_chunk == 7 and found.llm.config.rms_norm_eps == 0.5
    assert found.llm.model.norm.variance_epsilon == 0.5
    assert load(saved / "refers", config=saved / "refers").config.loss_chunk == 1024
    with pytest.raises(UserError, match="config is a LlamaConfig"):
        load(saved / "refers", config=config.text_config)


def check_placed(saved, tmp_path):
    batch = prompts(load(saved / "refers"), [[0.1 * torch.randn(16000).numpy()]])
    for name, device_map in itertools.product(("refers", "holds"), ("cpu", "auto", {"": "cpu"}, SPLIT)):
        expected = load(saved / name)(**batch).logits
        options = {"offload_folder": tmp_path / "offloaded"} if device_map is SPLIT else {}
        found = load(saved / name, device_map=device_map, **options)
        torch.testing.assert_close(found(**batch).logits, expected)
        assert answers(found, batch) == answers(load(saved / name), batch)
        if device_map is SPLIT:
            assert found.hf_device_map["llm.model.layers.1"] == "disk"
            assert found.llm.model.layers[1].mlp.up_proj.weight.is_meta
    for wrong in ({"encoder": "cpu"}, {"": "cpu", "head": "cpu"}, {**SPLIT, "encoder": "disk"}):
        with pytest.raises(UserError, match="device_map"):
            load(saved / "refers", device_map=wrong)


def check_needs_a_device_map(saved, tmp_path, **options):
    with pytest.raises(UserError, match=f"{next(iter(options))} needs a device_map"):
        load(saved / "refers", **options)


def check_offload_folder(saved, tmp_path):
    load(saved / "refers", device_map=SPLIT, offload_folder=tmp_path / "here", offload_buffers=True)
    check_needs_a_device_map(saved, tmp_path, offload_folder="x")
    check_needs_a_device_map(saved, tmp_path, offload_buffers=True)


def check_max_memory(saved, tmp_path):
    found = load(
        saved / "refers", device_map="auto", max_memory={"cpu": 60_000}, offload_folder=tmp_path / "offloaded"
    )
    assert "disk" in found.hf_device_map.values()
    check_needs_a_device_map(saved, tmp_path, max_memory={"cpu": 1})


def check_dtype(saved, tmp_path, name="dtype"):
    for name_or_dtype, device_map in itertools.product(("bfloat16", torch.bfloat16), (None, "cpu")):
        found = load(saved / "holds", **{name: name_or_dtype}, device_map=device_map)
        assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load(saved / "holds", **{name: "auto"}).parameters()} == {torch.float32}
    with pytest.raises(UserError, match="dtype is 'int8'"):
        load(saved / "holds", **{name: "int8"})


def check_attention(saved, tmp_path):
    assert load(saved / "refers", attn_implementation="eager").llm.config._attn_implementation == "eager"
    for auto in (AutoModelForCausalLM, AutoModel, AutoModelForMultimodalLM):
        found = auto.from_pretrained(saved / "refers", attn_implementation={"text_config": "eager"})
        assert type(found) is AudioLanguageModel and found.llm.config._attn_implementation == "eager"
    with pytest.raises(UserError, match="attn_implementation: text_config"):
        load(saved / "refers", attn_implementation="flash_attention_2")
    with pytest.raises(UserError, match="unknown part 'llm'"):
        AutoModelForCausalLM.from_pretrained(saved / "refers", attn_implementation={"llm": "eager"})
    with pytest.raises(UserError, match=r"^attn_implementation: text_config"):  # not a fault of config.json
        AutoModelForCausalLM.from_pretrained(saved / "refers", attn_implementation="flash_attention_2")


def check_quantisation(saved, tmp_path):
    batch = prompts(load(saved / "refers"), [[0.1 * torch.randn(16000).numpy()]])
    for name in ("refers", "holds"):
        found = load(saved / name, quantization_config=HalvingConfig())
        weights = load(saved / name)
        stored = weights.llm.model.layers[0].mlp.up_proj.weight
        assert torch.equal(found.llm.model.layers[0].mlp.up_proj.packed, stored.half())
        assert found.projector.state_dict().keys() == weights.projector.state_dict().keys()
        torch.testing.assert_close(found(**batch).logits, weights(**batch).logits, atol=1e-2, rtol=1e-2)
        if name == "holds":
            with pytest.raises(UserError, match="was quantised while it was loaded"):
                found.save_pretrained(tmp_path / "q")
        with pytest.raises(UserError, match="the LLM is quantised"):
            found.resize_token_embeddings(400)


@register_quantization_config("halving")
class HalvingConfig(QuantizationConfigMixin):
    """A way of quantisation that needs no package: weights are kept in 16 bits."""

    def __init__(self, **kwargs):
        self.quant_method = "halving"


class HalvedLinear(torch.nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.register_buffer("packed", linear.weight.data.half())

    def forward(self, x):
        return x @ self.packed.to(x.dtype).T


@register_quantizer("halving")
class HalvingQuantizer(HfQuantizer):
    is_trainable = True

    def is_serializable(self, *args, **kwargs):
        return True

    def _process_model_after_weight_loading(self, model, **kwargs):
        linear = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
        for name in linear:
            if name != "lm_head":
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, HalvedLinear(model.get_submodule(name)))
        return model


def check_trust(saved, tmp_path):
    """The text LLM's own code is run only then; see also test_alm_pretrained.py."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in (saved / "refers").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    values["llm"] = str((saved / "refers" / values["llm"]).resolve())
    values["text_config"]["model_type"] = "of-its-own"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        load(folder)
    assert load(folder, trust_remote_code=True).llm.config.model_type == "llama"


def check_token(saved, tmp_path, stand_in):
    for token, sent in (("hf_abc", "Bearer hf_abc"), (False, None)):
        stand_in.clear()
        with pytest.raises(CheckpointError, match="could not be downloaded"):
            load("someone/model", token=token, cache_dir=tmp_path / "cache")
        assert stand_in and set(stand_in) == {sent}


def check_force_download(saved, tmp_path, monkeypatch):
    """With `force_download`, a file that the cache already holds is requested again."""
    import huggingface_hub

    cache = hub(tmp_path / "cache", saved)
    asked = []
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *a, **k: asked.append(k.get("force_download")) or download(*a, **k),
    )
    for force in (False, True):
        load("someone/model", cache_dir=cache, local_files_only=True, force_download=force)
    assert asked == [False, True]


def check_loading_info(saved, tmp_path):
    model, info = load(saved / "refers", output_loading_info=True)
    assert type(model) is AudioLanguageModel
    assert info == {
        "missing_keys": set(),
        "unexpected_keys": set(),
        "mismatched_keys": set(),
        "error_msgs": [],
    }
    assert len(AutoModelForCausalLM.from_pretrained(saved / "refers", output_loading_info=True)) == 2


def check_generation_config(saved, tmp_path):
    asked = GenerationConfig(max_new_tokens=3, repetition_penalty=1.5)
    assert load(saved / "refers", generation_config=asked).generation_config.repetition_penalty == 1.5


def check_low_memory(saved, tmp_path):
    """No parameter of the LLM is drawn at random first."""
    drawn = {}
    for low in (True, False):
        torch.manual_seed(3)
        found = load(saved / "holds", low_cpu_mem_usage=low)
        drawn[low] = torch.rand(1)
        assert torch.equal(
            found(**prompts(found, [[]])).logits, load(saved / "holds")(**prompts(found, [[]])).logits
        )
    torch.manual_seed(3)
    parts = load(saved / "refers")  # only the encoder and the projector are drawn at random
    assert (
        type(parts) is AudioLanguageModel
        and torch.equal(drawn[True], torch.rand(1))
        and drawn[True] != drawn[False]
    )


HONOURED = {
    "attn_implementation": check_attention,
    "cache_dir": check_cache,
    "config": check_config,
    "device_map": check_placed,
    "dtype": check_dtype,
    "force_download": check_force_download,
    "generation_config": check_generation_config,
    "local_files_only": check_cache,
    "low_cpu_mem_usage": check_low_memory,
    "max_memory": check_max_memory,
    "offload_buffers": check_offload_folder,
    "offload_folder": check_offload_folder,
    "output_loading_info": check_loading_info,
    "quantization_config": check_quantisation,
    "revision": check_cache,
    "subfolder": check_cache,
    "token": check_token,
    "torch_dtype": lambda saved, tmp: check_dtype(saved, tmp, "torch_dtype"),
    "trust_remote_code": check_trust,
}


@pytest.fixture
def stand_in(monkeypatch):
    """A Hub without any repository; returns the list of the Authorization headers that it received."""
    import http.server
    import threading

    import huggingface_hub

    sent = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            sent.append(self.headers.get("Authorization"))
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    yield sent
    server.shutdown()


def test_every_argument_of_the_release_is_known():
    assert arguments_of_the_release() == HONOURED.keys() | REFUSED.keys() | PRIVATE


@pytest.mark.parametrize("name", sorted(HONOURED))
def test_an_argument_is_honoured(saved, tmp_path, stand_in, monkeypatch, name):
    check = HONOURED[name]
    more = {"stand_in": stand_in, "monkeypatch": monkeypatch}
    check(saved, tmp_path, **{key: more[key] for key in inspect.signature(check).parameters if key in more})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_argument_is_refused_by_name(saved, name):
    value, reason = REFUSED[name]
    with pytest.raises(UserError, match=rf"from_pretrained: {name}.* is not supported: .*{reason}"):
        load(saved / "refers", **{name: value})
    neutral = inspect.signature(PreTrainedModel.from_pretrained).parameters.get(name)
    load(saved / "refers", **{name: None if neutral is None else neutral.default})


def test_values_of_the_config_are_arguments_too(saved):
    found = load(saved / "refers", loss_chunk=3, rms_norm_eps=0.5, use_cache=False)
    assert found.config.loss_chunk == 3 and found.llm.model.norm.variance_epsilon == 0.5
    assert found.config.text_config.use_cache is False
    assert AutoModelForCausalLM.from_pretrained(saved / "refers", loss_chunk=3).config.loss_chunk == 3
    for wrong in ({"loss_chunk": -1}, {"no_such_thing": 1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            load(saved / "refers", **wrong)
    with pytest.raises(UserError, match="one positional argument"):
        AudioLanguageModel.from_pretrained(saved / "refers", 3)


def test_adapters_cannot_be_offloaded(llm_dir, tmp_path):
    model, _ = assembled(llm_dir)
    model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=2)))
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(UserError, match="cannot be offloaded to disk"):
        load(tmp_path / "m", device_map=SPLIT, offload_folder=tmp_path / "off")
    assert load(tmp_path / "m", device_map="cpu").config.llm_lora["r"] == 2


# Directories that load anywhere


def run(code, *arguments, **environment):
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(alm.__file__).parents[1]), **environment},
    )


def test_a_directory_names_the_installed_toolkit(saved):
    folder = saved / "refers"
    assert json.loads((folder / "config.json").read_text())["auto_map"] == AUTO_MAP
    tree = ast.parse((folder / STUB).read_text())
    named = {one.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names}
    assert {value.partition(".")[2] for value in AUTO_MAP.values()} == named
    assert not [file for file in folder.glob("*.py") if file.name != STUB]


def test_the_stub_says_how_to_install_the_toolkit(saved, tmp_path):
    """In a process in which the toolkit is not installed."""
    blocked = """
        import sys
        class Missing:
            def find_spec(name, path=None, target=None):
                if name.split(".")[0] == "alm":
                    raise ModuleNotFoundError(f"No module named '{name}'")
        sys.meta_path.insert(0, Missing)
        from transformers import AutoConfig
        try:
            AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
        except ImportError as error:
            print(error)
    """
    found = run(blocked, saved / "refers", HF_MODULES_CACHE=str(tmp_path))
    assert "this model needs the alm-toolkit: pip install alm-toolkit" in found.stdout, found.stderr
    assert found.stdout.count("\n") == 1


def test_every_package_can_be_imported_after_an_auto_class():
    """The model is registered at once, which imports modules of packages that are still being imported."""
    code = """
        import os, sys, importlib
        from transformers import AutoProcessor, AutoTokenizer
        for name in ("encoders.registry", "encoders.base", "encoders.audio", "projectors", "projectors.base"):
            child = os.fork()
            if not child:
                importlib.import_module(name)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, name
        from encoders import encoder_class
        from projectors import build_projector
        print("done")
    """
    found = run(code)
    assert found.stdout == "done\n", found.stderr
    assert "kernels" not in found.stderr  # bitsandbytes, which is not used, warns of them on import


def test_importing_alm_is_cheap_and_makes_the_auto_classes_know_the_model(saved):
    code = """
        import sys, alm
        assert not {"torch", "transformers", "encoders"} & sys.modules.keys()
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoProcessor
        assert type(AutoProcessor.from_pretrained(sys.argv[1])).__name__ == "AudioLanguageProcessor"
        assert type(AutoConfig.from_pretrained(sys.argv[1])).__name__ == "AudioLanguageConfig"
        for auto in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
            assert type(auto.from_pretrained(sys.argv[1])).__name__ == "AudioLanguageModel"
        print("done")
    """
    found = run(code, saved / "refers")
    assert found.stdout == "done\n", found.stderr
    after = """
        import sys
        from transformers import AutoModel, AutoProcessor, AutoConfig
        import alm
        assert type(AutoProcessor.from_pretrained(sys.argv[1])).__name__ == "AudioLanguageProcessor"
        assert type(AutoModel.from_pretrained(sys.argv[1])).__name__ == "AudioLanguageModel"
        print("done")
    """
    found = run(after, saved / "refers")
    assert found.stdout == "done\n", found.stderr


LIGHT = """
import json, sys
blocked = sys.argv[1].split(",")
for name in blocked:
    sys.modules[name] = None
from pathlib import Path
import alm
from alm.cli import main
from alm.generation import generate_answers
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

folder, wav, out = sys.argv[2:]
model, processor = alm.load(folder, device="cpu")
turns = [{"role": "user", "content": "<|audio|>what is this"}]
clips = processor.feature_extractor.read([wav])
whole = dict(generate_answers(model, processor, [turns], [clips], 6))[0]

content = [{"type": "audio", "path": wav}, {"type": "text", "text": "what is this"}]
pipe = pipeline("any-to-any", model=folder)
told = pipe(text=[{"role": "user", "content": content}], max_new_tokens=6, return_full_text=False,
            generate_kwargs={"do_sample": False})[0]["generated_text"].strip()
assert whole == told, (whole, told)
assert main(["ask", folder, wav, "what is this", "--max-new-tokens", "6", "--jsonl"]) == 0
assert main(["embed", folder, wav, "--out", out]) == 0
model.save_pretrained(out + "-model")
processor.save_pretrained(out + "-model")
AutoModelForMultimodalLM.from_pretrained(out + "-model")
from alm.export import export_model
export_model(folder, out + "-export")
import torch
from encoders import encoder_class, list_encoders
for name in list_encoders():
    encoder = encoder_class(name).tiny()
    samples = 2 * encoder.config.sample_rate
    encoder(torch.randn(1, samples).clamp(-1, 1), torch.tensor([samples]))
assert [name for name in blocked if sys.modules[name] is not None] == []
print(json.dumps(whole))
"""

# What training, evaluation and reports need, and what the tests of quantised models need
NOT_FOR_INFERENCE = (
    *(
        "deepspeed",
        "datasets",
        "evaluate",
        "torchaudio",
        "matplotlib",
        "tensorboard",
        "sklearn",
        "jiwer",
        "pyarrow",
    ),
    *("scipy", "pandas", "jsonargparse", "bitsandbytes", "librosa"),
)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="the pipeline of this release needs librosa"
)
def test_inference_needs_no_library_of_training(zoo, clips, tmp_path):
    soundfile.write(tmp_path / "a.wav", clips[0], 16000, subtype="FLOAT")
    (folder,) = (one for one in zoo if one.name == "lora")
    found = run(LIGHT, ",".join(NOT_FOR_INFERENCE), folder, tmp_path / "a.wav", tmp_path / "out.npz")
    assert found.returncode == 0, found.stderr
    answer, asked = json.loads(found.stdout.splitlines()[-1]), json.loads(found.stdout.splitlines()[0])
    assert " ".join(answer.split()) == asked["answer"]
    model, processor = alm.load(folder, device="cpu")
    turns = [{"role": "user", "content": "<|audio|>what is this"}]
    assert answer == dict(generate_answers(model, processor, [turns], [[clips[0]]], 6))[0]


# Transformers 5.19 asks for librosa before it makes the pipeline; 5.23 does not.
PIPELINE_NEEDS_LIBROSA = Version(transformers.__version__) < Version("5.23") and find_spec("librosa") is None

FAMILIES = {
    "llama": {},
    "qwen2": {},
    "gpt2": {},
    "gemma2": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}

STRANGER = """
import json, sys
import soundfile
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

assert "alm" not in sys.modules
wav, other, *folders = sys.argv[1:]
array, second = (soundfile.read(path, dtype="float32")[0] for path in (wav, other))
audio = [{"type": "audio", "path": wav}], [{"type": "audio", "audio": array}], [
    {"type": "audio", "path": wav}, {"type": "audio", "audio": second}]
told = {}
for folder in folders:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
    told[folder] = []
    for clips in audio:
        conversation = [{"role": "user", "content": [*clips, {"type": "text", "text": "what is this"}]}]
        inputs = processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        answer = out[:, inputs["input_ids"].shape[1]:]
        told[folder].append(answer[0].tolist())
    try:
        pipe = pipeline("any-to-any", model=folder, trust_remote_code=True)
    except ImportError as error:  # of older releases of transformers
        told[folder].append(str(error))
        continue
    conversation = [{"role": "user", "content": [*audio[0], {"type": "text", "text": "what is this"}]}]
    found = pipe(text=conversation, max_new_tokens=12, return_full_text=False, generate_kwargs={"do_sample": False})
    told[folder].append(found[0]["generated_text"])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def zoo(llm_dir, tmp_path_factory):
    """Saved models: five LLM families, and adapters beside the LLM and merged into it."""
    from transformers import CONFIG_MAPPING

    root = tmp_path_factory.mktemp("zoo")
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 512, "eos_token_id": 3,
        "bos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    for family, more in FAMILIES.items():
        torch.manual_seed(1)
        llm = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**sizes, **more))
        with torch.no_grad():
            for parameter in llm.parameters():
                parameter.mul_(3.0)  # answers differ from clip to clip
        llm.save_pretrained(root / f"{family}-llm")
        tokenizer.save_pretrained(root / f"{family}-llm")
        model, processor = assembled(root / f"{family}-llm")
        model.save_pretrained(root / family)
        processor.save_pretrained(root / family)
    model, processor = alm.load(root / "llama", device="cpu")
    model.set_policy(Policy(llm="lora", encoder="lora", llm_lora=LoraOptions(r=2)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(root / "lora")
    processor.save_pretrained(root / "lora")
    export_model(root / "lora", root / "merged")
    return [root / name for name in (*FAMILIES, "lora", "merged")]


IDIOMS = """
import sys
import numpy as np, soundfile, torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, TextIteratorStreamer

assert "alm" not in sys.modules
wav, folder, out = sys.argv[1:]
array = soundfile.read(wav, dtype="float32")[0]
text = {"type": "text", "text": "what is this"}
user = {"role": "user", "content": [{"type": "audio", "audio": array}, text]}
said = {"role": "assistant", "content": [{"type": "text", "text": "a bell"}]}
system = {"role": "system", "content": [{"type": "text", "text": "be short"}]}
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

def load(source=folder, **options):
    return AutoModelForMultimodalLM.from_pretrained(source, trust_remote_code=True, **options)

def inputs(*conversations, **options):
    options = {"add_generation_prompt": True, **options}
    return processor.apply_chat_template(
        list(conversations), tokenize=True, return_dict=True, return_tensors="pt", **options)

def answers(model, batch, **options):
    found = model.generate(**batch, **{"max_new_tokens": 8, "do_sample": False, **options})
    return found[:, batch["input_ids"].shape[1]:].tolist()

model, one = load(), inputs([user])
expected = answers(model, one)
for options in ({"device_map": "auto"}, {"device_map": "cpu"}, {"attn_implementation": "eager"}, {"dtype": "auto"}):
    assert answers(load(**options), one) == expected, options
half = load(dtype=torch.bfloat16)
assert half.dtype == torch.bfloat16 and len(answers(half, one.to(half.device, dtype=half.dtype))[0]) > 0
for options in ({"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2},
                {"assistant_model": load()}, {"num_return_sequences": 1}):
    assert answers(model, one, **options) == expected, options
assert len(answers(model, one, num_beams=3, num_return_sequences=2)) == 2
assert len(answers(model, one, do_sample=True, num_return_sequences=3)) == 3
streamer = TextIteratorStreamer(processor, skip_prompt=True, skip_special_tokens=True)
model.generate(**one, max_new_tokens=8, do_sample=False, streamer=streamer)
assert "".join(streamer) == processor.decode(expected[0], skip_special_tokens=True)
rows = [user], [user, said, user], [system, user], [{"role": "user", "content": [text]}]
alone = [answers(model, inputs(row))[0] for row in rows]
padded = answers(model, inputs(*rows))
assert alone[0] == expected[0] and [processor.decode(row, skip_special_tokens=True) for row in padded] == [
    processor.decode(row, skip_special_tokens=True) for row in alone]
begun = inputs([user, said], add_generation_prompt=False, continue_final_message=True)
assert processor.decode(begun["input_ids"][0]).endswith("a bell")
again = processor(text=processor.apply_chat_template([user], add_generation_prompt=True), audio=torch.from_numpy(array),
                  sampling_rate=16000, return_tensors="pt")
assert all(torch.equal(again[key], one[key]) for key in one)
for wrong, rate in ((np.stack([array, array]), 16000), ((array * 32767).astype(np.int16), 16000), (array, 44100)):
    try:
        processor(text=processor.audio_token, audio=wrong, sampling_rate=rate)
    except Exception as error:
        assert type(error).__name__ == "AudioError", error
    else:
        raise AssertionError(rate)
model.save_pretrained(out)
processor.save_pretrained(out)
assert answers(load(out), one) == expected
print("done")
"""


def test_idioms_of_the_siblings_work(zoo, clips, tmp_path):
    """Loading, decoding, batches, conversations and saving as users of `transformers`' audio models write them."""
    soundfile.write(tmp_path / "a.wav", clips[0], 16000, subtype="FLOAT")
    (folder,) = (one for one in zoo if one.name == "lora")
    found = run(
        IDIOMS, tmp_path / "a.wav", folder, tmp_path / "out", HF_MODULES_CACHE=str(tmp_path / "modules")
    )
    assert found.stdout == "done\n", found.stderr


def test_a_stranger_gets_the_answers_of_alm_ask(zoo, clips, tmp_path, capsys):
    """A process that imports only `transformers`: a file, an array, two clips, and the same through a pipeline."""
    wavs = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for wav, clip in zip(wavs, clips, strict=False):
        soundfile.write(wav, clip, 16000, subtype="FLOAT")
    found = run(STRANGER, *wavs, *zoo, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    for folder in zoo:
        check_answers(folder, told[str(folder)], wavs[0], clips, capsys)
    lora, merged = (told[str(folder)] for folder in zoo[-2:])
    assert lora == merged and len({str(answers) for answers in told.values()}) == len(zoo) - 1


def check_answers(folder, told, wav, clips, capsys):
    """Compare what a stranger was told (ids of a file, an array, two clips; text of a pipeline) with our own way."""
    assert main(["ask", str(folder), str(wav), "what is this", "--max-new-tokens", "12", "--jsonl"]) == 0
    asked = json.loads(capsys.readouterr().out)["answer"]
    model, processor = alm.load(folder, device="cpu")
    generate, ids = model.generate, []

    def recorded(**inputs):
        out = generate(**inputs)
        ids.append(out[0, inputs["input_ids"].shape[1] :].tolist())
        return out

    model.generate = recorded
    for marks, given in (("<|audio|>", clips[:1]), ("<|audio|><|audio|>", clips[:2])):
        question = [{"role": "user", "content": f"{marks}what is this"}]
        list(generate_answers(model, processor, [question], [given], 12))
    by_path, by_array, of_two, by_pipeline = told
    assert [by_path, by_array, of_two] == [ids[0], ids[0], ids[1]], folder.name
    text = processor.decode(ids[0], skip_special_tokens=True)
    assert " ".join(text.split()) == asked, folder.name
    if PIPELINE_NEEDS_LIBROSA:
        assert "librosa" in by_pipeline
    else:
        assert by_pipeline == text, folder.name


def test_a_stranger_gets_the_answers_of_a_quantised_model(wide_llm_dir, clips, tmp_path, capsys):
    """The LLM in 8 and 4 bits, with adapters, as `llm_bits` of training makes it."""
    pytest.importorskip("bitsandbytes")
    llm = load_llm(str(wide_llm_dir))
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(3.0)  # answers differ from clip to clip
    llm.save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(wide_llm_dir).save_pretrained(tmp_path / "llm")
    folders = []
    for bits in (8, 4):
        torch.manual_seed(0)
        model = AudioLanguageModel.assemble(
            encoder_class("audiomosaic").tiny(),
            load_llm(str(tmp_path / "llm"), bits=bits),
            llm_source=str(tmp_path / "llm"),
            llm_bits=bits,
        )
        processor = build_processor(AutoTokenizer.from_pretrained(tmp_path / "llm"), model)
        model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=2)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        folders.append(tmp_path / f"bits{bits}")
        model.save_pretrained(folders[-1])
        processor.save_pretrained(folders[-1])
    wavs = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for wav, clip in zip(wavs, clips, strict=False):
        soundfile.write(wav, clip, 16000, subtype="FLOAT")
    found = run(STRANGER, *wavs, *folders, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    for folder in folders:
        check_answers(folder, told[str(folder)], wavs[0], clips, capsys)
