"""Temporal grounding: what is read from an answer, and scores by hand and against psds-eval."""

import json

import numpy as np
import pytest

from encoders.audio import save_wav
from eval.benchmarks import load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError
from eval.metrics import load_metric
from eval.parsing.events import Event, events_text, parse_events
from eval.runner.score_file import score_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog: 1.20 - 3.40; siren: 4.00 - 9.90", [("dog", 1.2, 3.4), ("siren", 4, 9.9)]),
        (
            "A dog barks from 1.2 to 3.4 seconds, and a siren from 0:04 to 1:09.5.",
            [("dog barks", 1.2, 3.4), ("siren", 4, 69.5)],
        ),
        ("1. dog (1.2s - 3.4s)\n2. siren (4-9.9 s)", [("dog", 1.2, 3.4), ("siren", 4, 9.9)]),
        ("dog: 1-2, 3-4 s", [("dog", 1, 2), ("dog", 3, 4)]),
        ("- **rising_chirp**: 0.5 \u2013 1", [("rising chirp", 0.5, 1)]),
        ("There is a bell between 1 and 2 seconds.", [("bell", 1, 2)]),
        ("none", []),
        ("dog 5 to 3", []),
        ("two dogs, 2 bells", []),
        ("1.2 - 3.4", []),
    ],
)
def test_events_of_an_answer(text, expected):
    assert parse_events(text) == [Event(*event) for event in expected]


def test_what_is_written_is_read():
    random = np.random.default_rng(0)
    for _ in range(50):
        starts = random.integers(0, 900, 4) / 100
        events = [
            Event(label, float(start), float(start + 0.25))
            for label, start in zip(["dog", "car horn", "rain", "dog"], starts, strict=True)
        ]
        found = parse_events(events_text(events))
        assert sorted(map(repr, found)) == sorted(
            repr(Event(e.label, e.onset_s, round(e.offset_s, 2))) for e in events
        )


def test_scores_by_hand():
    metric = load_metric("sound_events")
    wanted = ["dog: 0.00 - 2.00; bell: 5.00 - 6.00", "dog: 3.00 - 4.00"]
    said = ["dog: 0.10 - 1.90; bell: 8.00 - 9.00", "none"]
    result = metric.compute(predictions=said, references=wanted, durations_s=[10.0, 10.0])
    # Seconds: dog 0 and 1 hit; bell 8 false, bell 5 and dog 3 missed.
    assert result["segment_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    # Events: the first dog hit; the bell false; bell and second dog missed.
    assert result["event_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    # Hit rates 0 (bell, of 180 false alarms an hour, beyond the range) and 1/2 (dog, of none): mean and deviation 1/4.
    assert result["psds"] == 0
    assert metric.compute(predictions=wanted, references=wanted)["psds"] == 1
    assert result["per_sample"] == pytest.approx([2 * 2 / (2 * 2 + 1 + 1), 0])


def test_a_false_alarm_hits_nothing_and_segments_begin_where_their_second_does():
    """An answer ten times as long as the sound covers the sound but does not detect it."""
    metric = load_metric("sound_events")
    long = metric.compute(
        predictions=["dog: 0.00 - 10.00"], references=["dog: 0.00 - 1.00"], durations_s=[36000.0]
    )
    assert long["psds"] == 0
    # From 0.6 s to 1.4 s are the seconds 0 and 1.
    found = metric.compute(predictions=["dog: 0.00 - 1.00"], references=["dog: 0.60 - 1.40"])
    assert found["segment_f1"] == pytest.approx(2 * 1 / (2 * 1 + 1))


def test_an_event_counts_within_its_collar():
    def event_f1(said):
        return load_metric("sound_events").compute(predictions=[said], references=["dog: 2.00 - 4.00"])[
            "event_f1"
        ]

    assert event_f1("dog: 2.20 - 4.40") == 1  # 20 % of two seconds at the end, 200 ms at the start
    assert event_f1("dog: 2.21 - 4.00") == 0
    assert event_f1("dog: 2.00 - 4.41") == 0
    assert event_f1("cat: 2.00 - 4.00") == 0


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("dog: 2.00 - 3.00; dog: 2.10 - 3.10", "dog: 2.05 - 3.05", 2 / 3),  # an event is found once
        ("dog: 2.05 - 3.05", "dog: 2.00 - 3.00; dog: 2.10 - 3.10", 2 / 3),
        # the first fits both, the second only one of them: both are found
        ("dog: 2.10 - 3.10; dog: 2.30 - 3.30", "dog: 2.15 - 3.15; dog: 1.95 - 2.95", 1.0),
    ],
)
def test_events_are_paired_one_to_one_and_as_many_as_can_be(said, wanted, f1):
    found = load_metric("sound_events").compute(predictions=[said], references=[wanted])
    assert found["event_f1"] == pytest.approx(f1)


