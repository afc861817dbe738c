"""The small LLM's tokenizer: trained by `sentencepiece`, wrapped for transformers, with a chat template."""

import io
from collections.abc import Iterable

import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END_OF_TURN = "<|end|>"
PAD = "<|pad|>"
UNKNOWN = "<unk>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on text.

    Byte-pair encoding without normalisation: frequent words become one token each, and any other text falls back to
    letters and bytes, so that decoding restores every text exactly. (A unigram model of so small a vocabulary has no
    tokens for words that share no part with another word.)

    Args:
        sentences: The text; line breaks are allowed.
        vocab_size: Largest number of tokens; 261 of them are bytes and special tokens.

    Returns:
        The tokenizer, with turn tokens, `<|end|>` as end of sequence, and a chat template.
    """
    buffer = io.BytesIO()
    lines = (line for sentence in sentences for line in sentence.split("\n"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece=PAD,
        unk_piece=UNKNOWN,
        control_symbols=[END_OF_TURN, *ROLES.values()],
        num_threads=2,
        minloglevel=2,
    )
    return _wrap(sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue()))


def _wrap(pieces: sentencepiece.SentencePieceProcessor) -> PreTrainedTokenizerFast:
    """Convert to a tokenizer with the same pieces and scores that `AutoTokenizer` can load."""
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in vocabulary  # sentencepiece lists pieces in the order of their merges
        if not (pieces.is_control(vocabulary[piece]) or pieces.is_byte(vocabulary[piece]))
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    # "always": a text begins with a word boundary also after a special token, so that a question has the same tokens
    # after audio tokens as after a description in words.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        additional_special_tokens=list(ROLES.values()),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
