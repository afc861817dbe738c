"""Encoders from `transformers` give what the published model and its own feature extractor give."""

import json
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from alm.common.errors import CheckpointError, ConfigError
from alm.processing.feature_extraction import collate_waveforms
from encoders import AudioEncoder, encoder_class, load_encoder
from encoders.audio import pad_batch

TOLERANCE = 1e-4


def speech(config: str, model: str, attribute: str | None, normalise: bool = True, **values: Any) -> Callable:
    """Save a task model around a tiny waveform model; returns what encodes one clip officially."""

    def build(folder: Path) -> Callable[[np.ndarray], Tensor]:
        from encoders.hf_speech import TINY

        whole = getattr(hf, model)(getattr(hf, config)(**{**TINY, "vocab_size": 8, **values})).eval()
        whole.save_pretrained(folder)
        extractor = hf.Wav2Vec2FeatureExtractor(do_normalize=normalise)
        extractor.save_pretrained(folder)
        inner = getattr(whole, attribute) if attribute else whole

        def encode(clip: np.ndarray) -> Tensor:
            return inner(**extractor(clip, sampling_rate=16000, return_tensors="pt")).last_hidden_state[0]

        return encode

    return build


LAYER_NORMS = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
POSITIONS = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}


def ast(folder: Path) -> Callable[[np.ndarray], Tensor]:
    config = hf.ASTConfig(**encoder_class("ast").tiny().config.transformers, num_labels=3)
    model = hf.ASTForAudioClassification(config).eval()
    torch.nn.init.normal_(model.audio_spectrogram_transformer.embeddings.position_embeddings)
    model.save_pretrained(folder)
    extractor = hf.ASTFeatureExtractor(num_mel_bins=36, max_length=104, mean=-3.0, std=2.5)
    extractor.save_pretrained(folder)

    def encode(clip: np.ndarray) -> Tensor:
        inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
        tokens = model.audio_spectrogram_transformer(**inputs).last_hidden_state[0, 2:]
        return tokens.unflatten(0, (3, 9)).transpose(0, 1).flatten(0, 1)  # frequency-major there

    return encode


def whisper(folder: Path) -> Callable[[np.ndarray], Tensor]:
    values = encoder_class("whisper").tiny().config.transformers
    small = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 20}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = hf.WhisperForConditionalGeneration(hf.WhisperConfig(**values, **small, **ids)).eval()
    model.save_pretrained(folder)
    extractor = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    extractor.save_pretrained(folder)

    def encode(clip: np.ndarray) -> Tensor:
        features = extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
        return model.model.encoder(features).last_hidden_state[0]

    return encode


