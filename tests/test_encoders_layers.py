"""One layer of an encoder, or a learned sum of all: numbers, saving, and what cannot be had."""

import numpy as np
import pytest
import torch
from calls import model_inputs
from transformers import AutoTokenizer

import alm
from alm.checkpoint import load_llm
from alm.common.errors import ConfigError
from alm.model import AudioLanguageModel
from alm.policy import Policy
from alm.processor import build_processor
from encoders import encoder_class, load_encoder
from encoders.zoo.layers import LayersEncoder

WITH_LAYERS = ["audiomosaic", "ast", "whisper", "wav2vec2", "wavlm"]
WITHOUT = ["clap", "qwen2_audio", "logmel", "dasheng"]


def encode(encoder, seconds=1.3):
    generator = torch.Generator().manual_seed(0)
    n_samples = int(seconds * encoder.config.sample_rate)
    wave = 0.1 * torch.randn(2, n_samples, generator=generator)
    return encoder(wave, torch.tensor([n_samples, n_samples * 2 // 3]))


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_layers_share_the_output_and_end_with_it(name):
    encoder = encoder_class(name).tiny()
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(2, 24000, generator=generator)
    lengths = torch.tensor([24000, 16000])
    with torch.no_grad():
        out, layers = encoder(wave, lengths), encoder.forward_layers(wave, lengths)
        first = LayersEncoder.around(encoder, "1")(wave, lengths)
    assert len(layers) == encoder.n_layers == 3
    for layer in layers:
        assert layer.grid == out.grid and torch.equal(layer.mask, out.mask)
        assert layer.tokens.shape == out.tokens.shape and not layer.tokens[~layer.mask].any()
    torch.testing.assert_close(first.tokens, layers[1].tokens)
    assert (layers[1].tokens - layers[0].tokens).abs().max() > 1e-4
    last = layers[-1].tokens
    norm = getattr(getattr(encoder, "model", None), "layer_norm", None) or getattr(
        getattr(encoder, "model", None), "layernorm", None
    )
    if norm is not None and not torch.allclose(last, out.tokens):  # listed before the norm that follows it
        last = norm(last) * out.mask[..., None]
    torch.testing.assert_close(last, out.tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_a_sum_starts_as_the_mean_learns_alone_and_comes_back(name, tmp_path):
    encoder = encoder_class(name).tiny()
    summed = LayersEncoder.around(encoder, "sum")
    with torch.no_grad():
        wave = 0.1 * torch.randn(1, 20000, generator=torch.Generator().manual_seed(1))
        layers = encoder.forward_layers(wave, torch.tensor([20000]))
        mean = torch.stack([layer.tokens for layer in layers]).mean(0)
        torch.testing.assert_close(summed(wave, torch.tensor([20000])).tokens, mean)
    summed.requires_grad_(False)
    summed.readout[0].requires_grad_(True)
    summed(wave, torch.tensor([20000])).tokens.square().sum().backward()
    assert summed.weights.grad.abs().min() > 0 and all(p.grad is None for p in encoder.parameters())
    with torch.no_grad():
        summed.weights += torch.arange(3.0)
    summed.save_pretrained(tmp_path)
    again = load_encoder(tmp_path)
    assert again.config == summed.config
    with torch.no_grad():
        assert torch.equal(encode(again).tokens, encode(summed).tokens)


@pytest.mark.parametrize("name", WITHOUT)
def test_an_encoder_without_layers_says_so(name):
    encoder = encoder_class(name).tiny()
    with pytest.raises(ConfigError, match="does not offer the outputs of its layers"):
        LayersEncoder.around(encoder, "sum")
    assert LayersEncoder.around(encoder, "last") is encoder


@pytest.mark.parametrize("name", ["audiomosaic", "ast"])
def test_a_sum_weighs_tokens_prefix_and_clip_feature_alike(name):
    """Computed by hand in float64 from the layers' own outputs and from different weights; AST has no clip feature."""
    inner = encoder_class(name).tiny()
    encoder = LayersEncoder.around(inner, "sum")
    given = torch.linspace(2.0, -1.5, inner.n_layers)
    wave, lengths = 0.1 * torch.randn(2, 24000), torch.tensor([24000, 16000])
    with torch.no_grad():
        encoder.weights.copy_(given)
        out, layers = encoder(wave, lengths), inner.forward_layers(wave, lengths)
    shares = np.exp(given.double().numpy()) / np.exp(given.double().numpy()).sum()
    for part in ("tokens", "prefix", "pooled"):
        if part == "pooled" and name == "ast":
            assert out.pooled is None
            continue
        rows = [getattr(layer, part).double().numpy() for layer in layers]
        wanted = sum(share * row for share, row in zip(shares, rows, strict=True))
        np.testing.assert_allclose(getattr(out, part).numpy(), wanted, atol=1e-5, err_msg=part)
        assert np.abs(wanted - rows[-1]).max() > 1e-3


def test_load_encoder_takes_a_layer(tmp_path):
    encoder_class("audiomosaic").tiny().save_pretrained(tmp_path)
    assert load_encoder(tmp_path, layer=1).config.layer == "1"
    assert type(load_encoder(tmp_path, layer="last")) is encoder_class("audiomosaic")
    for layer, message in (
        (3, "the encoder has 0 to 2, or sum"),
        ("top", "expected last, a number from 0, or sum"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_encoder(tmp_path, layer=layer)


def test_a_model_learns_the_sum_of_a_frozen_encoder_and_reloads(llm_dir, clips, tmp_path):
    encoder = LayersEncoder.around(encoder_class("audiomosaic").tiny(), "sum")
    model = AudioLanguageModel.assemble(encoder, load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir))
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.set_policy(Policy())
    assert [name for name, p in model.encoder.named_parameters() if p.requires_grad] == ["weights"]
    turns = [{"role": "user", "content": "<|audio|>what"}, {"role": "assistant", "content": "a bell"}]
    batch = model_inputs(processor, [turns, turns], [[clips[0]], [clips[1]]], output_labels=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    before = {name: p.clone() for name, p in model.encoder.named_parameters()}
    model.train()
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in model.encoder.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"weights"}
    model.eval().save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    again, processor = alm.load(tmp_path / "m", device="cpu")
    batch.pop("labels")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert processor.n_audio_tokens(16000) == 13
    model.set_policy(Policy(projector="frozen", llm="lora"))
    assert not model.encoder.weights.requires_grad
