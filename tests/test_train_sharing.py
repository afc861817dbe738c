"""A clip once, its questions together: losses and gradients of separate samples, for every kind of LLM."""

import json
import signal

import numpy as np
import pytest
import torch
from survival import AUGMENT, assert_bit_equal, of_stage, run_child
from test_alm_families import FAMILIES, family_llm
from transformers import AutoTokenizer

from alm.common.errors import ConfigError, UserError
from alm.data.manifest import read_manifest, write_manifest
from alm.model import AudioLanguageModel
from alm.policy import Policy
from alm.processing.branches import check_branches
from alm.processor import build_processor
from encoders import encoder_class
from encoders.audio import save_wav
from train.tune.conversations import ClipWaveforms, ConversationCollator, ConversationDataset
from train.tune.sharing import SharedClips, groups_by_clip, share

ASKED = ("what is this", "is it loud", "what is this sound", "how many bells are there", "describe it")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three clips: five questions, two questions and a caption with a system prompt, one question; and text alone."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "audio").mkdir()
    rng, rows = np.random.default_rng(0), []
    for clip, n in enumerate((16000, 9000, 12000)):
        save_wav(folder / "audio" / f"{clip}.wav", (0.3 * rng.standard_normal(n)).astype(np.float32), 16000)
    for i, question in enumerate(ASKED):
        rows.append(
            {"id": f"a{i}", "audio": "audio/0.wav", "question": question, "answer": f"it is {i} " * (i + 1)}
        )
    for i in range(2):
        system = {"role": "system", "content": "you hear well"}
        user = {"role": "user", "content": f"<|audio|>{ASKED[i]}"}
        said = {"role": "assistant", "content": f"number {i}"}
        rows.append({"id": f"b{i}", "audio": ["audio/1.wav"], "messages": [system, user, said]})
    rows.append({"id": "c", "audio": "audio/2.wav", "question": "what", "answer": "rain"})
    late = [{"role": "user", "content": "is it rain: <|audio|>"}, {"role": "assistant", "content": "yes"}]
    rows.append({"id": "d0", "audio": ["audio/2.wav"], "messages": late})
    text = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows.append({"id": "e", "audio": [], "messages": text})
    write_manifest(folder / "train.jsonl", rows)
    return folder


def test_records_are_grouped_by_their_audio(data):
    records = read_manifest(data / "train.jsonl")
    assert groups_by_clip(records, 8) == [[[0, 1, 2, 3, 4], [5, 6], [7, 8], [9]]]
    assert groups_by_clip(records, 2) == [[[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]]


def gradients(model, batches, n_labels):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=n_labels).loss
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_separate_samples(family, packed, data, llm_dir):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    torch.manual_seed(0)
    llm = family_llm(family, len(tokenizer))
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), llm, "mlp")
    model.set_policy(Policy(llm="lora"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    processor = build_processor(tokenizer, model)
    check_branches(model.llm, "data.share_clips")
    records = read_manifest(data / "train.jsonl")
    clips, samples = ClipWaveforms(processor.sample_rate), ConversationDataset(records)
    alone = ConversationCollator(processor, clips)
    groups = SharedClips(samples, groups_by_clip(records, 8))
    shared = ConversationCollator(processor, clips, packed=packed, shared=True)
    separate = [alone([samples[i]]) for i in range(len(samples))]
    n_labels = sum(int((batch["labels"] != -100).sum()) for batch in separate)
    together = shared([groups[i] for i in range(len(groups))])
    assert int((together["labels"] != -100).sum()) == n_labels
    assert together["input_ids"].numel() < sum(batch["input_ids"].numel() for batch in separate) or not packed
    model.eval()
    wanted_loss, wanted = gradients(model, separate, n_labels)
    loss, found = gradients(model, [together], n_labels)
    assert loss == pytest.approx(wanted_loss, abs=1e-5)
    assert found.keys() == wanted.keys() and any("lora" in name for name in found)
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max()) <= 1e-5 * max(1.0, float(value.abs().max())), name


def test_a_row_holds_the_prefix_once():
    ids = torch.tensor([[9, 9, 1, 5, 6, 7, 0], [9, 9, 1, 5, 8, 3, 4]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1] * 7])
    labels = torch.tensor([[-100, -100, -100, -100, 6, 7, -100], [-100] * 5 + [3, 4]])
    out, order = share({"input_ids": ids, "attention_mask": mask, "labels": labels}, [2], 9, 0, False)
    assert order == [0]
    assert out["input_ids"].tolist() == [[9, 9, 1, 5, 6, 7, 5, 8, 3, 4]]
    assert out["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4, 5, 6]]
    assert out["branches"][0].tolist() == [[0, 0]] * 3 + [[0, 1]] * 3 + [[0, 2]] * 4
    assert out["labels"].tolist() == [[-100] * 4 + [6, 7] + [-100] * 2 + [3, 4]]


def test_an_llm_that_takes_no_such_mask_is_refused(llm_dir):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    llm = family_llm("llama", len(tokenizer))
    plain = llm.model.forward

    def blind(*args, attention_mask=None, **kwargs):
        return plain(*args, **kwargs)

    llm.model.forward = blind
    with pytest.raises(ConfigError, match="data.share_clips: LlamaForCausalLM .* does not keep the branches"):
        check_branches(llm, "data.share_clips")


def test_a_run_with_mixture_packing_and_quarantine_resumes_bit_equal(data, parts, tmp_path):
    text = (data / "train.jsonl").read_text().replace('"id": "', '"id": "again-')
    (data / "again.jsonl").write_text(text)
    sources = [str(data / "train.jsonl"), str(data / "again.jsonl")]
    values = {
        "data": {"train": sources, "share_clips": 3, "pack": True, "cache_features": True,
                 "mixture": {"weights": [2.0, 1.0]}, "group_by_length": True, "on_bad": "quarantine",
                 "augment": {"versions": 3, **AUGMENT}},
        "optim": {"steps": 4},
    }  # fmt: skip
    reference = of_stage("align", data, tmp_path / "whole", parts, **values)
    assert run_child(reference) == 0
    run = of_stage("align", data, tmp_path / "killed", parts, **values)
    assert run_child(run, "forward", 6) == -signal.SIGKILL
    assert run_child(run) == 0
    assert_bit_equal(run, reference)
    assert json.loads((tmp_path / "whole" / "finished.json").read_text())["samples"] == 20


def test_a_sample_that_is_too_long_is_named(data, llm_dir):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), family_llm("llama", len(tokenizer)), "mlp"
    )
    processor = build_processor(tokenizer, model)
    records = read_manifest(data / "train.jsonl")
    groups = SharedClips(ConversationDataset(records), groups_by_clip(records, 8))
    collator = ConversationCollator(processor, ClipWaveforms(16000), max_length=50, shared=True)
    with pytest.raises(UserError, match=r"train.jsonl:\d+.*50"):
        collator([groups[0]])
