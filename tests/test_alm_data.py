import dataclasses
import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from alm.common.errors import AudioError, ConfigError, ManifestError, UserError
from alm.data.manifest import read_manifest, write_manifest
from alm.data.scenes.compose import MARKER, ComposeConfig, compose
from alm.data.scenes.events import GeneratedEvents, RecordedEvents, read_labels
from alm.data.scenes.language import Language, TimelineNoise, is_countable
from alm.data.scenes.phrases import NUMBER_WORDS
from alm.data.scenes.scene import Scene, SceneEvent, mix_scene, sample_scene
from alm.data.subset import write_share
from encoders.audio import load_audio

KINDS = GeneratedEvents.kinds
LANGUAGE = Language(KINDS)
SMALL = ComposeConfig(n_train=6, n_validation=3, n_test=3)


def scene(*kinds: str, scene_id: str = "s") -> Scene:
    return Scene(scene_id, 5.12, tuple(SceneEvent(kind, 0.1 + 1.7 * i, 1.0) for i, kind in enumerate(kinds)))


def recordings(folder, rows=None, columns="filename,fold,category,extra"):
    """Twelve short recordings of three kinds in three folds."""
    (folder / "audio").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    lines = [columns]
    for fold in (1, 2, 3):
        for kind in ("dog", "sea_waves", "clock_tick"):
            for take in (0, 1):
                name = f"{kind}{fold}{take}.wav"
                burst = np.pad(0.3 * rng.standard_normal(8000), (8000, 16000)).clip(-1, 1)
                soundfile.write(folder / "audio" / name, burst, 16000)
                lines.append(f"{name},{fold},{kind},x")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines if rows is None else [columns, *rows]) + "\n")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_generated_events_are_deterministic_varied_and_in_range(kind):
    bank = GeneratedEvents()
    first, again, other = (bank.render(kind, np.random.default_rng(seed), 0.8) for seed in (1, 1, 2))
    assert len(KINDS) >= 16 and first.dtype == np.float32 and first.shape == (12800,)
    assert np.array_equal(first, again) and not np.allclose(first, other)
    assert np.abs(first).max() <= 0.81 and 0.02 < np.sqrt(np.mean(first**2)) < 0.11


def test_generated_kinds_can_be_told_apart_by_their_spectrum():
    def features(wave):
        frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
        spectrum = np.abs(np.fft.rfft(frames))[:, 1:].reshape(len(frames), 64, 4).mean(axis=2)
        log = np.log(spectrum + 1e-2)
        trend = (log * np.linspace(-1, 1, len(log))[:, None]).mean(axis=0)
        return np.concatenate([log.mean(axis=0), log.std(axis=0), trend])

    def draw(seed):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(len(KINDS)), 15)
        waves = [GeneratedEvents().render(KINDS[label], rng, rng.uniform(0.6, 1.2)) for label in labels]
        return np.array([features(wave) for wave in waves]), labels

    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1)).fit(*draw(0))
    assert model.score(*draw(1)) > 0.9


def test_planned_scenes_keep_their_promises():
    rng = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    repeats = overlaps = 0
    for index in range(400):
        plan = sample_scene(KINDS, rng, f"s{index}")
        counts[len(plan.events)] += 1
        repeats += len(set(plan.kinds)) < len(plan.kinds)
        for event, following in zip(plan.events, plan.events[1:], strict=False):
            assert following.onset_s > event.onset_s + 0.15
            gap_s = following.onset_s - event.end_s
            overlaps += gap_s < 0
            assert gap_s > (0.6 if event.kind == following.kind else -0.31)
        assert plan.events[0].onset_s >= 0 and plan.events[-1].end_s <= 5.12 + 1e-3
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 90
    assert repeats > 60 and overlaps > 40
    assert sample_scene(KINDS, np.random.default_rng(3), "a") == sample_scene(
        KINDS, np.random.default_rng(3), "a"
    )


def test_crowded_scenes_are_shortened_to_fit():
    for seed in range(50):
        plan = sample_scene(KINDS, np.random.default_rng(seed), "s", duration_s=1.5, max_events=6)
        assert plan.events[-1].end_s <= 1.5 + 1e-3
        assert all(event.duration_s > 0 for event in plan.events)