def qwen2_audio(folder: Path) -> Callable[[np.ndarray], Tensor]:
    values = encoder_class("qwen2_audio").tiny().config.transformers
    text = {"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 20}  # fmt: skip
    config = hf.Qwen2AudioConfig(audio_config=values, text_config=text, audio_token_index=19)
    model = hf.Qwen2AudioForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    extractor = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    extractor.save_pretrained(folder)
    seen = []
    tower = next(m for name, m in model.named_modules() if name.endswith("audio_tower"))
    tower.register_forward_hook(lambda module, args, out: seen.append(out.last_hidden_state))

    def encode(clip: np.ndarray) -> Tensor:
        inputs = extractor(clip, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
        mask = inputs.attention_mask
        count = int(tower._get_feat_extract_output_lengths(mask.sum(-1))[1])
        model(
            input_ids=torch.full((1, count), 19),
            input_features=inputs.input_features,
            feature_attention_mask=mask,
        )
        return seen[-1][0]

    return encode


def clap(fused: bool, padding: str) -> Callable:
    def build(folder: Path) -> Callable[[np.ndarray], Tensor]:
        audio = {**encoder_class("clap").tiny().config.transformers, "enable_fusion": fused}
        if fused:
            audio |= {"fusion_type": None, "aff_block_r": 2}
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "vocab_size": 20, "max_position_embeddings": 8}  # fmt: skip
        model = hf.ClapModel(hf.ClapConfig(audio_config=audio, text_config=text, projection_dim=8)).eval()
        norm = model.audio_model.audio_encoder.batch_norm
        torch.nn.init.uniform_(norm.running_mean, -40, -20)
        torch.nn.init.uniform_(norm.running_var, 100, 300)
        model.save_pretrained(folder)
        extractor = hf.ClapFeatureExtractor(
            feature_size=16, sampling_rate=16000, hop_length=160, max_length_s=2, fft_window_size=512,
            frequency_min=50, frequency_max=7000, padding=padding,
            truncation="fusion" if fused else "rand_trunc",
        )  # fmt: skip
        extractor.save_pretrained(folder)

        def encode(clip: np.ndarray) -> Tensor:
            inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
            longer = torch.zeros(1, 1, dtype=torch.bool)  # the extractor calls one clip longer at random
            tokens = model.audio_model(inputs.input_features.float(), is_longer=longer).last_hidden_state[0]
            return tokens.permute(2, 1, 0).flatten(0, 1)  # (D, F, T) there

        return encode

    return build


PUBLISHED: dict[str, tuple[str, Callable, dict[str, Any]]] = {
    "ast": ("ast", ast, {}),
    "whisper": ("whisper", whisper, {}),
    "qwen2_audio": ("qwen2_audio", qwen2_audio, {}),
    "clap": ("clap", clap(False, "repeatpad"), {}),
    "clap-fused": ("clap", clap(True, "repeat"), {}),
    "wav2vec2-base": ("wav2vec2", speech("Wav2Vec2Config", "Wav2Vec2ForCTC", "wav2vec2"), {"window_s": 1.0}),
    "wav2vec2-large": (
        "wav2vec2",
        speech("Wav2Vec2Config", "Wav2Vec2ForPreTraining", "wav2vec2", **LAYER_NORMS),
        {"window_s": 1.0},
    ),
    "hubert-base": ("hubert", speech("HubertConfig", "HubertModel", None), {"window_s": 1.0}),
    "hubert-large": ("hubert", speech("HubertConfig", "HubertForCTC", "hubert", **LAYER_NORMS), {"window_s": 1.0}),
    "wavlm-base": ("wavlm", speech("WavLMConfig", "WavLMModel", None, normalise=False), {"window_s": 1.0}),
    "wavlm-large": ("wavlm", speech("WavLMConfig", "WavLMModel", None, **LAYER_NORMS), {"window_s": 1.0}),
    "data2vec": (
        "data2vec",
        speech("Data2VecAudioConfig", "Data2VecAudioForCTC", "data2vec_audio", **POSITIONS),
        {"window_s": 1.0},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory) -> tuple[str, Path, Callable[[np.ndarray], Tensor], AudioEncoder]:
    name, build, options = PUBLISHED[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        official = build(folder)
    return name, folder, official, load_encoder(folder, **options)


def clips(encoder: AudioEncoder) -> list[np.ndarray]:
    """Clips of several lengths, all within one window, the first as long as one."""
    full = round(encoder.config.clip_s * encoder.config.sample_rate)
    rng = np.random.default_rng(0)
    return [
        (level * rng.standard_normal(int(full * part))).astype(np.float32)
        for part, level in ((1.0, 0.1), (0.613, 0.3), (0.29, 0.02), (0.613, 0.1))
    ]


@torch.no_grad()
def test_tokens_are_the_published_models(published) -> None:
    name, _, official, encoder = published
    assert encoder.config.model_class == encoder_class(name).config_class.model_classes[0]
    given = clips(encoder)
    out = encoder(*pad_batch(given))
    for row, clip in enumerate(given):
        got = out.tokens[row][out.mask[row]]
        wanted = official(clip)[: len(got)]
        assert got.shape == wanted.shape and got.std() > 0.01
        assert (got - wanted).abs().max().item() <= TOLERANCE


def test_the_report_names_what_was_left_out(published) -> None:
    _, _, _, encoder = published
    report = encoder.load_report
    assert report is not None and len(report.matched) == len(encoder.model.state_dict())
    assert not report.missing and not report.misshaped
    assert all(p.dtype == torch.float32 for p in encoder.parameters())


def test_a_stray_or_missing_weight_is_refused(published, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    name, folder, _, encoder = published
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    norms = [key for key in weights if "norm" in key and key.endswith("weight")]
    inside = next(key for key in norms if not any(fnmatchcase(key, head) for head in encoder.heads))
    weights[inside.replace("norm", "nrom")] = weights.pop(inside)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing .*norm.*unexpected .*nrom"):
        load_encoder(broken)
    weights = load_file(folder / "model.safetensors")
    weights[inside] = torch.ones(3)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="mis-shaped"):
        load_encoder(broken)


def test_saved_again_it_loads_without_the_publishers_files(published, tmp_path) -> None:
    _, _, _, encoder = published
    encoder.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_encoder(tmp_path)
    assert loaded.config == encoder.config
    given = pad_batch(clips(encoder))
    with torch.no_grad():
        assert torch.equal(loaded(*given).tokens, encoder(*given).tokens)


def test_the_front_end_must_be_there(published, tmp_path) -> None:
    _, folder, _, _ = published
    for file in folder.iterdir():
        if "processor" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="preprocessor_config.json"):
        load_encoder(tmp_path)


def test_unknown_values_are_refused(published, tmp_path) -> None:
    name, folder, _, _ = published
    with pytest.raises(ConfigError, match="did you mean 'hidden_"):
        load_encoder(name, transformers={"hiden_sise": 3})
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="no encoder reads model_type 'bert'"):
        load_encoder(tmp_path)


@torch.no_grad()
def test_older_and_larger_checkpoints_load_alike(tmp_path) -> None:
    """Pickled weights with the old names of weight_norm, and weights in several files."""
    from safetensors.torch import load_file

    PUBLISHED["wav2vec2-base"][1](tmp_path)
    expected = load_encoder(tmp_path)
    weights = {}
    for key, value in load_file(tmp_path / "model.safetensors").items():
        key = key.replace("parametrizations.weight.original0", "weight_g")
        weights[key.replace("parametrizations.weight.original1", "weight_v")] = value
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in weights
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    given = pad_batch(clips(expected))
    assert torch.equal(load_encoder(tmp_path)(*given).tokens, expected(*given).tokens)
    whole = hf.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(load_encoder(tmp_path)(*given).tokens, expected(*given).tokens)


def test_files_of_two_checkpoints_are_refused(tmp_path) -> None:
    PUBLISHED["whisper"][1](tmp_path)
    hf.WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="feature_size is 80, config.json's num_mel_bins is 16"):
        load_encoder(tmp_path)


