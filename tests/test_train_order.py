"""Order, mixtures, grouping and packing: pure functions of (seed, epoch), and the same losses whatever is packed."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from alm.common.errors import ConfigError, UserError
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest, write_manifest
from alm.data.shard_writer import write_shards
from alm.data.sources import open_records
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class
from encoders.audio import save_wav
from train.data.order import SampleOrder, apportion, epoch_order, group_by_length, one_source_order, tempered
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.settings.data import DataSettings
from train.tune.conversations import ClipWaveforms, ConversationCollator, ConversationDataset
from train.tune.lengths import SampleLengths
from train.tune.packing import check_packing, fill_rows, pack


def test_an_epoch_is_a_permutation_and_a_function_of_seed_and_epoch():
    order = SampleOrder([100])
    assert sorted(order(0, 0)) == list(range(100))
    np.testing.assert_array_equal(order(0, 3), SampleOrder([100])(0, 3))
    assert not np.array_equal(order(0, 0), order(0, 1)) and not np.array_equal(order(0, 0), order(1, 0))
    np.testing.assert_array_equal(order(4, 2), epoch_order(100, 4, 2))  # as without an order of its own


def test_a_mixture_has_its_shares_and_hears_a_source_whole_before_repeating_it():
    sizes, weights = [90, 10], [1.0, 1.0]
    order = SampleOrder(sizes, weights)
    epochs = [order(0, epoch) for epoch in range(6)]
    for epoch in epochs:
        assert len(epoch) == 100 and (epoch < 90).sum() == 50
    heard = Counter(np.concatenate(epochs).tolist())
    large = [heard[i] for i in range(90)]  # 300 draws of 90: three or four each
    assert set(large) <= {3, 4} and {heard[i] for i in range(90, 100)} == {30}
    first = np.concatenate(epochs[:2])
    assert len({i for i in first.tolist() if i < 90}) == 90  # 100 draws: all 90 before a second pass is over
    np.testing.assert_array_equal(order(0, 5), SampleOrder(sizes, weights)(0, 5))  # without the epochs before
    assert apportion([1, 1, 1], 100).sum() == 100 and apportion([3, 1], 8).tolist() == [6, 2]


def test_temperature_evens_out():
    assert tempered([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    assert tempered([900, 100], 2.0) == pytest.approx([0.75, 0.25])
    assert tempered([900, 100], 1e9) == pytest.approx([0.5, 0.5])


def test_grouping_keeps_every_sample_and_wastes_little():
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(4, 0.8, 4000)).astype(int)
    order = SampleOrder([4000])(0, 0)
    grouped = group_by_length(order, lengths, 16, 0, 0)
    assert sorted(grouped) == sorted(order)

    def waste(numbers):
        batches = lengths[numbers].reshape(-1, 16)
        return 1 - batches.sum() / (16 * batches.max(axis=1)).sum()

    assert waste(order) > 0.5 and waste(grouped) < 0.1
    means = lengths[grouped].reshape(-1, 16).mean(axis=1)
    assert lengths[grouped[:16]].max() == lengths.max()
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2  # batches are in random order
    np.testing.assert_array_equal(grouped, group_by_length(order, lengths, 16, 0, 0))
    for seed, epoch in ((0, 1), (1, 0)):  # the same batches in another order
        other = group_by_length(order, lengths, 16, seed, epoch).reshape(-1, 16)
        assert set(map(frozenset, other.tolist())) == set(map(frozenset, grouped.reshape(-1, 16).tolist()))
        assert (other[1:] != grouped.reshape(-1, 16)[1:]).any(axis=1).mean() > 0.9
    part = group_by_length(order[:39], lengths, 16, 0, 0)  # two whole batches; the shortest samples are left
    assert lengths[part[:16]].max() == lengths[order[:39]].max() > lengths[part[32:]].max()


def test_rows_are_filled_and_nothing_is_lost():
    lengths = [5, 9, 1, 3, 7, 2, 9, 4]
    rows = fill_rows(lengths, 10)
    assert sorted(i for row in rows for i in row) == list(range(8))
    assert all(sum(lengths[i] for i in row) <= 10 for row in rows) and len(rows) == 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = []
    rng = np.random.default_rng(0)
    for i in range(9):
        save_wav(folder / f"{i}.wav", 0.1 * rng.standard_normal(4000 + 3000 * i), 16000)
        answer = "a bell " * (1 + 3 * (i % 4))
        rows.append(
            {"id": f"r{i}", "audio": f"{i}.wav", "question": "what is this", "answer": answer.strip()}
        )
    rows.append({"id": "two", "audio": ["0.wav", "3.wav"], "question": "which", "answer": "a dog"})
    write_manifest(folder / "a.jsonl", rows)
    write_manifest(folder / "b.jsonl", [{**row, "id": f"b{row['id']}"} for row in rows[:3]])
    return folder


FAMILIES = {"llama": LlamaConfig, "qwen2": Qwen2Config}


def assembled(llm_dir, family, attention):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    config = FAMILIES[family](
        vocab_size=len(tokenizer) + 8, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), llm, "mlp")
    assert model.llm.config._attn_implementation == attention
    return model, build_processor(tokenizer, model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("supervise", ["assistant", "all"])
def test_packed_rows_give_the_loss_and_gradients_of_padded_ones(data, llm_dir, family, attention, supervise):
    model, processor = assembled(llm_dir, family, attention)
    check_packing(model.llm)
    dataset = ConversationDataset(read_manifest(data / "a.jsonl"))
    samples = [dataset[i] for i in range(len(dataset))]
    results = []
    for packed in (False, True):
        batch = ConversationCollator(processor, ClipWaveforms(16000), 2048, packed, supervise)(samples)
        model.zero_grad()
        out = model(**batch)
        out.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.projector.parameters()])
        results.append((float(out.loss.detach()), gradient, batch))
    (padded_loss, padded_grad, padded), (packed_loss, packed_grad, packed) = results
    assert packed_loss == pytest.approx(padded_loss, abs=1e-5)
    torch.testing.assert_close(packed_grad, padded_grad, atol=1e-6, rtol=1e-4)
    assert len(packed["input_ids"]) < len(padded["input_ids"]) and "attention_mask" not in packed
    assert (packed["labels"] != -100).sum() == (padded["labels"][:, 1:] != -100).sum()
    seeing = dict(packed, position_ids=None)  # the test can fail: with one long sequence the loss is another
    seeing["position_ids"] = torch.arange(packed["input_ids"].shape[1]).expand_as(packed["input_ids"])
    assert abs(float(model(**seeing).loss.detach()) - padded_loss) > 1e-3


def test_no_packed_sample_is_asked_for_its_first_token():
    """The token before a sample's first is another sample's. All text is labelled."""
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11], [12, 0, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]),
    }
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    packed, order = pack(batch, 0)
    assert order == [1, 0, 2]
    assert packed["input_ids"].tolist() == [[8, 9, 10, 11], [5, 6, 7, 12]]
    assert packed["labels"].tolist() == [[-100, 9, 10, 11], [-100, 6, 7, -100]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]


def test_an_llm_that_cannot_keep_samples_apart_is_refused(llm_dir):
    class Leaky(torch.nn.Module):
        def __init__(self, llm):
            super().__init__()
            self.llm = llm

        def get_input_embeddings(self):
            return self.llm.get_input_embeddings()

        def forward(self, position_ids=None, **inputs):
            return self.llm(**inputs)

    llm = AutoModelForCausalLM.from_pretrained(llm_dir)
    check_packing(llm)
    with pytest.raises(ConfigError, match="Leaky attends across the samples of a packed row"):
        check_packing(Leaky(llm))


def test_lengths_are_the_same_from_files_and_from_shards(data, llm_dir, tmp_path):
    _, processor = assembled(llm_dir, "llama", "sdpa")
    records = read_manifest(data / "a.jsonl")[:9]
    write_shards(records, tmp_path / "s")
    lengths = SampleLengths(records, processor)(0)
    np.testing.assert_allclose(
        lengths, SampleLengths(open_records([str(tmp_path / "s")]), processor)(0), atol=1
    )
    collator = ConversationCollator(processor, ClipWaveforms(16000))
    dataset = ConversationDataset(records)
    true = [int(collator([dataset[i]])["attention_mask"].sum()) for i in range(9)]
    assert np.corrcoef(lengths, true)[0, 1] > 0.95


def losses(out):
    return [line["loss"] for line in map(json.loads, (out / "metrics.jsonl").open()) if "loss" in line]


def test_training_with_mixture_grouping_and_packing_is_what_it_is_without_packing(data, llm_dir, tmp_path):
    write_shards(read_manifest(data / "a.jsonl"), tmp_path / "written")
    encoder = tmp_path / "encoder"
    encoder_class("audiomosaic").tiny().save_pretrained(encoder)
    weights = {}
    for name, source, packed in (
        ("plain", data / "a.jsonl", False),
        ("packed", data / "a.jsonl", True),
        ("shards", tmp_path / "written", False),
    ):
        values = {
            "stage": "align", "out": str(tmp_path / name), "encoder": str(encoder), "llm": str(llm_dir),
            "data": {
                "train": [str(source), str(data / "b.jsonl")], "validation": [str(source)], "pack": packed,
                "mixture": {"weights": [1, 2], "temperature": 2.0}, "group_by_length": True,
            },
            "optim": {"steps": 5, "batch_size": 4, "warmup_steps": 0}, "run": {"log_every": 1},
        }  # fmt: skip
        weights[name] = load_file(run_stage(parse_settings(TrainSettings, values)) / "model.safetensors")
    for name in ("packed", "shards"):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "plain"), atol=1e-5)
        for key, value in weights["plain"].items():
            torch.testing.assert_close(weights[name][key], value, atol=1e-5, rtol=1e-4)


def test_wrong_mixtures_are_refused():
    with pytest.raises(ConfigError, match="2 weights for 1 sources"):
        parse_settings(DataSettings, {"train": ["a"], "mixture": {"weights": [1, 2]}})
    with pytest.raises(ConfigError, match="expected more than 0"):
        parse_settings(DataSettings, {"train": ["a"], "mixture": {"temperature": 0}})
    with pytest.raises(ConfigError, match="did you mean 'mixture.temperature'"):
        parse_settings(DataSettings, {"train": ["a"], "mixture": {"temprature": 1}})


def test_batches_of_one_source():
    order = one_source_order([23, 9, 3], 4, seed=1, epoch=0)
    assert sorted(order) == list(range(35))
    sources = np.searchsorted([23, 32], order, side="right")
    whole = sources[: 7 * 4].reshape(7, 4)  # 5 batches of the first, 2 of the second; the third fills none
    assert (whole == whole[:, :1]).all() and Counter(whole[:, 0].tolist()) == {0: 5, 1: 2}
    assert np.array_equal(order, one_source_order([23, 9, 3], 4, seed=1, epoch=0))
    # In another epoch or with another seed, other samples meet in a batch.
    met = set(map(frozenset, order[: 7 * 4].reshape(7, 4).tolist()))
    for other in (one_source_order([23, 9, 3], 4, seed=1, epoch=1), one_source_order([23, 9, 3], 4, 2, 0)):
        assert not met & set(map(frozenset, other[: 7 * 4].reshape(7, 4).tolist()))


def test_a_checked_sample_is_encoded_once_and_gives_the_same_batch(data, llm_dir, monkeypatch):
    _, processor = assembled(llm_dir, "llama", "sdpa")
    dataset = ConversationDataset(read_manifest(data / "a.jsonl")[:5])
    indices = [0, 1, 2, 3, 4, 0]  # one of them twice
    calls = []
    encode = processor.encode_conversation
    monkeypatch.setattr(
        processor,
        "encode_conversation",
        lambda *given, **more: calls.append(1) or encode(*given, **more),
    )
    for packed in (False, True):
        plain = ConversationCollator(processor, ClipWaveforms(16000), packed=packed)(
            [dataset[i] for i in indices]
        )
        collator = ConversationCollator(processor, ClipWaveforms(16000), packed=packed)
        samples = [dataset[i] for i in indices]
        calls.clear()
        for sample in samples:
            collator.check(sample)
        batch = collator(samples)
        assert len(calls) == len(samples)
        assert batch.keys() == plain.keys()
        assert all(torch.equal(batch[key], plain[key]) for key in plain)
        assert not collator.clips._checked


def test_a_refused_sample_leaves_no_waveform_behind(data, llm_dir):
    _, processor = assembled(llm_dir, "llama", "sdpa")
    sample = ConversationDataset(read_manifest(data / "a.jsonl"))[0]
    no_marker = [{**turn, "content": turn["content"].replace("<|audio|>", "")} for turn in sample["messages"]]
    for refused, max_length in ((sample, 3), ({**sample, "messages": no_marker}, 2048)):
        collator = ConversationCollator(processor, ClipWaveforms(16000), max_length)
        with pytest.raises(UserError, match=r"a\.jsonl:1: "):
            collator.check(refused)
        assert not collator.clips._checked