def test_mixing_puts_sound_where_the_plan_says():
    plan = Scene("s", 5.12, (SceneEvent("tone", 1.0, 0.8), SceneEvent("rain", 3.0, 1.0, -6.0)))
    rendered, wave = mix_scene(plan, GeneratedEvents(), np.random.default_rng(0))
    assert (
        rendered == plan and wave.shape == (81920,) and wave.dtype == np.float32 and np.abs(wave).max() <= 1
    )
    level = np.sqrt(np.mean(wave[: 16 * 5120].reshape(16, 5120) ** 2, axis=1))  # 16 steps of 0.32 s
    assert level[[4, 10, 11]].min() > 10 * level[[0, 1, 7, 8, 14, 15]].max()
    assert level[[0, 15]].min() > 0  # background


def test_names_take_the_right_articles():
    language = Language(
        ("bell", "alarm", "rain", "sea_waves", "sneezing", "clock_tick", "church_bells", "bus", "king")
    )
    phrases = [language.phrase(kind) for kind in language.kinds]
    assert phrases == [
        "a bell", "an alarm", "rain", "sea waves", "sneezing", "a clock tick", "church bells", "a bus", "a king",
    ]  # fmt: skip
    assert language.phrase("bell", again=True) == "another bell"
    assert language.phrase("rain", again=True) == "more rain"
    assert not is_countable("door_wood_creaks") and is_countable("glass")


def test_words_tell_kinds_apart():
    language = Language(("rising_chirp", "falling_chirp", "clock_tick", "dog", "dog_toy"))
    words = [language.word(kind) for kind in language.kinds]
    assert words == ["rising", "falling", "tick", "dog", "toy"]
    with pytest.raises(ConfigError, match="at least two"):
        Language(("dog",))


def test_five_different_captions_name_every_sound_in_order():
    for kinds in (
        ("bell",),
        ("bell", "rain"),
        ("bell", "rain", "bell"),
        ("bell", "rain", "bell", "drum", "horn"),
    ):
        captions = LANGUAGE.captions(scene(*kinds))
        assert len(set(captions)) == 5
        for caption in captions:
            positions = [caption.lower().find(kind) for kind in dict.fromkeys(kinds)]
            assert positions == sorted(positions) and -1 not in positions, caption
            assert caption[0].isupper() and "{" not in caption
            assert ("another bell" in caption) == (kinds.count("bell") > 1)


def test_answers_are_true_and_their_priors_are_flat():
    rng = np.random.default_rng(0)
    kinds_asked: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {
        "presence": Counter(),
        "how_many": Counter(),
        "right option": Counter(),
    }
    for index in range(1500):
        plan = sample_scene(KINDS, rng, f"s{index}")
        phrases = [LANGUAGE.phrase(kind) for kind in plan.kinds]
        questions = LANGUAGE.questions(plan, rng, 4)
        assert len({(q.question, q.choices) for q in questions}) == len(questions)
        for q in questions:
            kinds_asked[q.kind] += 1
            named = [kind for kind in KINDS if re.search(rf"\b{LANGUAGE.phrase(kind)}\b", q.question)]
            if q.kind == "what":
                assert phrases == [q.answer]
            elif q.kind == "how_many":
                expected = len(phrases) if not named else max(plan.kinds.count(kind) for kind in named)
                assert q.answer == NUMBER_WORDS[expected]
                answers["how_many"][q.answer] += 1
            elif q.kind == "order":
                assert q.answer in phrases and len(phrases) > 1
                if "second" in q.question or "after the first" in q.question:
                    assert q.answer == phrases[1]
                elif "first" in q.question and "follows" not in q.question:
                    assert q.answer == phrases[0]
                elif "last" in q.question or "end" in q.question.replace("beginning", ""):
                    assert q.answer == phrases[-1]
            elif q.kind == "presence":
                assert q.answer == ("yes" if any(kind in plan.kinds for kind in named) else "no")
                answers["presence"][q.answer] += 1
            else:
                assert len(set(q.choices)) == 4 and q.answer in q.choices and q.answer in phrases
                answers["right option"][str(q.choices.index(q.answer))] += 1
    total = sum(kinds_asked.values())
    assert kinds_asked["presence"] / total < 0.2
    assert all(count / total > 0.05 for count in kinds_asked.values()) and len(kinds_asked) == 5
    assert 0.45 < answers["presence"]["yes"] / answers["presence"].total() < 0.55
    assert max(answers["right option"].values()) / answers["right option"].total() < 0.29
    assert max(answers["how_many"].values()) / answers["how_many"].total() < 0.45