def test_psds_is_that_of_psds_eval(monkeypatch):
    psds_eval = pytest.importorskip("psds_eval", reason="psds_eval is not installed")
    import pandas

    # psds_eval 0.5.3 fills with `fillna(method="ffill")`, which pandas 3 has as `ffill()`.
    fillna = pandas.DataFrame.fillna
    monkeypatch.setattr(
        pandas.DataFrame,
        "fillna",
        lambda self, value=None, method=None: self.ffill() if method else fillna(self, value),
    )

    random = np.random.default_rng(1)
    columns = ["filename", "onset", "offset", "event_label"]
    truth, found, texts = [], [], []
    for clip in range(40):
        events: dict = {"truth": [], "found": []}
        for label in ("dog", "bell", "rain"):
            for start in (0.0, 10.0):
                if random.random() < 0.7:
                    onset = start + round(3 * random.random(), 2)
                    offset = onset + round(0.5 + 4 * random.random(), 2)
                    events["truth"].append(Event(label, onset, offset))
                    if random.random() < 0.8:
                        moved = max(0.0, round(onset + 0.6 * random.standard_normal() * (label != "dog"), 2))
                        events["found"].append(Event(label, moved, round(offset + 0.2, 2)))
        if random.random() < 0.05:
            events["found"].append(Event("bell", 25.0, 26.0))
        texts.append((events_text(events["found"]), events_text(events["truth"])))
        for key, rows in (("truth", truth), ("found", found)):
            rows.extend(
                [f"{clip}", e.onset_s, e.offset_s, e.label] for e in parse_events(events_text(events[key]))
            )
    meta = pandas.DataFrame({"filename": [f"{clip}" for clip in range(40)], "duration": 30.0})
    theirs = psds_eval.PSDSEval(
        dtc_threshold=0.7,
        gtc_threshold=0.7,
        ground_truth=pandas.DataFrame(truth, columns=columns),
        metadata=meta,
    )
    theirs.add_operating_point(pandas.DataFrame(found, columns=columns))
    # Its own sum of the area needs numpy 1; matching, rates and the curve are the library's.
    curve = theirs._effective_tp_ratio(theirs.psd_roc_curves(alpha_ct=0.0)[2], 1.0)
    inside = curve.xp < 100
    expected = float((np.diff([*curve.xp[inside], 100.0]) * curve.yp[inside]).sum()) / 100
    said, wanted = map(list, zip(*texts, strict=True))
    mine = load_metric("sound_events").compute(predictions=said, references=wanted, durations_s=[30.0] * 40)
    assert mine["psds"] == pytest.approx(expected, abs=1e-9) and 0.1 < expected < 0.9


@pytest.fixture
def scenes(tmp_path):
    (tmp_path / "audio").mkdir()
    lines = []
    for number, kinds in enumerate((["dog_bark", "bell"], ["bell"], [])):
        save_wav(tmp_path / "audio" / f"s{number}.wav", np.zeros(16000, np.float32), 16000)
        events = [
            {"kind": kind, "onset_s": 1.0 + 2 * place, "duration_s": 1.5} for place, kind in enumerate(kinds)
        ]
        lines.append({"id": f"s{number}", "duration_s": 5.0, "events": events, "split": "test"})
    lines.append({"id": "other", "duration_s": 5.0, "events": [], "split": "train"})
    save_wav(tmp_path / "audio" / "other.wav", np.zeros(16000, np.float32), 16000)
    (tmp_path / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "scenes.jsonl"


def test_composed_scenes_are_asked_for_their_times(scenes, tmp_path):
    records = read_records(load_benchmark("sound_events"), scenes).records
    assert [record.id for record in records] == ["s0", "s1", "s2"]
    assert [record.answer for record in records] == [
        "dog bark: 1.00 - 2.50; bell: 3.00 - 4.50", "bell: 1.00 - 2.50", "none",
    ]  # fmt: skip
    assert records[0].question.endswith("The sounds are: bell, dog bark.")
    answers = ["dog bark from 1 to 2.5 s; bell from 3 to 4 s", "bell: 0.00 - 4.50", "none"]
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"s{n}", "prediction": said}) + "\n" for n, said in enumerate(answers))
    )
    scores = score_file(file, benchmark="sound_events", data=str(scenes))["arms"]["none"]["scores"]
    # Seconds: dog 1, 2; bell 3, 4 of which 4 is missed; bell 1, 2 with 0, 3, 4 false.
    assert scores["answer/segment_f1"]["value"] == pytest.approx(2 * 5 / (2 * 5 + 3 + 1))
    assert scores["qa/overall"]["value"] == 1
    # Of dog 1 of 1; of bell the first is 2/3 covered, too little, and the second is too long.
    assert scores["answer/psds"]["value"] == pytest.approx((0.5 - 0.5) * 1)
    assert scores["answer/event_f1"]["value"] == pytest.approx(2 * 1 / (2 * 1 + 2 + 2))


def test_scenes_that_are_none(tmp_path, scenes):
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(EvaluationError, match="bad.jsonl:1: not a scene"):
        read_records(load_benchmark("sound_events"), tmp_path / "bad.jsonl")
    with pytest.raises(EvaluationError, match="has no scene of the split 'validation'"):
        read_records(load_benchmark("sound_events"), scenes, "validation")
