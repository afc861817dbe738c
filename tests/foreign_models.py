"""Tiny random directories of audio-text models of `transformers`, saved as the published ones are."""

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
SECONDS = 2  # of a window of the encoder


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
    """With a tokenizer in the form of `tokenizers`; the published directories hold that of mistral-common."""
    from transformers import (
        VoxtralConfig,
        VoxtralForConditionalGeneration,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    # The processor takes token 24 for that of the audio.
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


FAMILIES = {one.__name__: one for one in (qwen2_audio, audioflamingo3, granite_speech, voxtral)}


def build(name, folder):
    """The directory of a tiny model whose answers depend on all that it gets."""
    import torch

    torch.manual_seed(0)
    model, processor = FAMILIES[name](folder)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim > 1 and "embed_positions" not in key:
                value.normal_(0, 0.6 / value.shape[-1] ** 0.5 * 2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