def test_timelines_follow_the_scene():
    plan = scene("bell", "rising_chirp")
    words = LANGUAGE.timeline(plan, np.random.default_rng(0), 16)
    assert words[1:3] == ["bell", "bell"] and words[6:8] == ["rising", "rising"] and len(words) == 16
    assert words[4] == words[15] and words[4] not in ("bell", "rising")
    noisy = [
        LANGUAGE.timeline(plan, np.random.default_rng(i), 16, TimelineNoise(0.2, 0.5)) for i in range(20)
    ]
    assert len(set(map(tuple, noisy))) > 10 and all({"bell", "rising"} < set(words) for words in noisy)


def test_compose_writes_a_whole_data_set_that_reads_back(tmp_path):
    seen = []
    out = compose(
        SMALL, tmp_path / "data", progress=lambda done, total: seen.append((done, total)), workers=1
    )
    splits = {
        split: read_manifest(out / f"{split}.jsonl", check_files=True)
        for split in ("train", "validation", "test")
    }
    assert seen[-1] == (12, 12)
    assert [len({record.clip for record in splits[split]}) for split in splits] == [6, 3, 3]
    assert not {r.clip for r in splits["train"]} & {r.clip for r in splits["test"]}
    captions = [record for record in splits["train"] if record.kind == "caption"]
    assert len(captions) == 6 and all(len(record.captions) == 5 for record in captions)
    wave, rate = soundfile.read(captions[0].audio[0].path)
    assert rate == 16000 and wave.shape == (81920,)
    scenes = [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]
    assert Counter(s["split"] for s in scenes) == {"train": 6, "validation": 3, "test": 3}
    assert scenes[0]["events"][0]["kind"] in KINDS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_compose_does_not_depend_on_processes_and_repeats_itself(tmp_path):
    alone = compose(SMALL, tmp_path / "a", workers=1)
    together = compose(SMALL, tmp_path / "b", workers=2)
    other = compose(dataclasses.replace(SMALL, seed=1), tmp_path / "c", workers=1)
    for name in ("train.jsonl", "scenes.jsonl", "audio/test-00002.wav"):
        assert (alone / name).read_bytes() == (together / name).read_bytes()
        assert (alone / name).read_bytes() != (other / name).read_bytes()


