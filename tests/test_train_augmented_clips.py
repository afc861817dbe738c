"""Augmentation in align and instruct: what each option does to a waveform, and that caches keep it.

The runs of `survival` are augmented, and so are those of the tests that kill and resume them.
"""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from survival import of_stage
from test_train_augment_waveform import RATE, peak_hz, tone

from alm.common.errors import ConfigError, UserError
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import AudioRef
from alm.data.shard_writer import write_shards
from alm.data.sources import open_records
from encoders.audio import save_wav
from train.data.augmented_clips import AugmentedRef, ClipAugmenter
from train.data.feature_cache import missing_clips
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.settings.augment import EFFECTS, WaveformAugmentSettings
from train.stage import STAGES
from train.tune.controls import samples_of
from train.tune.conversations import ClipFeatures, ClipWaveforms
from train.tune.lengths import SampleLengths
from train.tune.stage import clip_augmenter, shortest_clip, starting_model, training_clips_of, training_data

SPEEDS = {"speed": [0.5, 2.0]}


def ref(name: str = "a.wav", draw: str = "0/0", min_samples: int = 0, **options) -> AugmentedRef:
    clip = AudioRef(Path(name))
    settings = WaveformAugmentSettings(**options)
    return AugmentedRef(clip.path, None, None, draw, settings, min_samples, clip=clip)


def augmented(waveform: np.ndarray, **options) -> np.ndarray:
    return ref(**options).apply(waveform, RATE)


def test_speed_shifts_length_and_pitch():
    out = augmented(tone(440), speed=(2.0, 2.0))
    assert len(out) == RATE // 2 and peak_hz(out) == pytest.approx(880, abs=3)


def test_time_stretch_keeps_the_pitch():
    out = augmented(tone(440), time_stretch=(2.0, 2.0))
    assert len(out) == RATE // 2 and peak_hz(out) == pytest.approx(440, abs=3)


def test_pitch_keeps_the_length():
    out = augmented(tone(440), pitch_semitones=(12.0, 12.0))
    assert len(out) == RATE and peak_hz(out) == pytest.approx(880, abs=3)


def test_a_crop_is_a_part_of_the_clip_anywhere():
    samples = (np.arange(1, 1001) / 1000).astype(np.float32)
    starts = []
    for number in range(200):
        out = augmented(samples, name=f"{number}.wav", crop=(0.25, 0.25))
        starts.append(round(float(out[0]) * 1000) - 1)
        assert np.array_equal(out, samples[starts[-1] : starts[-1] + 250])
    assert min(starts) < 30 and max(starts) > 720


def test_a_crop_without_sound_is_not_made():
    samples = np.zeros(1000, np.float32)
    samples[-1] = 0.5
    lengths = [len(augmented(samples, name=f"{number}.wav", crop=(0.5, 0.5))) for number in range(40)]
    assert set(lengths) == {1000, 500} or set(lengths) == {1000}
    assert all(np.abs(augmented(samples, name=f"{n}.wav", crop=(0.5, 0.5))).max() == 0.5 for n in range(40))


def test_silence_comes_before_the_clip():
    out = augmented(tone(440), lead_silence_s=(0.25, 0.25))
    assert not out[:4000].any() and np.array_equal(out[4000:], tone(440))


def test_gain_is_in_db():
    np.testing.assert_allclose(augmented(tone(440), gain_db=(-20.0, -20.0)), tone(440) / 10, rtol=1e-6)
    loud = augmented(tone(440), gain_db=(20.0, 20.0))  # 0.3 times ten
    np.testing.assert_allclose(loud, tone(440) / np.abs(tone(440)).max(), atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"gain_db": (-20.0, -20.0)}, {"lead_silence_s": (1.0, 1.0)}], ids=str)
