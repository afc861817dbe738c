# ruff: noqa: E501
"""A small tree of every corpus in its published layout, with recordings: for conversion, fine-tuning and benchmarks."""

import csv
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile

from encoders.audio import save_wav

RATE = 16000


def sound(path):
    """A short recording; FLAC and Ogg where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)
    if path.suffix == ".wav":
        save_wav(path, tone, RATE)
    else:
        soundfile.write(path, tone, RATE)


def rows_table(path, rows, delimiter=",", header=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if header:
            writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        else:
            csv.writer(file, delimiter=delimiter).writerows(rows)


def choice_item(number, **more):
    return {"id": f"q{number}", "question": "Which?", "choices": [" dog", "cat "], "answer": "cat ", **more}


def wav(path, seconds=0.1, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * rate), 0.1, dtype=np.float32), rate)


def table(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.strip() + "\n", encoding="utf-8")


def esc50(root):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in (1, 2):
        for target, name, esc10 in ((0, "dog", True), (1, "rooster", True), (2, "pig", False)):
            for take in "AB":
                rows.append(
                    f"{fold}-{fold}00{target}-{take}-{target}.wav,{fold},{target},{name},{esc10},{fold}00{target},{take}"
                )
                wav(root / "audio" / f"{fold}-{fold}00{target}-{take}-{target}.wav")
    table(root / "meta" / "esc50.csv", "\n".join(rows))
    return {"root": str(root)}


def audioset(root):
    table(
        root / "class_labels_indices.csv",
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"',
    )
    header = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    table(
        root / "balanced_train_segments.csv",
        header + '--aaaaaaaaa, 30.000, 40.000, "/m/09x0r,/m/05zppz"\nbbbbbbbbbbb, 0.000, 10.000, "/m/09x0r"',
    )
    table(root / "unbalanced_train_segments.csv", header + 'ccccccccccc, 20.000, 30.000, "/m/05zppz"')
    table(
        root / "eval_segments.csv",
        header + 'ddddddddddd, 1.500, 11.500, "/m/09x0r"\neeeeeeeeeee, 0.000, 10.000, "/m/09x0r"',
    )
    for name in ("balanced/--aaaaaaaaa.wav", "balanced/Ybbbbbbbbbbb.flac", "unbalanced/part00/ccccccccccc_20_30.wav",
                 "eval/ddddddddddd_1500_11500.wav"):  # fmt: skip
        wav(root / "audio" / name)
    return {"root": str(root), "max_missing_rate": 0.3}


def speech_commands(root):
    names = []
    for word in ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "cat", "tree"):
        for speaker in ("aa11", "bb22", "cc33"):
            names.append(f"{word}/{speaker}_nohash_0.wav")
            wav(root / names[-1])
    table(root / "validation_list.txt", "\n".join(n for n in names if "bb22" in n))
    table(root / "testing_list.txt", "\n".join(n for n in names if "cc33" in n))
    for name in ("white_noise", "pink_noise", "running_tap"):
        wav(root / "_background_noise_" / f"{name}.wav", 2.5)
    return {"root": str(root)}


def envsdd(root):
    for attack in ("tta", "ata"):
        for part in ("dev/train", "dev/valid", "test/test01", "test/test02", "test/test03", "test/test04"):
            entries = []
            for i in range(2):
                for label, folder in (
                    ("real", "real_audio"),
                    ("fake", f"fake_audio/{attack.upper()}/audioldm1"),
                ):
                    path = f"{part.split('/')[1]}/{folder}/UrbanSound8K/{i}.wav"
                    wav(root / "data" / path)
                    entries.append(
                        {"file_path": path, "label": label, "attack_type": attack, "generative_model": "x"}
                    )
            place = root / "metadata" / attack / f"{part}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(entries))
    return {"root": str(root / "metadata"), "audio": str(root / "data")}


def fsd50k(root):
    truth = root / "FSD50K.ground_truth"
    table(truth / "vocabulary.csv", "0,Bark,/m/05tny_\n1,Dog,/m/0bt9lr\n2,Rain,/m/06mb1")
    table(
        truth / "dev.csv",
        'fname,labels,mids,split\n64760,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n16399,Rain,/m/06mb1,val',
    )
    table(truth / "eval.csv", "fname,labels,mids\n37199,Rain,/m/06mb1")
    for name in ("dev_audio/64760", "dev_audio/16399", "eval_audio/37199"):
        wav(root / f"FSD50K.{name}.wav")
    return {"root": str(root)}


def vocalsound(root):
    table(
        root / "class_labels_indices_vs.csv",
        "index,mid,display_name\n0,/m/01j3sz,Laughter\n1,/m/01b_21,Cough",
    )
    for stem, speaker in (("tr", "f0003"), ("val", "m0004"), ("te", "f0005")):
        entries = []
        for name, mid in (("laughter", "/m/01j3sz"), ("cough", "/m/01b_21")):
            wav(root / "audio_16k" / f"{speaker}_0_{name}.wav")
            entries.append({"wav": f"/home/someone/vs/audio_16k/{speaker}_0_{name}.wav", "labels": mid})
        place = root / "datafiles" / f"{stem}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({"data": entries}))
    return {"root": str(root)}


def label_csv(root):
    table(root / "meta.csv", "filename,category,fold,group\na.wav,bell,1,g1\nb.wav,rain,1,g1\nc.wav,bell,2,")
    for name in ("a.wav", "audio/b.wav", "c.wav"):
        wav(root / name)
    return {"root": str(root / "meta.csv")}


def fsdd(root):
    for name in ("0_jackson_0", "1_jackson_0", "0_theo_0", "1_theo_12"):
        wav(root / "recordings" / f"{name}.wav", rate=8000)
    return {"root": str(root)}


def mmau(root):
    items = [
        choice_item(
            i, audio_id=f"./test-mini-audios/{i}.wav", task="sound", difficulty="easy", category="Reasoning"
        )
        for i in range(2)
    ]
    items[1]["choices"] = ["cat", "cat", "dog"]  # the release has such rows
    items[1]["answer"] = "cat"
    (root / "mmau-test-mini.json").write_text(json.dumps(items))
    hidden = [{key: value for key, value in item.items() if key != "answer"} for item in items]
    (root / "mmau-test.json").write_text(json.dumps(hidden))
    return [root / "test-mini-audios" / f"{i}.wav" for i in range(2)]


def mmar(root):
    items = [
        choice_item(i, audio_path=f"./audio/{i}.wav", modality="mix", category="Signal Layer")
        for i in range(2)
    ]
    (root / "MMAR-meta.json").write_text(json.dumps(items))
    return [root / "audio" / f"{i}.wav" for i in range(2)]


def mmau_pro(root):
    items = [
        choice_item(i, audio_path=[f"data/{i}.wav"], category="sound", length_type="short") for i in range(2)
    ]
    items[1]["audio_path"].append("data/0.wav")
    items.append(
        {
            **choice_item(2),
            "audio_path": ["data/0.wav"],
            "category": "open",
            "length_type": "long",
            "choices": [],
        }
    )
    items.append({**items[0], "id": "q3", "answer": None, "category": "instruction following"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), root / "test.parquet")
    return [root / "data" / f"{i}.wav" for i in range(2)]


def mmsu(root):
    items = [
        {
            "id": f"{task}_{task}", "task_name": task, "audio_path": f"./MMSU/audio/{task}.wav", "question": "Which?",
            "choice_a": "up", "choice_b": "down", "choice_c": "flat", "choice_d": "none", "answer_gt": "flat",
            "category": "Perception",
        }
        for task in ("pitch", "stress")
    ]  # fmt: skip
    (root / "question").mkdir()
    (root / "question" / "mmsu.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return [root / "audio" / f"{task}.wav" for task in ("pitch", "stress")]


def airbench(root):
    items = [
        {
            "path": "1.wav", "question": "Which?", "choice_a": "up", "choice_b": "down", "choice_c": None,
            "choice_d": None, "answer_gt": "down", "task_name": task, "dataset_name": "set", "uniq_id": number,
        }
        for number, task in enumerate(["Sound_AQA", "Audio_Grounding"])
    ]  # fmt: skip
    (root / "Foundation_meta.json").write_text(json.dumps(items))
    return [root / "Sound_AQA_set" / "1.wav", root / "Audio_Grounding_set" / "1.flac"]


def airbench_chat(root):
    items = [
        {
            "path": "1.wav", "question": "What is it?", "answer_gt": "A dog barks.", "meta_info": "a dog, then rain",
            "task_name": task, "dataset_name": "set", "uniq_id": number,
        }
        for number, task in enumerate(["sound_QA", "speech_and_music_QA"])
    ]  # fmt: skip
    (root / "Chat_meta.json").write_text(json.dumps(items))
    return [root / "sound_QA_set" / "1.wav", root / "speech_and_music_QA_set" / "1.wav"]


def muchomusic(root):
    row = {
        "question": "Which genre?", "correct_answer": "Blues", "distractor_1_answer": "Jazz",
        "distractor_2_answer": "Rock", "distractor_3_answer": "Pop", "genre": "blues", "music_knowledge": "['genre']",
        "music_reasoning": "",
    }  # fmt: skip
    rows = [
        {**row, "dataset": "sdd", "dataset_identifier": "1004034.json"},
        {**row, "dataset": "musiccaps", "dataset_identifier": "_a-b_1.json", "music_reasoning": "['mood']"},
    ]
    rows_table(root / "muchomusic.csv", rows)
    rows_table(root / "sdd" / "song_describer.csv", [{"track_id": "1004034", "path": "34/1004034.mp3"}])
    rows_table(
        root / "musiccaps" / "musiccaps-public.csv", [{"ytid": "_a-b", "start_s": "30", "end_s": "40"}]
    )
    paths = [
        root / "sdd" / "audio" / "34" / "1004034.2min.mp3",
        root / "musiccaps" / "audio" / "[_a-b]-[30-40].wav",
    ]
    sound(root / "tone.wav")
    paths[0].parent.mkdir(parents=True)
    shutil.copy(root / "tone.wav", paths[0])
    return paths[1:]


def classification(root, kind):
    """A tree of one classification data set; returns recordings and the labels of each."""
    if kind == "esc50":
        rows_table(
            root / "meta" / "esc50.csv",
            [{"filename": "1-a.wav", "fold": 1, "target": 0, "category": "crying_baby"}],
        )
        return {root / "audio" / "1-a.wav": ["crying baby"]}
    if kind == "vocalsound":
        rows_table(
            root / "class_labels_indices_vs.csv", [{"index": 0, "mid": "/m/1", "display_name": "Sneeze"}]
        )
        (root / "datafiles").mkdir()
        data = {"data": [{"wav": "/old/place/f1.wav", "labels": "/m/1"}]}
        (root / "datafiles" / "te.json").write_text(json.dumps(data))
        return {root / "audio_16k" / "f1.wav": ["Sneeze"]}
    if kind == "fsd50k":
        rows_table(
            root / "FSD50K.ground_truth" / "eval.csv",
            [{"fname": 37199, "labels": "Rain,Tap_water", "mids": "a,b"}],
        )
        vocabulary = [[0, "Rain", "a"], [1, "Tap_water", "b"], [2, "Wind", "c"]]
        rows_table(root / "FSD50K.ground_truth" / "vocabulary.csv", vocabulary, header=False)
        return {root / "FSD50K.eval_audio" / "37199.wav": ["Rain", "Tap water"]}
    if kind == "vggsound":
        rows = [["-id", 30, "people whistling, loud", "test"], ["id2", 0, "dog", "train"]]
        rows_table(root / "vggsound.csv", rows, header=False)
        return {root / "audio" / "-id_000030.wav": ["people whistling, loud"]}
    if kind == "tut17":
        (root / "meta.txt").write_text("audio/1.wav\tgrocery_store\naudio/2.wav\tbeach\n")
        return {root / "audio" / "1.wav": ["grocery store"], root / "audio" / "2.wav": ["beach"]}
    if kind == "dcase17":
        (root / "groundtruth_release.csv").write_text(
            "-id_30.000_40.000.wav\t0\t10\tCar\n-id_30.000_40.000.wav\t0\t10\tBus\n"
        )
        return {root / "audio" / "Y-id_30.000_40.000.wav": ["Car", "Bus"]}
    if kind == "beijing_opera":
        return {root / "bangu" / "1.wav": ["bangu"], root / "daluo" / "1.wav": ["daluo"]}
    rows = [
        {"index": i, "mid": f"/m/{i}", "display_name": name}
        for i, name in enumerate(["Speech", "Music, live"])
    ]
    rows_table(root / "class_labels_indices.csv", rows)
    (root / "eval_segments.csv").write_text(
        '# Segments csv\n# YTID, start\n-id, 30.000, 40.000, "/m/0,/m/1"\n'
    )
    return {root / "audio" / "-id.wav": ["Speech", "Music, live"]}


def vggsound(root):
    rows = [
        [f"-id{i}", 30 * i, label, split]
        for i, (label, split) in enumerate((("rain, loud", "train"), ("dog", "train"), ("dog", "test")))
    ]
    rows_table(root / "vggsound.csv", rows, header=False)
    for name in ("-id0_000000.wav", "Y-id1_30_40.flac", "-id2_60000_70000.wav"):
        sound(root / "audio" / name)
    return {"root": str(root)}


def _spoken(**columns):
    """A tree with one table of two recordings, whose further columns have these values."""

    def tree(root):
        rows = zip(*columns.values(), strict=True)
        rows_table(
            root / "said.csv",
            [
                {"audio": f"clips/{i}.wav", **dict(zip(columns, row, strict=True))}
                for i, row in enumerate(rows)
            ],
        )
        for i in range(2):
            sound(root / "clips" / f"{i}.wav")
        return {"root": str(root / "said.csv")}

    return tree


def _with_sounds(build):
    def tree(root):
        for path in build(root):
            sound(path)
        return {"root": str(root)}

    return tree


def _classes(kind):
    return _with_sounds(lambda root: classification(root, kind))


LABELLED = {
    f.__name__: f
    for f in (esc50, audioset, speech_commands, envsdd, fsd50k, vocalsound, label_csv, fsdd, vggsound)
}
"""Corpora to fine-tune on: name to a function that builds the tree below a folder and returns the corpus' options."""

QUESTIONS = {f.__name__: f for f in (mmau, mmar, mmau_pro, mmsu, airbench, airbench_chat, muchomusic)}
"""Question benchmarks: name to a function that builds the tables and returns the recordings to make."""

TREES = {
    **LABELLED,
    **{name: _with_sounds(build) for name, build in QUESTIONS.items()},
    **{kind: _classes(kind) for kind in ("tut17", "dcase17", "beijing_opera")},
    "transcription": _spoken(text=("one", "two, three"), speaker=("s1", "s1")),
    "speech_translation": _spoken(translation=("one", "two, three"), language=("English", "French")),
    "emotion": _spoken(emotion=("sad", "happy"), speaker=("s1", "s2")),
    "spoken_qa": _spoken(answer=("four", "Paris"), topic=("sums", "towns")),
}