def test_compose_keeps_what_is_finished_and_refuses_what_is_not_its_own(tmp_path):
    out = compose(SMALL, tmp_path / "data", workers=1)
    before = (out / MARKER).stat().st_mtime_ns
    assert compose(SMALL, out, workers=1) == out and (out / MARKER).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another configuration"):
        compose(dataclasses.replace(SMALL, seed=5), out, workers=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(UserError, match="something other"):
        compose(SMALL, tmp_path / "mine", workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        compose(SMALL, tmp_path / "file", workers=1)
    with pytest.raises(UserError, match="cannot be written .File exists.; choose a new folder"):
        compose(SMALL, tmp_path / "file" / "data", workers=1)


def test_an_interrupted_compose_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose(SMALL, tmp_path / "data", progress=interrupt, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_train": 0}, "compose.n_train is 0; expected 1 or more"),
        ({"scene_s": "long"}, "compose.scene_s is 'long'; expected a number"),
        ({"max_events": 50}, "compose.max_events is 50; expected 1 to 10"),
        ({"event_s": (1.0, 0.5)}, "compose.event_s"),
    ],
)
def test_bad_configurations_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        ComposeConfig(**change)


def test_recordings_are_split_by_fold_and_never_share_a_source(tmp_path):
    bank = RecordedEvents(recordings(tmp_path), validation_share=0.3)
    train, validation, test = (bank.for_split(split) for split in ("train", "validation", "test"))
    assert bank.test_folds == ("3",) and bank.kinds == train.kinds == ("clock_tick", "dog", "sea_waves")
    assert {clip.fold for clip in test.clips} == {"3"} and len(test.clips) == 6
    assert len(validation.clips) == 3 and len(train.clips) == 9
    sources = [{clip.recording for clip in part.clips} for part in (train, validation, test)]
    assert not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    assert RecordedEvents(tmp_path / "labels.csv", test_folds=(1, "2")).test_folds == ("1", "2")


def test_takes_of_one_recording_stay_together(shared_dir):
    bank = RecordedEvents(shared_dir / "data" / "esc10" / "meta.csv")
    parts = {split: bank.for_split(split) for split in ("train", "validation", "test")}
    assert len(parts["test"].clips) == 80 and {clip.fold for clip in parts["test"].clips} == {"4"}
    recordings_of = {split: {clip.recording for clip in part.clips} for split, part in parts.items()}
    assert "172649" in {clip.path.stem.split("-")[1] for clip in bank.clips}
    assert not recordings_of["train"] & recordings_of["validation"]
    assert not recordings_of["train"] & recordings_of["test"]
    assert all(len(part.kinds) == 10 for part in parts.values())


@pytest.mark.parametrize("header", ["file_name,fold,label", "path,fold,class", "fname,fold,target"])
def test_usual_names_of_columns_are_understood(header, tmp_path):
    """As in fine-tuning's tables; the names of ESC-50 come first."""
    table = recordings(tmp_path)
    rows = table.read_text().splitlines()
    wanted = read_labels(table)
    other = tmp_path / "other.csv"
    other.write_text("\n".join([f"{header},extra", *rows[1:]]))
    found = read_labels(other)
    assert [(c.path, c.kind, c.fold) for c in found] == [(c.path, c.kind, c.fold) for c in wanted]
    other.write_text("\n".join([f"path,label,{rows[0]}", *(f"no.wav,no,{row}" for row in rows[1:])]))
    assert [c.kind for c in read_labels(other)] == [c.kind for c in wanted]


def test_cuts_hold_the_sound_and_not_the_silence(tmp_path):
    bank = RecordedEvents(recordings(tmp_path))
    for seed in range(10):
        cut = bank.render("dog", np.random.default_rng(seed), 1.2)  # the burst lasts 0.5 s of the clip's 2 s
        assert 0.2 < len(cut) / 16000 < 0.6
        assert np.sqrt(np.mean(cut**2)) > 0.05
    assert len(bank.render("dog", np.random.default_rng(0), 0.3)) <= 4800
    with pytest.raises(KeyError):
        bank.render("cat", np.random.default_rng(0), 1.0)


def test_compose_from_recordings_asks_about_every_held_out_clip(tmp_path):
    labels = recordings(tmp_path)
    config = dataclasses.replace(SMALL, labels_csv=str(labels), n_train=20, whole_clip_share=0.5)
    out = compose(config, tmp_path / "data", workers=1)
    test = read_manifest(out / "test.jsonl", check_files=True)
    whole = [record for record in test if record.meta["whole_clip"] and record.kind == "what"]
    assert len(whole) == 6 and len({record.meta["sources"][0] for record in whole}) == 6
    assert all("3" in source.rsplit("/", 1)[1] for record in test for source in record.meta["sources"])
    clip, _ = soundfile.read(whole[0].audio[0].path)
    original, _ = soundfile.read(whole[0].meta["sources"][0])
    assert np.abs(clip - original).max() < 1e-3
    train = read_manifest(out / "train.jsonl")
    kinds = {record.kind for record in train if record.meta["whole_clip"]}
    assert kinds and "how_many" not in kinds  # how often a dog barks within a clip is not labelled
    tested = {source for record in test for source in record.meta["sources"]}
    assert not tested & {source for record in train for source in record.meta["sources"]}


@pytest.mark.parametrize(
    ("columns", "rows", "folds", "said"),
    [
        (
            "file,fold,category",
            ["dog10.wav,1,dog"],
            None,
            r"labels\.csv:1: no column 'filename' .* rename 'file'",
        ),
        (
            "filename,fold,kind",
            ["dog10.wav,1,dog"],
            None,
            r":1: no column 'category' or 'class' or .* 'target'",
        ),
        ("filename,category", ["dog10.wav,dog"], None, r":1: no column 'fold'"),
        ("filename,fold,category", [], None, r":1: no clips"),
        ("filename,fold,category", ["dog10.wav,1,dog", "no.wav,2,dog"], None, r":3: no file 'no\.wav'"),
        ("filename,fold,category", ["dog10.wav,1,"], None, r":2: 'category' is empty"),
        (
            "filename,fold,category",
            ["dog10.wav,1,dog", "dog20.wav,2,dog"],
            ("9",),
            r"no clips in fold '9'; .* 1, 2",
        ),
        ("filename,fold,category", ["dog10.wav,1,dog"], None, r"all folds \(1\) are held out"),
        (
            "filename,fold,category",
            ["dog10.wav,1,dog", "dog20.wav,2,cat"],
            None,
            r"kind 'cat' has no clips in the train",
        ),
        ("filename,fold,category", ["dog10.wav,1,dog", "dog20.wav,2,dog"], (), r"no test folds given"),
    ],
)
def test_bad_label_tables_are_one_clear_line(tmp_path, columns, rows, folds, said):
    path = recordings(tmp_path, rows, columns)
    with pytest.raises(ManifestError, match=said) as caught:
        RecordedEvents(path, folds)
    assert "\n" not in str(caught.value)


def test_missing_tables_and_bad_recordings(tmp_path):
    with pytest.raises(ManifestError, match="none.csv: cannot be read .No such file.*expected a CSV table"):
        RecordedEvents(tmp_path / "none.csv")
    path = recordings(tmp_path)
    soundfile.write(tmp_path / "audio" / "dog10.wav", np.zeros(16000), 16000)
    (tmp_path / "audio" / "dog11.wav").write_text("not audio")
    bank = RecordedEvents(path)
    for clip in bank.clips[:2]:
        with pytest.raises(AudioError, match=r"labels\.csv:[23]: .*dog1"):
            bank.whole(clip, 5.0, np.random.default_rng(0))
    with pytest.raises(AudioError):
        compose(dataclasses.replace(SMALL, labels_csv=str(path), n_train=40), tmp_path / "data", workers=1)
    assert not (tmp_path / "data").exists() and not (tmp_path / ".data.partial").exists()


def test_numeric_targets_and_a_byte_order_mark_are_fine(tmp_path):
    path = recordings(tmp_path)
    text = path.read_text().replace("category", "target").replace(",dog,", ",0,")
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert RecordedEvents(path).kinds == ("clock_tick", "sea_waves", "sound_0")


def test_only_training_hears_recordings_varied(tmp_path):
    """Test and validation clips are scored as recorded; training clips are augmented, differently in each epoch."""
    labels_csv = recordings(tmp_path)
    bank = RecordedEvents(labels_csv)
    for split in ("validation", "test"):
        clip = bank.for_split(split).clips[0]
        whole = bank.for_split(split).whole(clip, 5.0, np.random.default_rng(0)).waveform
        np.testing.assert_array_equal(whole, load_audio(clip.path, 16000)[: 5 * 16000])
    train = bank.for_split("train")
    clip = train.clips[0]
    first, second, again = (
        train.whole(clip, 5.0, np.random.default_rng(seed)).waveform for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(second) or not np.allclose(first, second)
    plain = RecordedEvents(labels_csv, variation=False).for_split("train")
    np.testing.assert_array_equal(
        plain.whole(clip, 5.0, np.random.default_rng(0)).waveform, load_audio(clip.path, 16000)[: 5 * 16000]
    )


def test_a_smaller_share_is_part_of_a_larger_one(tmp_path):
    rows = [
        {"id": f"{clip}-{n}", "audio": f"sub/{clip}.wav" if n else [{"path": f"sub/{clip}.wav", "start_s": 0.5}],
         "clip": f"c{clip}", "question": "What?", "answer": "a bell", "extra": n}
        for clip in range(20) for n in range(2)
    ]  # fmt: skip
    write_manifest(tmp_path / "all.jsonl", rows)
    (tmp_path / "out").mkdir()
    taken = {}
    for share in (0.25, 0.5, 1.0):
        out = tmp_path / "out" / f"{share}.jsonl"
        assert write_share(tmp_path / "all.jsonl", out, share) == (20 * share, 40 * share)
        taken[share] = [record.id for record in read_manifest(out)]
    for seed in (0, 1):  # the first quarter of an order by a hash of seed and clip, computed here
        order = sorted(range(20), key=lambda n, seed=seed: hashlib.sha256(f"{seed}/c{n}".encode()).digest())
        write_share(tmp_path / "all.jsonl", tmp_path / "out" / "s.jsonl", 0.25, seed)
        records = read_manifest(tmp_path / "out" / "s.jsonl")
        assert {record.clip for record in records} == {f"c{n}" for n in order[:5]}
    assert set(taken[0.25]) < set(taken[0.5]) and taken[1.0] == [row["id"] for row in rows]
    whole, found = (read_manifest(tmp_path / n) for n in ("all.jsonl", "out/1.0.jsonl"))
    assert [r.audio for r in found] == [r.audio for r in whole] and [r.meta for r in found] == [
        r.meta for r in whole
    ]
    assert json.loads((tmp_path / "out/0.25.jsonl").read_text().splitlines()[0])["extra"] == 0
    with pytest.raises(ConfigError, match="share: got 0"):
        write_share(tmp_path / "all.jsonl", tmp_path / "x.jsonl", 0.0)
