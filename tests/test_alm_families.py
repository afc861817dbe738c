"""Every LLM family: splicing, padding, batches, attention kernels, tied weights, loss."""

import itertools

import numpy as np
import pytest
import torch
from calls import model_inputs
from tiny_model import tiny_llm
from transformers import AutoTokenizer

from alm.head import head_runs_alone
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class

# Sliding windows are shorter than the prompts; every option that a family puts around embeddings or head is on.
FAMILIES = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 16},
    "phi3": {"sliding_window": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    "gemma3_text": {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16},
    "smollm3": {"no_rope_layers": [1, 0], "tie_word_embeddings": True},
    "gpt_neox": {"tie_word_embeddings": False},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 5.0},
    "cohere": {"logit_scale": 0.3},
    "gpt2": {},  # learned positions, which padding must not move
}
WHOLE = {
    **FAMILIES,
    "opt": {"word_embed_proj_dim": 32, "do_layer_norm_before": True},
}  # its body is out of reach
QUESTIONS = ["what is this sound", "is there a bell", "describe the audio please", "how many dogs bark here"]


def family_llm(family, vocab_size, **options):
    """The tiny LLM of a family with all of its options."""
    return tiny_llm(family, vocab_size, **{**WHOLE.get(family, {}), **options})


@pytest.fixture
def tokenizer(llm_dir):
    return AutoTokenizer.from_pretrained(llm_dir)


@pytest.fixture
def make(tokenizer):
    def build(family, projector="mlp", encoder="audiomosaic", **options):
        llm = family_llm(family, len(tokenizer), **options)
        encoder = encoder_class(encoder).tiny()
        torch.manual_seed(0)
        model = AudioLanguageModel.assemble(encoder, llm, projector).eval()
        return model, build_processor(tokenizer, model)

    return build


def talks(n):
    return [[{"role": "user", "content": f"<|audio|>{QUESTIONS[i % 4]}"}] for i in range(n)]


def mixed_clips(n):
    rng = np.random.default_rng(1)
    return [
        (0.3 * rng.standard_normal(rng.integers(2000, 12000)) * rng.uniform(0.1, 1)).astype(np.float32)
        for _ in range(n)
    ]


@pytest.mark.parametrize("family", WHOLE)
def test_embeddings_and_ids_are_the_same_way_in(tokenizer, family):
    """What an LLM does to its embeddings (Gemma scales them) must also be done to embeddings that are passed in."""
    llm = family_llm(family, len(tokenizer))
    ids = torch.randint(5, len(tokenizer), (2, 40))
    embeds = llm.get_input_embeddings()(ids)
    torch.testing.assert_close(llm(inputs_embeds=embeds).logits, llm(input_ids=ids).logits)
    mask = torch.ones_like(ids)
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        llm.generate(inputs_embeds=embeds, **options),
        llm.generate(input_ids=ids, **options)[:, ids.shape[1] :],
    )


def greedy(model, processor, conversations, clips, batch_size, side="left"):
    """Answers in order, batch by batch as they come."""
    answers = []
    for start in range(0, len(clips), batch_size):
        rows = slice(start, start + batch_size)
        batch = model_inputs(
            processor,
            conversations[rows],
            [[c] for c in clips[rows]],
            add_generation_prompt=True,
            padding_side=side,
        )
        out = model.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0)
        out = out[:, batch["input_ids"].shape[1] :]
        answers += [tuple(row[row != 0].tolist()) for row in out]  # tokens: stricter than text
    return answers


@pytest.mark.parametrize("family", WHOLE)
def test_batch_padding_and_kernel_change_nothing(make, family):
    model, processor = make(family)
    conversations, clips = talks(64), mixed_clips(64)
    model.llm.set_attn_implementation("eager")
    expected = greedy(model, processor, conversations, clips, 1)
    assert len(set(expected)) > 2  # clips are told apart
    # transformers gives Gemma-2 no SDPA kernel: it cannot cap attention logits
    for attention in ("eager", "sdpa") if model.llm._supports_sdpa else ("eager",):
        model.llm.set_attn_implementation(attention)
        for size, side in itertools.product((8, 32), ("left", "right")):
            assert greedy(model, processor, conversations, clips, size, side) == expected
        assert_logits_do_not_depend_on_padding(model, processor, conversations[:3], clips[:3])


def assert_logits_do_not_depend_on_padding(model, processor, conversations, clips):
    for side in ("left", "right"):
        batch = model_inputs(
            processor, conversations, [[c] for c in clips], add_generation_prompt=True, padding_side=side
        )
        together = model(**batch).logits
        for i, clip in enumerate(clips):
            one = model_inputs(processor, conversations[i : i + 1], [[clip]], add_generation_prompt=True)
            kept = together[i][batch["attention_mask"][i].bool()]
            torch.testing.assert_close(kept, model(**one).logits[0], atol=1e-4, rtol=0)


