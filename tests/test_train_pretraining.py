"""The pretraining stage end to end on tiny clips: sources, metrics, probe, compiled runs, bad inputs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alm.common.errors import AudioError, ConfigError, ManifestError, UserError
from alm.common.settings import parse_settings
from encoders import load_encoder
from encoders.audio import save_wav
from train.data.clip_random import clip_key
from train.data.sampling import EpochBatches
from train.engine.trainer import fit
from train.pipeline.runner import run_stage
from train.pretrain.augment_waveform import WaveformViews
from train.pretrain.clips import ClipDataset, collate_clips, listing, read_clips
from train.pretrain.contrastive import ContrastiveModel, build_loss
from train.pretrain.stage import clip_dataset, pretraining_encoder, starting_point, training_clips
from train.settings import TrainSettings

TINY = {
    "spec_size": [64, 32],
    "patch_size": [8, 16],
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "project_embedding_dim": 16,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of two kinds in two folds, in ESC-50's layout."""
    root = tmp_path_factory.mktemp("clips")
    (root / "audio" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        kind, fold = ("low", "high")[i % 2], 1 + i // 6
        tone = np.sin(np.arange(11000) * 2 * np.pi * (200 + 9 * i + 3000 * (i % 2)) / 16000)
        name = f"{fold}-{100 + i}-A-{i % 2}.wav"
        samples = 0.3 * tone + 0.02 * rng.standard_normal(11000)
        save_wav(root / "audio" / name, samples.astype(np.float32), 16000)
        rows.append({"filename": name, "fold": fold, "category": kind})
    save_wav(root / "audio" / "more" / "extra.wav", np.full(9000, 0.1, np.float32), 16000)
    with (root / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filename", "fold", "category"])
        writer.writeheader()
        writer.writerows(rows)
    return root


def settings(source: Path | str, out: Path, **values: dict) -> TrainSettings:
    base = {
        "stage": "pretrain",
        "out": str(out),
        "encoder": "audiomosaic",
        "encoder_options": TINY,
        "data": {"train": [str(source)]},
        "optim": {"steps": 4, "batch_size": 4, "warmup_steps": 0},
        "run": {"log_every": 1},
    }
    merged = {
        key: {**base.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return parse_settings(TrainSettings, {**base, **merged})


def metrics_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def write_lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_trains_an_encoder_that_is_watched(folder: Path, tmp_path: Path) -> None:
    run = settings(
        folder / "audio",
        tmp_path / "run",
        data={"validation": [str(folder / "meta.csv")]},
        contrastive={"probe": {"labels": str(folder / "meta.csv"), "every": 2}, "grad_cache_chunk": 2},
    )
    encoder = load_encoder(run_stage(run))
    lines = metrics_of(tmp_path / "run")
    losses = [line for line in lines if "loss" in line]
    assert len(losses) == 4 and all(np.isfinite(line["loss"]) for line in losses)
    for line in losses:
        assert 0 < line["pooled_std"] <= 1 and 1 <= line["pooled_effective_rank"] <= 4
        assert 0 < line["embedding_std"] and -1 <= line["view_agreement"] <= 1 and line["silent_clips"] == 0
    probed = [line for line in losses if "probe_linear_bands" in line]
    assert [line["step"] for line in probed] == [2, 4]
    assert probed[-1]["probe_linear_bands"] == 1.0 and probed[-1]["probe_chance"] == 0.5  # low and high tones
    facts = json.loads((tmp_path / "run" / "finished.json").read_text())
    assert facts["clips"] == 13 and facts["probe_knn_pooled"] >= 0.5 and 0 <= facts["view_retrieval"] <= 1
    assert not encoder.config.use_checkpoint


def test_a_changed_folder_is_trained_on_again(folder: Path, tmp_path: Path, capsys) -> None:
    source = tmp_path / "clips"
    source.mkdir()
    for i in range(4):
        save_wav(
            source / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(6000).astype("f4"), 16000
        )
    run = settings(source, tmp_path / "run", optim={"steps": 1})
    run_stage(run)
    run_stage(run)
    assert "already done" in capsys.readouterr().out
    save_wav(source / "4.wav", np.full(5000, 0.1, np.float32), 16000)
    run_stage(run)
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["clips"] == 5
    before = listing([str(source)])
    save_wav(source / "4.wav", np.full(6000, 0.1, np.float32), 16000)  # another recording of the same name
    replaced = listing([str(source)])
    (source / "4.wav").rename(source / "5.wav")
    assert len({before, replaced, listing([str(source)])}) == 3


def test_sources(folder: Path, tmp_path: Path) -> None:
    assert (
        len(read_clips([str(folder / "audio")])) == 13 and len(read_clips([str(folder / "meta.csv")])) == 12
    )
    assert len(read_clips([str(folder / "audio"), str(folder / "meta.csv")])) == 13  # the same files
    table = tmp_path / "elsewhere.csv"  # its files lie outside its own folder
    table.write_text(f"filename,fold,category\n{folder}/audio/1-100-A-0.wav,1,low\nnear.wav,1,low\n")
    save_wav(tmp_path / "near.wav", np.full(9000, 0.1, np.float32), 16000)
    names = [clip.name for clip in read_clips([str(table)])]
    assert names == [f"{folder}/audio/1-100-A-0.wav", "near.wav"]
    for header in (
        "file_name,label",
        "path,category,fold",
        "audio,text",
        "filename,category",
    ):  # usual tables
        table.write_text(f"{header}\n{folder}/audio/1-100-A-0.wav,low,1\nnear.wav,high,1\n".replace(
            ",1\n", ",1\n" if "fold" in header else "\n"))  # fmt: skip
        refs = [clip.ref.path for clip in read_clips([str(table)])]
        assert refs == [folder / "audio" / "1-100-A-0.wav", tmp_path / "near.wav"], header
    manifest = write_lines(
        tmp_path / "m.jsonl",
        {"id": "a", "audio": "x.wav"},
        {"id": "b", "audio": {"path": "x.wav", "start_s": 1.0}},
        {"id": "c", "audio": ["x.wav", "y.wav"], "captions": ["two"]},
    )
    clips = read_clips([str(manifest)])
    assert [clip.name for clip in clips] == ["a", "b", "c#1"]  # x.wav was heard of before
    assert len({clip_key(clip.name) for clip in clips}) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no audio files"):
        read_clips([str(tmp_path / "empty")])


def test_audio_alone_is_refused_where_text_is_needed(folder: Path, llm_dir: Path, tmp_path: Path) -> None:
    manifest = write_lines(tmp_path / "m.jsonl", {"id": "a", "audio": "x.wav"})
    run = parse_settings(
        TrainSettings,
        {"stage": "align", "out": str(tmp_path / "a"), "encoder": "audiomosaic", "llm": str(llm_dir),
         "data": {"train": [str(manifest)]}},
    )  # fmt: skip
    with pytest.raises(
        ManifestError, match=r"m\.jsonl:1: .*got none of them.*audio alone is for stage pretrain"
    ):
        run_stage(run)


def test_waveform_views_come_from_the_workers_epoch_by_epoch(folder: Path, tmp_path: Path) -> None:
    run = settings(
        folder / "audio",
        tmp_path,
        data={"workers": 1},
        optim={"steps": 4},
        contrastive={"views": {"augment": "waveform"}},
    )
    encoder = pretraining_encoder(run)
    dataset = clip_dataset(run, read_clips(run.data.train), encoder)
    assert isinstance(dataset, WaveformViews)
    heard: list[torch.Tensor] = []

    class Listening(ContrastiveModel):
        def forward(self, waveforms, lengths, clip_keys):
            heard.extend(zip(clip_keys.tolist(), waveforms[:, 0].clone(), strict=True))
            return super().forward(waveforms, lengths, clip_keys)

    model = Listening(encoder, build_loss(run.contrastive), run.contrastive)
    fit(run.loop, model, dataset, collate_clips, tmp_path, "test", drop_last=True)
    assert len(heard) == 16 and model.epoch == dataset.epoch == 1  # 3 batches of 4 in an epoch of 13 clips
    for epoch, part in ((0, heard[:12]), (1, heard[12:])):
        dataset.set_epoch(epoch)
        expected = {s["clip_key"]: s["waveform"][0] for s in map(dataset.__getitem__, range(len(dataset)))}
        for key, view in part:
            assert np.array_equal(view.numpy()[: len(expected[key])], expected[key])


def test_compiled_and_recomputed_runs_equal_plain_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated by the real compiler; only its C++ code generation, minutes here, is left out."""
    compiler, compiled = torch.compile, []

    def traced(function):
        compiled.append(function)
        return compiler(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    weights = []
    for name, values in (("plain", {}), ("compiled", {"compile": True, "checkpoint_fraction": 0.5})):
        run = settings(folder / "audio", tmp_path / name, optim={"steps": 1}, run={**values, "save_every": 1})
        weights.append(load_encoder(run_stage(run)).state_dict())
    assert len(compiled) == 1
    saved = load_file(tmp_path / "compiled" / "checkpoints" / "checkpoint-1" / "weights.safetensors")
    assert not any("_orig_mod" in key for key in saved) and "encoder.cls_token" in saved
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=2e-4, rtol=1e-3)
    losses = [
        [line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line]
        for name in ("plain", "compiled")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_clips_too_short_are_named(folder: Path, tmp_path: Path) -> None:
    save_wav(tmp_path / "blip.wav", np.full(399, 0.1, np.float32), 16000)
    dataset = ClipDataset(read_clips([str(tmp_path)]), 16000)
    with pytest.raises(AudioError, match=r"blip\.wav: clip of 399 samples .* shorter than one 25 ms frame"):
        dataset[0]
    (tmp_path / "blip.wav").rename(folder / "blip.wav")
    try:
        with pytest.raises(UserError, match=r"^\S+blip\.wav: clip of 399 samples.*longer one$"):
            run_stage(settings(folder, tmp_path / "run", data={"workers": 1}))
    finally:
        (folder / "blip.wav").unlink()


def test_silent_clips_train_on_and_are_counted(folder: Path, tmp_path: Path, capsys) -> None:
    source = tmp_path / "clips"
    source.mkdir()
    for i in range(4):
        save_wav(source / f"{i}.wav", np.zeros(6000, np.float32), 16000)
    for augment in ("fast", "waveform"):
        out = tmp_path / augment
        run_stage(
            settings(
                source, out, optim={"steps": 2}, contrastive={"views": {"augment": augment, "noise_p": 1.0}}
            )
        )
        assert [line["silent_clips"] for line in metrics_of(out) if "loss" in line] == [4, 4]
        said = capsys.readouterr().out
        assert "4 silent clips" in said and "8 training samples were silent" in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"batch_size": 1}}, "needs at least two clips"),
        ({"optim": {"batch_size": 64}}, "only 13 clips; lower it"),
        ({"run": {"gradient_checkpointing": True}}, "checkpoint_fraction"),
        ({"run": {"checkpoint_fraction": 1.5}}, "expected 0 to 1"),
        ({"contrastive": {"probe": {"labels": "nowhere.csv"}}}, "nowhere.csv"),
        ({"contrastive": {"views": {"augment": "slow"}}}, "expected 'fast', 'waveform' or 'none'"),
    ],
)
def test_mistakes_are_named(folder: Path, tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_stage(settings(folder / "audio", tmp_path / "run", **values))
    assert not (tmp_path / "run" / "finished.json").exists()


def test_views_can_have_other_clips_in_the_background(folder: Path, tmp_path: Path) -> None:
    views = {"background_p": 1.0, "background_snr_db": [0.0, 0.0]}
    plain = settings(folder / "audio", tmp_path / "plain", contrastive={"views": {"roll": True}})
    mixed = settings(folder / "audio", tmp_path / "mixed", contrastive={"views": views})
    run_stage(plain)
    run_stage(mixed)
    first, second = (metrics_of(tmp_path / name)[0]["loss"] for name in ("plain", "mixed"))
    assert first != second
    mixture = tmp_path / "mixture"  # what cannot be heard is no background, unless nothing else is there
    mixture.mkdir()
    for index in range(3):
        save_wav(mixture / f"{index}.wav", np.zeros(9000, np.float32), 16000)
    (mixture / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioError, match=r"background_p: no clip can be used as a background; .*broken\.wav"):
        run_stage(settings(mixture, tmp_path / "out", contrastive={"views": views}))
    rate, seconds = 8000, 11
    save_wav(mixture / "a.wav", np.sin(np.arange(rate * seconds) * 0.1).astype(np.float32) * 0.1, rate)
    model, dataset = starting_point(settings(mixture, tmp_path / "out", contrastive={"views": views}))
    assert len(dataset) == 5 and model._background.shape == (998, 32)  # ten seconds of it
    assert not any("background" in key for key in model.state_dict())


def test_batches_can_be_of_one_source(folder: Path, tmp_path: Path) -> None:
    again = write_lines(
        tmp_path / "again.jsonl",
        *({"id": f"again/{i}", "audio": str(path)} for i, path in enumerate(sorted(folder.rglob("*.wav")))),
    )
    run = settings(
        folder / "meta.csv",
        tmp_path / "out",
        data={"train": [str(folder / "meta.csv"), str(again)]},
        contrastive={"one_source_batches": True},
    )
    dataset = training_clips(run, pretraining_encoder(run))
    assert len(dataset) == 12 + 13
    seen = []
    for batch in EpochBatches(dataset, 4, seed=0, drop_last=True):
        kinds = {dataset.name(index).startswith("again/") for index in batch}
        assert len(kinds) == 1
        seen += kinds
    assert seen.count(True) == 3 and seen.count(False) == 3
    run_stage(run)
    assert (tmp_path / "out" / "encoder").is_dir()
