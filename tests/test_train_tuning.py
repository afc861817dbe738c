"""Align and instruct on a tiny model: artifacts chain, finished runs are reused, the right parts move."""

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from calls import model_inputs
from safetensors.torch import load_file

import alm
from alm.checkpoint import load_llm
from alm.common.errors import AudioError, CheckpointError, ConfigError, UserError
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import AudioRef, Record
from alm.data.sources import Chain
from alm.generation import generate_answers
from encoders import encoder_class
from encoders.audio import save_wav
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.settings.data import MixtureSettings
from train.tune import stage
from train.tune.controls import audio_control_losses, mean_loss, with_other_audio
from train.tune.conversations import ClipWaveforms, ConversationCollator, ConversationDataset
from train.tune.sharing import SharedClips, groups_by_clip
from train.tune.stage import starting_model, training_data

WORDS = ("bell", "dog", "rain", "horn")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four clearly different tones, each with a question, and one captioning record."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, word in enumerate(WORDS):
        wave = 0.4 * np.sin(2 * np.pi * 300 * 2**i * np.arange(16000) / 16000)
        save_wav(folder / f"{word}.wav", wave.astype(np.float32), 16000)
        rows.append(
            {"id": f"q{i}", "audio": f"{word}.wav", "question": "what is this", "answer": word, "clip": word}
        )
    rows.append({"id": "c0", "audio": "dog.wav", "captions": ["a dog", "one dog"], "clip": "dog"})
    write_manifest(folder / "train.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    encoder_class("audiomosaic").tiny().save_pretrained(folder)
    return folder


def settings(data, out, **values):
    base = {
        "stage": "align",
        "out": str(out),
        "data": {"train": [str(data / "train.jsonl")], "validation": [str(data / "train.jsonl")]},
        "optim": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
    }
    return parse_settings(TrainSettings, {**base, **values})


def test_align_then_instruct_each_from_the_last_artifact(data, encoder_dir, llm_dir, tmp_path, capsys):
    align = run_stage(settings(data, tmp_path / "a", encoder=str(encoder_dir), llm=str(llm_dir)))
    assert "with another clip's" in capsys.readouterr().out
    facts = json.loads((tmp_path / "a/finished.json").read_text())
    assert {"loss", "loss_other_audio", "fingerprint"} <= set(facts)
    instruct = run_stage(
        settings(
            data,
            tmp_path / "i",
            stage="instruct",
            model=str(align),
            policy={"llm": "lora", "encoder": "lora"},
        )
    )
    before, after = load_file(align / "model.safetensors"), load_file(instruct / "model.safetensors")
    moved = {k for k in before if k in after and not torch.equal(before[k], after[k])}
    assert moved and all(k.startswith("projector.") for k in moved)
    new = set(after) - set(before)
    assert any(k.startswith("llm.") and "lora_B" in k and after[k].abs().sum() > 0 for k in new)
    assert any(k.startswith("encoder.") and "lora_B" in k and after[k].abs().sum() > 0 for k in new)
    model, _ = alm.load(instruct, device="cpu")
    llm = load_llm(str(llm_dir)).state_dict()
    for key, value in model.llm.state_dict().items():
        if "lora_" not in key:
            torch.testing.assert_close(value, llm[key.replace(".base_layer", "")], rtol=0, atol=0)


def test_a_finished_run_is_reused_and_a_changed_one_runs_again(data, encoder_dir, llm_dir, tmp_path, capsys):
    first = settings(data, tmp_path / "a", encoder=str(encoder_dir), llm=str(llm_dir))
    run_stage(first)
    stamp = (tmp_path / "a/model/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    run_stage(first)
    assert "already done" in capsys.readouterr().out
    assert (tmp_path / "a/model/model.safetensors").stat().st_mtime_ns == stamp
    run_stage(settings(data, tmp_path / "a", encoder=str(encoder_dir), llm=str(llm_dir), run={"seed": 1}))
    assert (tmp_path / "a/model/model.safetensors").stat().st_mtime_ns != stamp
    (tmp_path / "a/finished.json").unlink()  # as after a kill
    stamp = (tmp_path / "a/model/model.safetensors").stat().st_mtime_ns
    run_stage(settings(data, tmp_path / "a", encoder=str(encoder_dir), llm=str(llm_dir), run={"seed": 1}))
    assert (tmp_path / "a/model/model.safetensors").stat().st_mtime_ns != stamp


def test_cached_features_train_the_same_model(data, encoder_dir, llm_dir, tmp_path):
    weights = []
    for cached in (False, True):
        run = settings(data, tmp_path / f"{cached}", encoder=str(encoder_dir), llm=str(llm_dir))
        run = parse_settings(
            TrainSettings,
            {
                "stage": "align",
                "out": run.out,
                "encoder": run.encoder,
                "llm": run.llm,
                "data": {"train": list(run.data.train), "cache_features": cached},
                "optim": {"steps": 3, "batch_size": 4, "warmup_steps": 0},
            },
        )
        weights.append(load_file(run_stage(run) / "model.safetensors"))
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("projector", ["mlp", "qformer"])
def test_distinct_clips_are_memorised(data, encoder_dir, llm_dir, tmp_path, projector):
    model_dir = run_stage(
        settings(
            data,
            tmp_path / "a",
            encoder=str(encoder_dir),
            llm=str(llm_dir),
            projector=projector,
            policy={"llm": "lora", "llm_lora": {"r": 8}},
            optim={"steps": 150, "batch_size": 5, "lr": 5e-3, "warmup_steps": 5},
        )
    )
    model, processor = alm.load(model_dir, device="cpu")
    records = [r for r in read_manifest(data / "train.jsonl") if r.kind != "caption"]
    from encoders.audio import load_audio

    audios = [[load_audio(r.audio[0].path, 16000)] for r in records]
    answers = dict(generate_answers(model, processor, [r.prompt_messages for r in records], audios, 8))
    assert [answers[i] for i in range(4)] == [r.answer for r in records]
    facts = json.loads((tmp_path / "a/finished.json").read_text())
    assert facts["loss"] + 0.1 < facts["loss_other_audio"]  # the random frozen head caps its confidence


def test_other_audio_never_is_the_own_clip():
    samples = [{"audio": (c,), "n": i} for i, c in enumerate("aabbc")]
    swapped = with_other_audio(samples, list("aabbc"))
    assert all(s["audio"] != o["audio"] and s["n"] == o["n"] for s, o in zip(swapped, samples, strict=True))


def test_other_audio_has_as_many_clips_and_is_of_another_clip():
    """The second sample has two clips, the fourth too; a sample without a partner keeps its own."""
    samples = [{"audio": audio} for audio in (("a",), ("b", "c"), ("d",), ("e", "f"), ("g", "h", "i"))]
    swapped = [one["audio"] for one in with_other_audio(samples, list("vwxyz"))]
    assert swapped == [("d",), ("e", "f"), ("a",), ("b", "c"), ("g", "h", "i")]


def test_the_other_audio_of_the_control_is_of_another_clip(tmp_path):
    """Two records are about one clip: with each other's part of it they would still hear that clip."""

    class Loudness(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, labels):
            return SimpleNamespace(loss=labels[:, 1:].float().mean())

    def collate(samples):
        return {"labels": torch.tensor([[0, int(sample["audio"][0].path.stem)] for sample in samples])}

    turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "x"})
    records = [
        Record(f"r{level}", (AudioRef(tmp_path / f"{level}.wav"),), turns, "qa", "?", "x", clip=clip)
        for level, clip in ((1, "x"), (2, "x"), (4, "y"))
    ]
    found = audio_control_losses(Loudness(), collate, records, 3)
    assert found == {"loss": pytest.approx(7 / 3), "loss_other_audio": pytest.approx((4 + 4 + 1) / 3)}