def answered(n):
    return [
        [*t, {"role": "assistant", "content": f"{i} dogs bark and a bell rings"[: 9 + 4 * i]}]
        for i, t in enumerate(talks(n))
    ]


@pytest.mark.parametrize("family", WHOLE)
def test_the_loss_at_labels_only_is_the_llms_own(make, family):
    """Same loss and gradients as all logits give; the mean over a batch weighs every token the same."""
    model, processor = make(family)
    model.choices = {"encoder": "frozen", "projector": "train", "llm": "full"}
    model.apply_choices()
    batch = model_inputs(processor, answered(5), [[c] for c in mixed_clips(5)], output_labels=True)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "attention_mask")}
    embeds = model.embed(**inputs)
    position_ids = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    extra = {"position_ids": position_ids} if model._takes_positions else {}
    whole = model.llm(
        inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=batch["labels"], **extra
    )
    whole.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert head_runs_alone(model.llm) == (family != "opt")
    for chunk in (0, 7):
        model.zero_grad()
        model.config.loss_chunk = chunk
        out = model(**batch)
        assert (out.logits is None) == (family != "opt")
        torch.testing.assert_close(out.loss, whole.loss, atol=1e-5, rtol=0)
        out.loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
    with torch.no_grad():
        halves = model(**batch, num_items_in_batch=2 * (batch["labels"] != -100).sum()).loss
        torch.testing.assert_close(halves, whole.loss / 2, atol=1e-5, rtol=0)
        singles, counts = [], []
        for conversation, clip in zip(answered(5), mixed_clips(5), strict=True):
            one = model_inputs(processor, [conversation], [[clip]], output_labels=True)
            singles.append(model(**one).loss)
            counts.append((one["labels"] != -100).sum())
        assert len({int(c) for c in counts}) > 2
        counts = torch.stack(counts)
        torch.testing.assert_close(
            (torch.stack(singles) * counts).sum() / counts.sum(), whole.loss, atol=1e-5, rtol=0
        )


def test_a_mixture_of_experts_is_trained_with_its_balancing_loss(make):
    """The loss is cross-entropy plus the router's term (Switch Transformer, equation 4), both computed here."""
    options = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
    model, processor = make("mixtral", output_router_logits=True, **options)
    batch = model_inputs(processor, answered(3), [[c] for c in mixed_clips(3)], output_labels=True)
    mask, labels = batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "attention_mask")}
        out = model.llm(
            inputs_embeds=model.embed(**inputs),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_router_logits=True,
        )
        found = float(model(**batch).loss)
    logs = out.logits[:, :-1].double().log_softmax(-1)
    wanted = labels[:, 1:]
    told = wanted != -100
    entropy = -logs.gather(-1, wanted.clamp(min=0)[..., None])[..., 0][told].mean()
    shares = torch.cat([layer.double().softmax(-1) for layer in out.router_logits])
    real = mask.flatten().bool().repeat(len(out.router_logits))
    chosen = torch.zeros_like(shares).scatter(1, shares.topk(2, dim=1).indices, 1.0)
    balance = 4 * (chosen[real].mean(0) * shares[real].mean(0)).sum()
    assert balance > 1.0
    assert found == pytest.approx(float(entropy + 0.5 * balance), abs=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_the_placeholder_leaves_embeddings_and_ties_alone(make, tied):
    model, processor = make("qwen2", tie_word_embeddings=tied)
    before = model.get_input_embeddings().weight
    assert processor.audio_token_id >= before.shape[0]  # outside the vocabulary, and never looked up
    assert (model.get_output_embeddings().weight is before) == tied
    batch = model_inputs(processor, answered(2), [[c] for c in mixed_clips(2)], output_labels=True)
    assert torch.isfinite(model(**batch).loss) and model.get_input_embeddings().weight is before


def test_an_llm_that_has_the_token_keeps_it(tokenizer, llm_dir):
    own = AutoTokenizer.from_pretrained(llm_dir)
    own.add_tokens(["<|audio|>"], special_tokens=True)
    own.add_tokens(["<|more|>"], special_tokens=True)
    llm = family_llm("llama", len(own))
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), llm, "mlp").eval()
    processor = build_processor(own, model)
    assert len(processor.tokenizer) == len(tokenizer) + 2
    assert model.config.audio_token_id == own.convert_tokens_to_ids("<|audio|>") < llm.config.vocab_size
    batch = model_inputs(processor, talks(2), [[c] for c in mixed_clips(2)], add_generation_prompt=True)
    logits = model(**batch).logits
    with torch.no_grad():  # its own embedding is not what is read
        llm.get_input_embeddings().weight[processor.audio_token_id] += 1.0
    changed = model(**batch).logits
    kept = [i for i in range(logits.shape[-1]) if i != processor.audio_token_id]  # the head is untied
    torch.testing.assert_close(changed[..., kept], logits[..., kept])