def test_noise_has_the_ratio_to_the_clip_itself(more):
    plain = augmented(tone(440), **more)
    noise = augmented(tone(440), noise_snr_db=(10.0, 10.0), **more) - plain
    clip = plain[-RATE:]
    assert 10 * np.log10(np.mean(clip**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.2)
    assert np.abs(noise[:1000]).max() > 0  # also over the silence


RANGES = {
    "crop": (0.5, 0.9), "speed": (0.5, 2.0), "time_stretch": (0.5, 2.0), "pitch_semitones": (-5.0, 5.0),
    "lead_silence_s": (0.0, 1.0), "gain_db": (-10.0, 0.0), "noise_snr_db": (0.0, 20.0),
}  # fmt: skip


@pytest.mark.parametrize(("key", "probability", "limits"), EFFECTS)
def test_values_lie_in_the_range_and_come_as_often_as_their_probability(key, probability, limits):
    low, high = RANGES[key]
    values = [
        ref(f"{n}.wav", **{key: RANGES[key], probability: 0.25}).values[key] for n in range(2000)
    ]  # of 2000 clips
    given = [value for value in values if value is not None]
    assert len(given) == pytest.approx(500, abs=80)  # four standard deviations
    assert low <= min(given) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(given) < high
    samples = tone(440, 0.2)
    assert np.array_equal(augmented(samples, **{key: RANGES[key], probability: 0.0}), samples)
    assert not np.array_equal(augmented(samples, **{key: RANGES[key]}), samples)
    alone = ref(**{key: RANGES[key]}).values[key]  # the other effects change no draw
    assert ref(**RANGES).values[key] == alone


def test_clips_are_augmented_with_all_their_effects_or_not_at_all():
    values = [ref(f"{n}.wav", p=0.25, **RANGES).values for n in range(2000)]
    kinds = Counter(frozenset(value is None for value in each.values()) for each in values)
    assert kinds.keys() == {frozenset({True}), frozenset({False})}
    assert kinds[frozenset({False})] == pytest.approx(500, abs=80)


def test_the_input_is_left_alone_and_the_length_is_known_beforehand():
    samples = tone(440)
    for number in range(20):
        one = ref(f"{number}.wav", **RANGES)
        out = one.apply(samples, RATE)
        assert out.dtype == np.float32 and np.isfinite(out).all() and np.abs(out).max() <= 1
        assert one.seconds_of(1.0) == pytest.approx(len(out) / RATE, abs=1e-3)
    assert np.array_equal(samples, tone(440))


def test_a_clip_that_becomes_too_short_for_a_token_is_filled_up():
    short = augmented(tone(440, 0.1), speed=(2.0, 2.0), min_samples=1000)
    assert len(short) == 1000 and not short[800:].any() and short[:800].any()
    assert (
        len(augmented(tone(440, 0.1), speed=(2.0, 2.0), min_samples=1601)) == 1600
    )  # never above its own length


def test_draws_are_of_seed_epoch_and_clip():
    settings = WaveformAugmentSettings(speed=(0.5, 2.0))
    clips = [AudioRef(Path("x/a.wav")), AudioRef(Path("x/b.wav")), AudioRef(Path("x/a.wav"), 0.0, 1.0)]
    drawn = {
        (clip, seed, epoch): ClipAugmenter(settings, seed)(clip, epoch).values["speed"]
        for clip in clips
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(drawn.values())) == 12
    elsewhere = ClipAugmenter(settings, 0)(AudioRef(Path("y/a.wav")), 0)  # another machine's folder
    assert elsewhere.values["speed"] == drawn[clips[0], 0, 0]


def test_versions_come_in_turn_and_are_those_of_every_seed():
    settings = WaveformAugmentSettings(versions=3, speed=(0.5, 2.0))
    clips = [AudioRef(Path(f"{n}.wav")) for n in range(30)]
    pools, first = [], []
    for seed in (0, 1):
        augmenter = ClipAugmenter(settings, seed)
        heard = [[augmenter(clip, epoch).values["speed"] for epoch in range(6)] for clip in clips]
        assert all(len(set(row[:3])) == 3 and row[:3] == row[3:] for row in heard)
        pools.append([set(row) for row in heard])
        first.append([row[0] for row in heard])
        assert set(augmenter.all_of(clips, 2)) == {augmenter(clip, e) for clip in clips for e in (0, 1)}
        assert len(list(augmenter.all_of(clips, 50))) == 90
    assert pools[0] == pools[1] and first[0] != first[1]
    drawn = Counter(ClipAugmenter(settings, 0)(clip, 0).draw for clip in clips)
    assert len(drawn) == 3 and min(drawn.values()) > 3
    endless = ClipAugmenter(dataclasses.replace(settings, versions=0), 0)
    assert len(set(endless.all_of(clips[:1], 50))) == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": [1.1, 0.9]}, r"data.augment.speed: got \[1.1, 0.9\], expected \[lowest, highest\]"),
        ({"speed": [0.0, 1.0]}, r"data.augment.speed: got \[0, 1\], .* within 0.25 to 4"),
        ({"crop": [0.5, 1.5]}, r"data.augment.crop: .* within 0.05 to 1"),
        ({"lead_silence_s": [-1, 0]}, "data.augment.lead_silence_s"),
        ({"gain_db": [0.0, float("nan")]}, "data.augment.gain_db"),
        ({"noise_snr_db": [5.0]}, "noise_snr_db"),
        ({"speed": 1.1}, "speed"),
        ({"speed": [0.9, 1.1], "speed_p": 2}, "data.augment.speed_p: got 2.0, expected 0 to 1"),
        ({"noise_p": 0.5}, "data.augment.noise_p: has no effect without data.augment.noise_snr_db"),
        ({"versions": 4}, "data.augment.versions: has no effect without an augmentation"),
        ({"p": 0.5}, "data.augment.p: has no effect without an augmentation"),
        ({"versions": -1, "speed": [0.9, 1.1]}, "data.augment.versions: got -1"),
        ({"spede": [0.9, 1.1]}, "did you mean 'data.augment.speed'"),
    ],
    ids=str,
)
def test_wrong_options_are_named(values, message, data, tmp_path):
    with pytest.raises(ConfigError, match=message):
        of_stage("align", data, tmp_path, {"encoder": "e", "llm": "l"}, data={"augment": values})


