"""Tiny random directories of audio-text models of `transformers`, saved as the published ones are."""

import json

CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}AUDIO{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLM = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
SECONDS = 2  # the length of one window of the encoder


def tokenizer(*more):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>", *more]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(special), special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(["what is this sound"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<|im_end|>")


def whisper_features():
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=16, chunk_length=SECONDS)


def llm(tokens):
    return {**LLM, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id,
            "bos_token_id": None}  # fmt: skip


def qwen2_audio(folder):
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

    tokens = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    encoder = {
        "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
        "max_source_positions": SECONDS * 50,
    }  # fmt: skip
    config = Qwen2AudioConfig(
        audio_config=encoder, text_config={**llm(tokens), "model_type": "qwen2"},
        audio_token_index=tokens.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    return Qwen2AudioForConditionalGeneration(config), Qwen2AudioProcessor(whisper_features(), tokens)


def audioflamingo3(folder):
    from transformers import (
        AudioFlamingo3Config,
        AudioFlamingo3ForConditionalGeneration,
        AudioFlamingo3Processor,
    )

    tokens = tokenizer("<sound>")
    encoder = {
        "num_mel_bins": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_size": 16, "max_source_positions": SECONDS * 50,
    }  # fmt: skip
    config = AudioFlamingo3Config(
        audio_config=encoder, text_config={**llm(tokens), "model_type": "qwen2"},
        audio_token_id=tokens.convert_tokens_to_ids("<sound>"),
    )  # fmt: skip
    template = CHAT_ML.replace("AUDIO", "<sound>")
    return (
        AudioFlamingo3ForConditionalGeneration(config),
        AudioFlamingo3Processor(whisper_features(), tokens, chat_template=template),
    )


def granite_speech(folder):
    from transformers import (
        GraniteSpeechConfig,
        GraniteSpeechForConditionalGeneration,
        GraniteSpeechProcessor,
    )
    from transformers.models.granite_speech.feature_extraction_granite_speech import (
        GraniteSpeechFeatureExtractor,
    )

    tokens = tokenizer("<|audio|>")
    tokens.chat_template = TEXT_ONLY
    encoder = {
        "input_dim": 160, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "output_dim": 8, "context_size": 20,
        "max_pos_emb": 32, "conv_kernel_size": 5,
    }  # fmt: skip
    projector = {
        "model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "encoder_hidden_size": 16, "vocab_size": 8,
    }  # fmt: skip
    config = GraniteSpeechConfig(
        encoder_config=encoder, projector_config=projector, text_config={**llm(tokens), "model_type": "granite"},
        audio_token_index=tokens.convert_tokens_to_ids("<|audio|>"), has_lora_adapter=False,
    )  # fmt: skip
    return (
        GraniteSpeechForConditionalGeneration(config),
        GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokens),
    )


def voxtral(folder):
    """Save a directory with a tokenizer in the form of `tokenizers`; published ones hold that of mistral-common."""
    from transformers import (
        VoxtralConfig,
        VoxtralForConditionalGeneration,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    # The processor uses token 24 as the audio placeholder.
    named = ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    named += [f"<SPECIAL_{i}>" for i in range(len(named), 21)]
    tokens = tokenizer(*named, "[AUDIO]", "[BEGIN_AUDIO]")
    assert tokens.convert_tokens_to_ids("[AUDIO]") == 24
    text = {
        **llm(tokens), "model_type": "llama", "head_dim": 8, "bos_token_id": tokens.convert_tokens_to_ids("<s>"),
        "eos_token_id": tokens.convert_tokens_to_ids("</s>"),
    }  # fmt: skip
    encoder = {
        "num_mel_bins": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "hidden_size": 16, "max_source_positions": 1500,
    }  # fmt: skip
    config = VoxtralConfig(audio_config=encoder, text_config=text, audio_token_id=24)
    features = WhisperFeatureExtractor(feature_size=16)
    return VoxtralForConditionalGeneration(config), VoxtralProcessor(features, tokens)


OMNI_TOKENS = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip


def omni_parts():
    """Tokenizer, token ids, and the layer sizes of audio encoder, vision encoder and LLM."""
    import pytest
    from transformers import PreTrainedTokenizerFast

    pytest.importorskip("torchvision", reason="the processors of Qwen's Omni models need torchvision")
    made = tokenizer(*OMNI_TOKENS.values()).backend_tokenizer
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<|im_end|>", extra_special_tokens=OMNI_TOKENS
    )
    ids = {name: tokens.convert_tokens_to_ids(token) for name, token in OMNI_TOKENS.items()}
    encoder = {
        "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
        "output_dim": 32, "max_source_positions": SECONDS * 50,
    }  # fmt: skip
    eye = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    return tokens, ids, encoder, eye, {**llm(tokens), "rope_parameters": rope}