def test_every_option_reaches_the_collator_and_the_groups(data, tmp_path, monkeypatch):
    turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "x"})
    records = [Record(f"r{i}", (), turns, "qa", "?", "x") for i in range(8)]
    run = settings(data, tmp_path, encoder="logmel", llm="unused", optim={"batch_size": 3, "steps": 1})
    given = {"max_length": 77, "pack": True, "supervise": "all", "mixture": None, "group_by_length": True}
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, **given))
    monkeypatch.setattr(stage, "world_size", lambda: 2)
    monkeypatch.setattr(
        stage,
        "SampleLengths",
        lambda _, __, skip_bad, ___: lambda epoch: np.arange(8) + 10 * skip_bad + epoch,
    )
    dataset, collator = training_data(run, records, None, ClipWaveforms(16000))
    assert (collator.max_length, collator.packed, collator.supervise, collator.shared) == (
        77,
        True,
        "all",
        False,
    )
    assert dataset._order.batch_size == 6 and dataset._order.lengths(0).tolist() == list(range(8))
    quarantine = dataclasses.replace(run, data=dataclasses.replace(run.data, on_bad="quarantine"))
    assert training_data(quarantine, records, None, ClipWaveforms(16000))[0]._order.lengths(0).min() == 10


def test_text_alone_shares_no_row():
    turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "x"})
    records = [Record(f"r{i}", (), turns, "qa", "?", "x") for i in range(3)]
    assert groups_by_clip(records, 2) == [[[0], [1], [2]]]


