"""Fixtures shared by the tests."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files with the most slow tests first: no process is left alone with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of the tests; nothing is written into the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numbers and recordings beside the checkout; tests that need them skip without."""
    if not (SHARED / "golden").is_dir() or not (SHARED / "data").is_dir():
        pytest.skip("no reference data beside the checkout (expected shared/golden and shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def llm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a byte-level tokenizer and a chat template, as a local directory."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llm")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["what is this sound", "a bell", "a dog barks"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<pad>", "<s>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide_llm_dir(llm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with layers of 64 inputs, the block that bitsandbytes' 4 bits need on a CPU."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide-llm")
    torch.manual_seed(0)
    LlamaForCausalLM(AutoConfig.from_pretrained(llm_dir, hidden_size=64, head_dim=16)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llm_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tones, each with a caption or a question, which training tests only read."""
    from survival import make_data

    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def parts(llm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny encoder, the tiny LLM, and a model aligned for one step, which training tests only read."""
    from survival import make_data, make_parts

    return make_parts(tmp_path_factory.mktemp("parts"), make_data(tmp_path_factory.mktemp("data")), llm_dir)


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Four clips of different length at 16 kHz, mono float32."""
    rng = np.random.default_rng(0)
    return [
        (0.3 * np.sin(2 * np.pi * f * np.arange(n) / 16000) + 0.01 * rng.standard_normal(n)).astype(
            np.float32
        )
        for f, n in ((300, 16000), (700, 9000), (1500, 24000), (2500, 12345))
    ]


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with an error classifier on top, as one local directory each."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a dog cat barks loudly rain falls".split()]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=6,
    )  # fmt: skip
    for name, kind in (("sbert", BertModel), ("fluency", BertForSequenceClassification)):
        kind(config).eval().save_pretrained(folder / name)
        BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / name)
    return folder