def omni_processor(kind, tokens):
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    template = CHAT_ML.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
    return kind(
        Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), whisper_features(), tokens, chat_template=template
    )


def qwen2_5_omni(folder):
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
    )

    tokens, ids, encoder, eye, text = omni_parts()
    config = Qwen2_5OmniThinkerConfig(
        audio_config=encoder, vision_config={**eye, "fullatt_block_indexes": [0]}, text_config=text,
        audio_token_index=ids["audio_token"], image_token_index=ids["image_token"],
        video_token_index=ids["video_token"], audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"], vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"], user_token_id=3,
    )  # fmt: skip
    return Qwen2_5OmniThinkerForConditionalGeneration(config), omni_processor(Qwen2_5OmniProcessor, tokens)


def qwen3_omni_moe(folder):
    from transformers import (
        Qwen3OmniMoeProcessor,
        Qwen3OmniMoeThinkerConfig,
        Qwen3OmniMoeThinkerForConditionalGeneration,
    )

    tokens, ids, encoder, eye, text = omni_parts()
    encoder |= {"downsample_hidden_size": 8, "n_window_infer": 100}
    text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "head_dim": 8}
    config = Qwen3OmniMoeThinkerConfig(
        audio_config=encoder, vision_config={**eye, "deepstack_visual_indexes": [0], "num_position_embeddings": 4},
        text_config=text, audio_token_id=ids["audio_token"], image_token_id=ids["image_token"],
        video_token_id=ids["video_token"], audio_start_token_id=ids["audio_bos_token"],
        vision_start_token_id=ids["vision_bos_token"], user_token_id=3,
    )  # fmt: skip
    return Qwen3OmniMoeThinkerForConditionalGeneration(config), omni_processor(Qwen3OmniMoeProcessor, tokens)


def as_published(name, folder):
    """Rewrite the directory of a thinker as that of the whole model, with a talker weight that is never used."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights = {f"thinker.{key}": value for key, value in weights.items()} | {"talker.x": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text())
    whole = thinker["architectures"][0].replace("Thinker", "")
    config = {"model_type": name, "architectures": [whole], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(config))


def musicflamingo(folder):
    from transformers import (
        MusicFlamingoConfig,
        MusicFlamingoForConditionalGeneration,
        MusicFlamingoProcessor,
    )

    tokens = tokenizer("<sound>", "<|sound_bos|>", "<|sound_eos|>")
    encoder = {
        "num_mel_bins": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_size": 16, "max_source_positions": SECONDS * 50, "model_type": "audioflamingo3_encoder",
    }  # fmt: skip
    config = MusicFlamingoConfig(
        audio_config=encoder, text_config={**llm(tokens), "model_type": "qwen2"},
        audio_token_id=tokens.convert_tokens_to_ids("<sound>"),
        audio_bos_token_id=tokens.convert_tokens_to_ids("<|sound_bos|>"),
        audio_eos_token_id=tokens.convert_tokens_to_ids("<|sound_eos|>"),
        audio_frame_step=0.01,
    )  # fmt: skip
    template = CHAT_ML.replace("AUDIO", "<sound>")
    return (
        MusicFlamingoForConditionalGeneration(config),
        MusicFlamingoProcessor(whisper_features(), tokens, chat_template=template),
    )


MADE = (qwen2_audio, audioflamingo3, granite_speech, voxtral, qwen2_5_omni, qwen3_omni_moe, musicflamingo)
FAMILIES = {one.__name__: one for one in MADE}


def build(name, folder):
    """Save a tiny model whose answers depend on text and audio."""
    import torch

    torch.manual_seed(0)
    model, processor = FAMILIES[name](folder)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim > 1 and "embed_positions" not in key:
                value.normal_(0, 0.6 / value.shape[-1] ** 0.5 * 2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if "Thinker" in type(model).__name__:
        as_published(name, folder)
    return folder
