"""An LLM from a GGUF file: the same weights and tokens as its directory has, trained and saved as any other."""

import json

import numpy as np
import pytest
import torch
from survival import make_data, make_parts, of_stage
from transformers import AutoModelForCausalLM, AutoTokenizer

from alm.checkpoint import load_model
from alm.cli import main
from alm.common.errors import CheckpointError, UserError
from alm.llm import gguf_file, load_llm, load_tokenizer
from train.pipeline.runner import run_stage

gguf = pytest.importorskip("gguf")

_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _of_llama_cpp(name: str, weight: np.ndarray, config) -> tuple[str, np.ndarray]:
    """A tensor as llama.cpp's converter writes it: its name, and the halves of each head's rotation interleaved."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in whole:
        return f"{whole[stem]}.weight", weight
    _, _, layer, part = stem.split(".", 3)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    if part in heads:
        split = weight.reshape(heads[part], 2, -1, weight.shape[1])
        weight = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(weight.shape)
    return f"blk.{layer}.{_NAMES[part]}.weight", weight


@pytest.fixture(scope="module")
def gguf_llm(llm_dir, tmp_path_factory):
    """The tiny Llama of the tests in float32 as a GGUF file, alone in its folder."""
    file = tmp_path_factory.mktemp("gguf") / "tiny-F32.gguf"
    llm = AutoModelForCausalLM.from_pretrained(llm_dir)
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    config = llm.config
    out = gguf.GGUFWriter(str(file), "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_vocab_size(config.vocab_size)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    out.add_token_types([kinds[token in special] for token in tokens])
    out.add_token_merges([" ".join(pair) for pair in model["merges"]])
    out.add_bos_token_id(tokenizer.bos_token_id)
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_chat_template(tokenizer.chat_template)
    for name, weight in llm.state_dict().items():
        out.add_tensor(*_of_llama_cpp(name, weight.numpy(), config))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return file


@pytest.mark.parametrize("named", ["file", "folder"])
def test_weights_and_tokens_are_those_of_the_directory(named, gguf_llm, llm_dir):
    source = str(gguf_llm if named == "file" else gguf_llm.parent)
    llm, expected = load_llm(source), AutoModelForCausalLM.from_pretrained(llm_dir)
    weights = llm.state_dict()
    for name, weight in expected.state_dict().items():
        assert torch.equal(weights[name], weight), name
    ids = torch.arange(5, 25)[None]
    assert torch.allclose(llm(ids).logits, expected(ids).logits, atol=1e-5)
    tokenizer, usual = load_tokenizer(source), AutoTokenizer.from_pretrained(llm_dir)
    assert tokenizer.chat_template == usual.chat_template
    for text in ("<|im_start|>user\nwhat is this sound<|im_end|>", " a bell,  a dog"):
        assert tokenizer(text)["input_ids"] == usual(text)["input_ids"]


def test_a_model_with_it_is_trained_and_saved_and_needs_no_gguf_afterwards(
    gguf_llm, llm_dir, tmp_path, monkeypatch
):
    data = make_data(tmp_path)
    parts = make_parts(tmp_path, data, llm_dir)
    settings = of_stage("align", data, tmp_path / "run", {**parts, "llm": gguf_llm}, optim={"steps": 2})
    model = run_stage(settings)
    monkeypatch.setattr("alm.llm.is_gguf_available", lambda: False)
    loaded = load_model(model)
    assert loaded.config.llm is None and loaded.config.base_models["llm"]["name"] == gguf_llm.name
    embedded = loaded.llm.get_input_embeddings().weight
    assert torch.equal(embedded, AutoModelForCausalLM.from_pretrained(llm_dir).get_input_embeddings().weight)
    with pytest.raises(UserError, match=r"needs the package gguf; pip install 'alm-toolkit\[gguf\]'"):
        load_llm(str(gguf_llm))
    with pytest.raises(UserError, match=r"needs the package gguf"):
        load_tokenizer(str(gguf_llm))


def test_what_is_wrong_with_a_file_is_said(gguf_llm, llm_dir, tmp_path, capsys):
    with pytest.raises(UserError, match="GGUF file, whose weights are de-quantised"):
        load_llm(str(gguf_llm), bits=4)
    missing = tmp_path / "none.gguf"
    with pytest.raises(CheckpointError, match="the GGUF file .*none.gguf does not exist"):
        load_llm(str(missing))
    for name in ("a.gguf", "b.GGUF"):
        (tmp_path / name).write_bytes(gguf_llm.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files \(a.gguf, b.GGUF\); name the file itself"):
        load_llm(str(tmp_path))
    words = ["train", "align/audiomosaic-qwen2.5-0.5b", f"out={tmp_path / 'run'}", "encoder=logmel"]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"id": "a", "audio": "a.wav", "question": "what?", "answer": "it"}) + "\n")
    assert main([*words, f"llm={tmp_path / 'a.gguf'}", f"data.train=[{manifest}]"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "cannot load" in lines[-1] and "a.gguf" in lines[-1] and "Traceback" not in "".join(lines)
    assert gguf_file(str(llm_dir)) is None and gguf_file("someone/llm") is None