def test_a_silent_validation_clip_ends_the_run_before_it_trains(data, encoder_dir, llm_dir, tmp_path):
    """Training clips may be quarantined, validation clips may not. Here all text is labelled."""
    save_wav(tmp_path / "silent.wav", np.zeros(16000, np.float32), 16000)
    line = {"id": "s", "audio": str(tmp_path / "silent.wav"), "question": "what", "answer": "x"}
    write_manifest(tmp_path / "held.jsonl", [line])
    run = settings(data, tmp_path / "run", encoder=str(encoder_dir), llm=str(llm_dir))
    held = {"validation": (str(tmp_path / "held.jsonl"),), "on_bad": "quarantine", "cache_features": True}
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, **held))
    with pytest.raises(AudioError, match="silent.wav: is silent throughout"):
        run_stage(run)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    _, processor = starting_model(run)
    for supervise in ("assistant", "all"):
        collator = ConversationCollator(processor, ClipWaveforms(16000), supervise=supervise)
        sample = ConversationDataset(read_manifest(data / "train.jsonl"))[0]
        collator.check(sample)
        n_labels = sum(label != -100 for label in sample["encoded"].labels)
        n_words = sum(token != processor.audio_token_id for token in sample["encoded"].ids)
        assert (n_labels == n_words) is (supervise == "all") and n_labels > 1


def test_the_held_out_loss_is_a_mean_over_tokens_not_over_batches():
    """A model whose loss on a batch is the mean of its labels: with 5 labels of 1 and one of 7, that is 2, not 4."""

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, labels):
            assert not self.training
            shifted = labels[:, 1:]
            return SimpleNamespace(loss=shifted[shifted != -100].float().mean())

    def collate(samples):
        width = max(map(len, samples))
        return {"labels": torch.tensor([row + [-100] * (width - len(row)) for row in samples])}

    samples = [[9, 1, 1, 1], [9, 1, 1], [9, 7]]  # the first token of a row predicts, but is not predicted
    model = Model().train()
    for batch_size in (1, 2, 3):
        assert mean_loss(model, collate, samples, batch_size) == pytest.approx(2.0)
    assert model.training


def test_captions_rotate_with_the_epoch():
    turns = ({"role": "user", "content": "describe"}, {"role": "assistant", "content": "0"})
    records = [
        Record(f"c{i}", (), turns, "caption", "describe", None, captions=("0", "1", "2")) for i in range(20)
    ]
    shown = {}
    for seed in (0, 1):
        dataset = ConversationDataset(records, seed)
        for epoch in range(4):
            dataset.set_epoch(epoch)
            shown[seed, epoch] = [dataset[i]["messages"][-1]["content"] for i in range(len(records))]
        for i in range(len(records)):
            turns = [shown[seed, epoch][i] for epoch in range(4)]
            assert sorted(turns[:3]) == ["0", "1", "2"] and turns[3] == turns[0]
        assert len(set(shown[seed, 0])) == 3  # records start with different captions
    assert shown[0, 0] != shown[1, 0]


def test_the_seed_of_the_run_chooses_the_captions(data, tmp_path):
    """The first caption of a record is a hash of seed and id, computed here."""
    turns = ({"role": "user", "content": "describe"}, {"role": "assistant", "content": "0"})
    records = [
        Record(f"c{i}", (), turns, "caption", "describe", None, captions=("0", "1", "2")) for i in range(20)
    ]
    for seed in (0, 1):
        run = settings(data, tmp_path, encoder="logmel", llm="unused", run={"seed": seed})
        dataset, _ = training_data(run, records, None, ClipWaveforms(16000))
        shown = [dataset[i]["messages"][-1]["content"] for i in range(20)]
        hashes = [hashlib.sha256(f"{seed}/c{i}".encode()).hexdigest() for i in range(20)]
        assert shown == [str(int(one[:8], 16) % 3) for one in hashes]