def test_where_it_would_have_no_effect_it_is_refused(data, parts, tmp_path):
    augment = {"augment": SPEEDS}
    with pytest.raises(ConfigError, match=r"data.augment.versions: cached features need a fixed number"):
        of_stage("align", data, tmp_path, parts, data={"cache_features": True, **augment})
    for stage in ("pretrain", "finetune"):
        with pytest.raises(ConfigError, match=f"data.augment: is for stages align and instruct, not {stage}"):
            values = {
                "stage": stage,
                "out": "o",
                "encoder": "audiomosaic",
                "data": {"train": ["t"], **augment},
            }
            parse_settings(TrainSettings, values)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    write_manifest(tmp_path / "text.jsonl", [{"id": "t", "audio": [], "messages": turns}])
    text_alone = {"train": [str(tmp_path / "text.jsonl")], **augment}
    run = of_stage("instruct", tmp_path, tmp_path / "o", parts, data=text_alone)
    with pytest.raises(ConfigError, match=r"data.augment: no record of data.train has audio"):
        run_stage(run)
    assert not (tmp_path / "o" / "finished.json").exists()


def training(data, parts, out, **values):
    """An align stage with versions, its samples and collator, and its live clips."""
    options = {"augment": {"versions": 2, **SPEEDS, "noise_snr_db": [0, 10]}, "cache_features": False}
    run = of_stage("align", data, out, parts, data=options | values)
    model, processor = starting_model(run)
    records = open_records(run.data.train)
    clips = ClipWaveforms(processor.sample_rate)
    return run, model, records, *training_data(run, records, processor, clips)