@torch.no_grad()
def test_whisper_with_shorter_windows_is_the_model_with_fewer_positions(tmp_path) -> None:
    """A window of 0.3 s: the first 15 of 50 positions, and the silence of 0.3 s; it saves and loads again."""
    whisper(tmp_path)
    short = load_encoder(tmp_path, window_s=0.3)
    assert (short.config.steps_per_window, short.config.frame_rate_hz) == (15, 50.0)
    official = hf.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval().model.encoder
    official.config.max_source_positions = 15
    official.embed_positions = torch.nn.Embedding.from_pretrained(
        official.embed_positions.weight[:15].clone()
    )
    extractor = hf.WhisperFeatureExtractor(feature_size=16, n_samples=4800, chunk_length=1)
    extractor.n_samples = 4800
    clip = 0.1 * np.random.default_rng(0).standard_normal(9600).astype(np.float32)  # two windows
    windows = [
        extractor(part, sampling_rate=16000, return_tensors="pt").input_features for part in np.split(clip, 2)
    ]
    wanted = torch.cat([official(features).last_hidden_state[0] for features in windows])
    got = short(*pad_batch([clip])).tokens[0]
    assert got.shape == (30, 32) and (got - wanted).abs().max() <= TOLERANCE
    short.save_pretrained(tmp_path / "short")
    again = load_encoder(tmp_path / "short")
    assert again.config == short.config and torch.equal(again(*pad_batch([clip])).tokens[0], got)


@torch.no_grad()
def test_whisper_keeps_tokens_behind_a_very_short_clip(tmp_path) -> None:
    """`min_clip_s`: the tokens of the clip padded with silence, for the short clip of a batch alone."""
    whisper(tmp_path)
    plain, kept = load_encoder(tmp_path), load_encoder(tmp_path, min_clip_s=0.5)
    rng = np.random.default_rng(0)
    short, long = (0.1 * rng.standard_normal(n).astype(np.float32) for n in (2000, 12000))
    assert [kept.config.n_time_for(n) for n in (2000, 8000, 8001, 12000, 16000 + 2000)] == [
        25,
        25,
        26,
        38,
        75,
    ]
    assert [plain.config.n_time_for(n) for n in (2000, 12000)] == [7, 38]
    out = kept(*pad_batch([short, long]))
    assert out.mask.sum(dim=1).tolist() == [25, 38]
    silence = np.concatenate([short, np.zeros(6000, dtype=np.float32)])
    wanted = plain(*pad_batch([silence])).tokens[0]
    assert torch.allclose(out.tokens[0, :25], wanted, atol=1e-5) and wanted[7:].std() > 0.01
    assert torch.allclose(out.tokens[1, :38], plain(*pad_batch([long])).tokens[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_s": 0.0}, r"window_s is 0.0; expected a multiple of 0.02 s up to 1"),
        ({"window_s": 1.02}, r"window_s is 1.02; expected a multiple"),
        ({"window_s": 0.31}, r"window_s is 0.31; expected a multiple"),
        ({"window_s": math.nan}, r"window_s is nan"),
        ({"min_clip_s": -1.0}, r"min_clip_s is -1.0; expected seconds from 0 to the window's 1"),
        (
            {"min_clip_s": 0.5, "window_s": 0.4},
            r"min_clip_s is 0.5; expected seconds from 0 to the window's 0.4",
        ),
    ],
)
def test_whisper_refuses_windows_that_it_cannot_have(tmp_path, options, message) -> None:
    whisper(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_encoder(tmp_path, **options)


@pytest.mark.parametrize("name", ["whisper", "wav2vec2-base", "clap"])
def test_inside_an_audio_language_model_it_saves_and_loads(name, llm_dir, tmp_path) -> None:
    import alm
    from alm.checkpoint import load_llm
    from alm.model import AudioLanguageModel
    from alm.policy import Policy
    from alm.processor import build_processor

    (tmp_path / "encoder").mkdir()
    PUBLISHED[name][1](tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder", **PUBLISHED[name][2])
    model = AudioLanguageModel.assemble(encoder, load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir))
    model.set_policy(Policy(encoder="lora"))
    processor = build_processor(hf.AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded, again = alm.load(tmp_path / "model", device="cpu")
    assert again.sample_rate == encoder.config.sample_rate
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[key], value), key
    lengths, given = collate_waveforms(clips(encoder))
    with torch.no_grad():
        assert torch.equal(loaded.eval().encode(**given).tokens, model.eval().encode(**given).tokens)
    n_tokens = again.n_audio_tokens(len(clips(encoder)[1]))
    assert n_tokens == again.projector_config.n_tokens_for(
        int(encoder.check_lengths(torch.tensor(lengths))[1])
    )