def test_clips_that_are_shared_keep_captions_shares_and_lengths(data, tmp_path):
    """As samples by themselves do: captions rotate, sources come in their shares, lengths decide the batches."""
    turns = ({"role": "user", "content": "describe"}, {"role": "assistant", "content": "0"})
    sources = [
        [
            Record(f"{name}{i}", (AudioRef(tmp_path / f"{name}{i // 2}.wav"),), turns, "caption", "describe", None,
                   captions=("0", "1", "2"))
            for i in range(2 * n_clips)
        ]
        for name, n_clips in (("a", 12), ("b", 4))
    ]  # fmt: skip
    run = settings(data, tmp_path, encoder="logmel", llm="unused")
    given = {"train": ("a", "b"), "share_clips": 2, "mixture": MixtureSettings((1.0, 3.0))}
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, **given))
    dataset, _ = training_data(run, Chain(sources), None, ClipWaveforms(16000))
    shown = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        shown.append([one["messages"][-1]["content"] for i in range(16) for one in dataset[i]["together"]])
    assert all(sorted(each) == ["0", "1", "2"] for each in zip(*shown, strict=True))
    assert np.bincount(dataset.order(0, 0) // 12, minlength=2).tolist() == [4, 12]  # groups 0 to 11 are of a
    lengths = np.array([10.0] * 24 + [30.0] * 8)  # of samples; a group counts what its samples share once
    grouped = SharedClips(dataset.dataset, [[[0, 1], [24], [2, 3], [25]]], None, lambda _: lengths, 2)
    assert sorted(map(sorted, grouped.order(0, 0).reshape(2, 2).tolist())) == [[0, 2], [1, 3]]


def test_mistakes_are_named(data, encoder_dir, llm_dir, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'optim.lr'"):
        settings(data, tmp_path, optim={"lrr": 1})
    with pytest.raises(
        ConfigError, match="unknown stage .tune.; .*align, compose, finetune, instruct, pretrain"
    ):
        settings(data, tmp_path, stage="tune")
    with pytest.raises(ConfigError, match="needs either model"):
        settings(data, tmp_path)
    with pytest.raises(CheckpointError, match="nowhere"):
        run_stage(settings(data, tmp_path / "x", model="nowhere/at/all"))
    with pytest.raises(CheckpointError, match="llm"):
        run_stage(settings(data, tmp_path / "x", encoder=str(encoder_dir), llm=str(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write there"):
        run_stage(settings(data, tmp_path / "file/x", encoder=str(encoder_dir), llm=str(llm_dir)))
    assert not (tmp_path / "x/finished.json").exists()


def test_a_learned_sum_of_layers_is_trained(data, encoder_dir, llm_dir, tmp_path):
    options = {"encoder": str(encoder_dir), "encoder_options": {"layer": "sum"}, "llm": str(llm_dir)}
    run = settings(data, tmp_path / "a", **options)
    cached = dataclasses.replace(
        run.data, cache_features=True
    )  # which must not freeze the weights of the sum
    out = run_stage(dataclasses.replace(run, data=cached))
    model, _ = alm.load(out, device="cpu")
    assert model.encoder.config.layer == "sum" and model.encoder.weights.abs().max() > 0
    out = run_stage(settings(data, tmp_path / "b", stage="instruct", model=str(out)))
    assert alm.load(out, device="cpu")[0].encoder.config.layer == "sum"


@pytest.mark.parametrize("bits", [4, 8])
def test_an_llm_in_few_bits_is_adapted_saved_and_loaded_again(
    data, encoder_dir, tmp_path, bits, wide_llm_dir
):
    pytest.importorskip("bitsandbytes")
    llm_dir = wide_llm_dir
    ends = {"encoder": str(encoder_dir), "llm": str(llm_dir), "llm_bits": bits}
    out = run_stage(settings(data, tmp_path / "a", policy={"llm": "lora"}, **ends))
    stored = load_file(out / "model.safetensors")
    assert any("lora" in key for key in stored) and not any("base_layer.weight" in key for key in stored)
    model, processor = alm.load(out, device="cpu")
    weight = model.llm.model.layers[0].self_attn.q_proj.base_layer.weight
    assert weight.dtype == (torch.uint8 if bits == 4 else torch.int8)
    turns = [{"role": "user", "content": "<|audio|>what is this"}]
    clip = np.zeros(16000, dtype=np.float32)
    batch = model_inputs(processor, [turns], [[clip]], add_generation_prompt=True)
    with torch.no_grad():
        whole = alm.load(out, device="cpu")[0](**batch).logits
        assert torch.equal(model(**batch).logits, whole) and whole.isfinite().all()
    with pytest.raises(UserError, match=f"in {bits} bits; use lora"):
        run_stage(settings(data, tmp_path / "b", model=str(out), policy={"llm": "full"}))
    with pytest.raises(ConfigError, match="llm_bits: a model keeps"):
        settings(data, tmp_path / "c", model=str(out), llm_bits=bits)