def test_training_hears_versions_and_validation_the_clip_itself(data, parts, tmp_path):
    run, model, records, dataset, collator = training(data, parts, tmp_path)
    inputs = [collator([dataset[i] for i in range(4)])]
    dataset.set_epoch(1)
    inputs.append(collator([dataset[i] for i in range(4)]))
    plain = collator(samples_of(records)[:4])
    assert plain["padding_mask"].sum(1).tolist() == [11000] * 4
    n_samples = [batch["padding_mask"].sum(1).tolist() for batch in inputs]
    assert n_samples[0] != n_samples[1] and not {11000}.intersection(n_samples[0] + n_samples[1])
    for batch, lengths in zip(
        inputs, n_samples, strict=True
    ):  # as many placeholders as the model makes tokens
        counts = [collator.processor.n_audio_tokens(n) for n in lengths]
        found = (batch["input_ids"] == collator.processor.audio_token_id).sum(1).tolist()
        assert found == counts
    dataset.set_epoch(2)
    again = collator([dataset[i] for i in range(4)])
    assert torch.equal(again["input_values"], inputs[0]["input_values"])


def test_cached_versions_are_those_that_are_heard_live(data, parts, tmp_path):
    _, model, records, dataset, live = training(data, parts, tmp_path)
    run = of_stage(
        "align", data, tmp_path, parts, data={"augment": {"versions": 2, **SPEEDS, "noise_snr_db": [0, 10]}}
    )
    augmenter = clip_augmenter(run, live.processor)
    heard = training_clips_of(run, records, augmenter)
    assert len(heard) == len(set(heard)) == 14  # 7 steps of two passes, 4 passes an epoch
    one_epoch = dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=2))
    assert len(training_clips_of(one_epoch, records, augmenter)) == 7
    halved = dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=3, accumulation=2))
    assert len(training_clips_of(halved, records, augmenter)) == 14  # the third step is of the second epoch
    features = ClipFeatures(model.encoder, heard, 1.0, torch.device("cpu"), tmp_path / "kept")
    assert missing_clips(model.encoder, heard, tmp_path / "kept") == []
    other_seed = dataclasses.replace(augmenter, seed=9)
    assert missing_clips(model.encoder, training_clips_of(run, records, other_seed), tmp_path / "kept") == []
    changed = dataclasses.replace(
        augmenter, settings=dataclasses.replace(augmenter.settings, speed=(0.5, 1.9))
    )
    for others in (training_clips_of(run, records, changed), [one.clip for one in heard[::2]]):
        assert missing_clips(model.encoder, others, tmp_path / "kept") == others
    more = dataclasses.replace(augmenter, settings=dataclasses.replace(augmenter.settings, versions=3))
    assert len(missing_clips(model.encoder, training_clips_of(run, records, more), tmp_path / "kept")) == 7
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            (clip,) = dataset[index]["audio"]
            wave = torch.from_numpy(clip.load(RATE))[None]
            with torch.no_grad():
                tokens = model.encoder(wave, torch.tensor([wave.shape[1]])).tokens[0]
            assert features.features[clip].n_samples == wave.shape[1]
            torch.testing.assert_close(features.features[clip].values, tokens, atol=1e-5, rtol=1e-4)


def test_training_on_cached_versions_is_training_on_live_ones(data, parts, tmp_path):
    weights = []
    for cached in (True, False):
        options = {"cache_features": cached, "augment": {"versions": 2, **SPEEDS}, "group_by_length": True}
        run = of_stage("align", data, tmp_path / f"{cached}", parts, data=options, optim={"steps": 3})
        weights.append(load_file(run_stage(run) / "model.safetensors"))
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=1e-4)


def test_records_about_one_clip_hear_the_same_version(data, parts, tmp_path):
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    again = [{**row, "id": f"again-{row['id']}", "audio": str(data / row["audio"])} for row in rows]
    write_manifest(
        tmp_path / "twice.jsonl", [{**row, "audio": str(data / row["audio"])} for row in rows] + again
    )
    source = {"train": [str(tmp_path / "twice.jsonl")], "share_clips": 2}
    _, _, _, dataset, collator = training(data, parts, tmp_path, **source)
    batch = collator([dataset[i] for i in range(7)])
    assert len(batch["input_values"]) == 7 and len(batch["audio_index"]) == 7


