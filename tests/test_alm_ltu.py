"""The published AudioMosaic-LTU layout: built here with random weights, loaded, computed beside its definition."""

import json

import numpy as np
import pytest
import sentencepiece
import torch
from calls import model_inputs
from transformers import LlamaConfig, LlamaForCausalLM

import alm
from alm.checkpoint import load_model, load_processor
from alm.common.errors import CheckpointError
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from encoders.zoo.audiomosaic.model import AudioMosaicEncoder

WIDTH, LLM_WIDTH, RANK = 64, 32, 8


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A directory as released, tiny; and its parts."""
    folder = tmp_path_factory.mktemp("ltu")
    torch.manual_seed(0)
    text = folder / "text.txt"
    text.write_text("\n".join(["what is this sound", "a bell", "### Instruction: ### Response:"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=300, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=LLM_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
            initializer_range=0.15,
        )  # fmt: skip
    ).eval()
    llm.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["AudioMosaicLlamaForCausalLM"], "model_type": "audiomosaic_llama"}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = AudioMosaicEncoder(
        AudioMosaicConfig(
            model_class="AudioMosaicEncoder",
            embed_dim=WIDTH,
            depth=2,
            num_heads=1,
            use_fc_norm=False,
            normalisation="ltu",
        )  # fmt: skip
    ).eval()
    extra = {f"audio_encoder.{key}": value for key, value in encoder.state_dict().items()}
    extra["audio_proj.1.weight"] = torch.randn(LLM_WIDTH, WIDTH) * 0.2
    extra["audio_proj.1.bias"] = torch.randn(LLM_WIDTH) * 0.2
    for layer in range(2):
        for name in ("q_proj", "v_proj"):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_"
            extra[f"{at}A.weight"] = torch.randn(RANK, LLM_WIDTH) * 0.1
            extra[f"{at}B.weight"] = torch.randn(LLM_WIDTH, RANK) * 0.1
    torch.save(extra, folder / "extra_weights.bin")
    return folder, encoder, llm, extra


@torch.no_grad()
def by_definition(release, waveform, ids):
    """Logits as the official code computes them: pooled tokens in front of the prompt, LoRA merged by hand."""
    _, encoder, llm, extra = release
    tokens = encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])).tokens  # (1, 512, D)
    folded = tokens.view(1, 8, 64, WIDTH).mean(1).view(1, 32, 2, WIDTH).mean(2)
    normed = torch.nn.functional.layer_norm(folded / 50, (WIDTH,))
    audio = normed @ extra["audio_proj.1.weight"].T + extra["audio_proj.1.bias"]
    merged = LlamaForCausalLM(llm.config)
    weights = llm.state_dict()
    for key in [k for k in extra if "lora_A" in k]:
        target = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        weights[target] = weights[target] + extra[key.replace("lora_A", "lora_B")] @ extra[key] * (16 / RANK)
    merged.load_state_dict(weights)
    embeds = torch.cat([audio, merged.get_input_embeddings()(ids)], dim=1)
    return merged.eval()(inputs_embeds=embeds).logits


def test_the_release_loads_and_computes_what_it_says(release, tmp_path):
    folder = release[0]
    model, processor = alm.load(folder, device="cpu")
    waveform = (0.1 * np.random.default_rng(0).standard_normal(163840 + 240)).astype(
        np.float32
    )  # 1024 frames
    turns = [{"role": "user", "content": "<|audio|>what is this sound"}]
    batch = model_inputs(processor, [turns], [[waveform]], add_generation_prompt=True)
    is_audio = batch["input_ids"][0] == processor.audio_token_id
    assert is_audio[:32].all() and int(is_audio.sum()) == 32
    text = processor.tokenizer.decode(batch["input_ids"][0][32:])
    assert text.replace(" ", "") == "<s>###Instruction:\nwhatisthissound\n\n###Response:\n".replace(" ", "")
    with torch.no_grad():
        logits = model(**batch).logits
    expected = by_definition(release, waveform, batch["input_ids"][:, 32:])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    again, processor_again = alm.load(tmp_path / "m", device="cpu")
    new = model_inputs(processor_again, [turns], [[waveform]], add_generation_prompt=True)
    with torch.no_grad():
        torch.testing.assert_close(again(**new).logits, expected, atol=1e-5, rtol=0)
    assert load_processor(folder).projector_config.variant == "official"


@pytest.mark.parametrize(
    "fault",
    ["missing audio_encoder.norm_pre.bias", "missing audio_proj.1.bias", "missing lora", "extra", "shape"],
)
def test_what_does_not_fit_is_named(release, tmp_path, fault):
    folder, *_, extra = release
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "extra_weights.bin").unlink()
    extra = dict(extra)
    kind, _, key = fault.partition(" ")
    if kind == "missing":
        key = key if key != "lora" else next(k for k in extra if "lora_B" in k)
        del extra[key]
    elif kind == "extra":
        key = "audio_decoder.weight"
        extra[key] = torch.zeros(1)
    else:
        key = "audio_encoder.pos_embed"
        extra[key] = extra[key][:, :-1]
    torch.save(extra, tmp_path / "extra_weights.bin")
    word = {"audio_proj.1.bias": "bias"}.get(
        key, key.split("model.model.")[-1].removeprefix("audio_encoder.")
    )
    with pytest.raises(CheckpointError, match=word.replace(".weight", "").replace(".", r"\.")):
        load_model(tmp_path)