def test_lengths_for_grouping_follow_the_versions(data, parts, tmp_path):
    run, _, records, dataset, collator = training(data, parts, tmp_path)
    lengths = SampleLengths(records, collator.processor, augmenter=clip_augmenter(run, collator.processor))
    plain = SampleLengths(records, collator.processor)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        heard = []
        for index in range(len(dataset)):
            (clip,) = dataset[index]["audio"]
            heard.append(collator.processor.n_audio_tokens(len(clip.load(RATE))))
        own = plain(epoch) - collator.processor.n_audio_tokens(11000)  # the text
        assert np.abs(lengths(epoch) - own - heard).max() <= 1
        assert np.array_equal(plain(epoch), plain(0))
    assert not np.array_equal(lengths(0), lengths(1)) and np.array_equal(lengths(0), lengths(2))


def test_every_version_is_verified(data, parts, tmp_path):
    """A version that is too long for `data.max_length` is found before training."""

    def bad(**options):
        run = of_stage("align", data, tmp_path, parts, data={"max_length": 70, **options})
        found = []
        for name, check in STAGES.get("align").samples(run):
            try:
                check()
            except UserError as error:
                found.append((name, str(error)))
        return found

    assert bad() == []
    augment = {"versions": 4, "speed": [0.25, 1.0]}
    _, _, _, dataset, collator = training(data, parts, tmp_path, augment=augment, max_length=70)

    def too_long(n_epochs):
        """Return what training would raise."""
        names = set()
        for epoch in range(n_epochs):
            dataset.set_epoch(epoch)
            for index in range(len(dataset)):
                try:
                    collator([dataset[index]])
                except UserError as error:
                    assert "max_length" in str(error)
                    names.add(dataset.name(index))
        return names

    assert too_long(1) < too_long(4) == {name for name, _ in bad(augment=augment)}


def test_an_encoding_is_estimated_for_every_version(data, parts, tmp_path, monkeypatch):
    import train.tune.estimate as estimate

    ticks = iter(range(100_000))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(ticks)))

    def encoding(**options):
        values = {"cache_features": True, **options}
        cost = STAGES.get("align").dry_run(of_stage("align", data, tmp_path / "run", parts, data=values))
        return cost.other_s["encoding clips"]

    assert encoding(augment={"versions": 3, **SPEEDS}) == 3 * encoding()


def test_clips_of_shards_are_augmented(data, parts, tmp_path):
    write_shards(read_manifest(data / "train.jsonl"), tmp_path / "shards")
    options = {"train": [str(tmp_path / "shards")], "group_by_length": True}
    run, model, records, dataset, collator = training(data, parts, tmp_path, **options)
    dataset.order(0, 0)
    batch = collator([dataset[i] for i in range(4)])
    assert not {11000}.intersection(batch["padding_mask"].sum(1).tolist())
    heard = training_clips_of(run, records, clip_augmenter(run, collator.processor))
    ClipFeatures(model.encoder, heard, 1.0, torch.device("cpu"), tmp_path / "kept")
    assert missing_clips(model.encoder, heard, tmp_path / "kept") == []
    assert len({one.fingerprint for one in heard}) == len(heard) == 14


def test_no_version_is_too_short_for_a_token(parts, data, tmp_path):
    """The shortest usable clip, twice as fast, still trains."""
    run = of_stage("align", data, tmp_path, parts)
    _, processor = starting_model(run)
    shortest = shortest_clip(processor)
    assert processor.n_audio_tokens(shortest) > 0
    with pytest.raises(UserError):
        processor.n_audio_tokens(shortest - 1)
    save_wav(tmp_path / "short.wav", tone(440)[:shortest], RATE)
    row = {"id": "s", "audio": "short.wav", "question": "what", "answer": "tone"}
    write_manifest(tmp_path / "train.jsonl", [row])
    _, _, _, dataset, collator = training(tmp_path, parts, tmp_path / "o", augment={"speed": [2.0, 2.0]})
    assert collator([dataset[0]])["padding_mask"].sum().item() == shortest
