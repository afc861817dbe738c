"""Encoders inside other people's test suites, each with the installed package."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.common.errors import AudioError, UserError
from benchmarks.encoder_suites import read_rows
from encoders import encoder_class, load_encoder
from encoders.audio import load_audio, save_wav

TONES = {"low": 250, "middle": 700, "high": 2000, "highest": 5000}


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridges") / "encoder"
    encoder_class("audiomosaic").tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Tones of four pitches in two folds, of different length."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    made = []
    for name, hz in TONES.items():
        for number in range(10):
            n_samples = 16000 + 800 * number
            phase = 2 * np.pi * hz * (1 + 0.02 * number) * np.arange(n_samples) / 16000
            wave = (0.3 * np.sin(phase) + 0.01 * random.standard_normal(n_samples)).astype(np.float32)
            save_wav(folder / f"{name}-{number}.wav", wave, 16000)
            made.append({"filename": f"{name}-{number}.wav", "fold": str(1 + number % 2), "category": name})
    with open(folder / "meta.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)
    assert len(read_rows(folder, 2)) == 16
    return read_rows(folder, 100)


def clip_features(encoder_dir, rows):
    """The feature of each recording by itself."""
    encoder = load_encoder(encoder_dir).eval()
    found = []
    for row in rows:
        wave = torch.from_numpy(load_audio(row["filename"], 16000))[None]
        with torch.no_grad():
            found.append(encoder(wave, torch.tensor([wave.shape[1]])).clip_features()[0].numpy())
    return np.stack(found)


def test_an_encoder_in_mteb(encoder_dir, rows):
    pytest.importorskip("mteb", reason="needs alm-toolkit[mteb]")
    pytest.importorskip("torchcodec", reason="needs alm-toolkit[mteb]")
    from datasets import Audio, Dataset
    from mteb.models import EncoderProtocol
    from torch.utils.data import DataLoader

    from benchmarks.encoder_suites import mteb_scores
    from eval.bridges.mteb_encoder import MtebEncoder

    first, second = mteb_scores(str(encoder_dir), rows)
    scores = first | second
    assert set(scores) == {"mteb/ESC50/accuracy", "mteb/ESC50Clustering/v_measure"}
    assert scores["mteb/ESC50/accuracy"] > 0.6  # chance is a quarter
    model = MtebEncoder(str(encoder_dir))
    assert isinstance(model, EncoderProtocol)
    table = Dataset.from_dict({"audio": [row["filename"] for row in rows[:5]]}).cast_column("audio", Audio())
    found = model.encode(DataLoader(table, batch_size=5))
    np.testing.assert_allclose(found, clip_features(encoder_dir, rows[:5]), atol=1e-5)
    model._encoder.forward = None  # known recordings are not encoded again, as in another fold
    np.testing.assert_array_equal(model.encode(DataLoader(table, batch_size=2)), found)
    np.testing.assert_allclose(np.diag(model.similarity(found, found)), 1, atol=1e-5)
    np.testing.assert_allclose(
        model.similarity_pairwise(found[:2], found[2:4]),
        np.diag(model.similarity(found[:2], found[2:4])),
        atol=1e-6,
    )


def test_mteb_keeps_the_results_of_other_weights_apart(encoder_dir, tmp_path):
    pytest.importorskip("mteb", reason="needs alm-toolkit[mteb]")
    from datasets import Dataset
    from torch.utils.data import DataLoader

    from eval.bridges.mteb_encoder import MtebEncoder

    other = encoder_class("audiomosaic").tiny()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    other.save_pretrained(tmp_path / "encoder")
    metas = [
        MtebEncoder(str(folder)).mteb_model_meta
        for folder in (encoder_dir, encoder_dir, tmp_path / "encoder")
    ]
    assert metas[0].revision == metas[1].revision != metas[2].revision
    assert metas[0].n_parameters == metas[2].n_parameters > 0
    with pytest.raises(UserError, match="task Named: has no audio"):
        text = DataLoader(Dataset.from_dict({"text": ["a"]}))
        MtebEncoder(str(encoder_dir)).encode(text, task_metadata=type("T", (), {"name": "Named"}))
    silent = Dataset.from_list([{"audio": {"array": [0.0] * 10, "sampling_rate": 16000}}])
    with pytest.raises(AudioError):
        MtebEncoder(str(encoder_dir)).encode(DataLoader(silent, batch_size=1))


def test_frames_for_xares_are_means_over_frequency(encoder_dir):
    from eval.bridges.xares_model import XaresModel

    class OtherEncoder(XaresModel):
        source = str(encoder_dir)

    model = OtherEncoder()
    waves = torch.randn(2, 24000, generator=torch.Generator().manual_seed(0)) / 10
    with torch.no_grad():
        out = model.encoder(waves, torch.tensor([24000, 24000]))
    n_time, n_freq = out.grid
    assert n_time != n_freq > 1
    wanted = [out.tokens[:, t * n_freq : (t + 1) * n_freq].mean(dim=1) for t in range(n_time)]
    torch.testing.assert_close(model(waves), torch.stack(wanted, dim=1))


def test_an_encoder_in_xares(encoder_dir, rows, tmp_path):
    pytest.importorskip("xares", reason="needs alm-toolkit[xares]")
    pytest.importorskip("torchcodec", reason="needs alm-toolkit[xares]")
    from xares.audio_encoder_checker import check_audio_encoder

    from benchmarks.encoder_suites import xares_scores
    from eval.bridges.xares_model import XaresModel

    class TinyEncoder(XaresModel):
        source = str(encoder_dir)

    model = TinyEncoder()
    assert check_audio_encoder(model)
    wave = load_audio(rows[0]["filename"], 16000)
    frames = model(torch.from_numpy(wave)[None])
    config = model.encoder.config
    assert frames.shape == (1, config.n_time_for(len(wave)), config.dim)
    assert model.hop_size_in_ms == 1000 / config.frame_rate_hz
    threads = torch.get_num_threads()
    scores = xares_scores("Tiny", str(encoder_dir), "esc50", rows, tmp_path)
    assert torch.get_num_threads() == threads
    assert set(scores) == {"xares/esc50/mlp", "xares/esc50/knn"}
    assert scores["xares/esc50/knn"] > 0.6  # chance is a quarter


def test_the_bench_of_suites_resumes_and_keeps_other_encoders_apart(tmp_path, rows, monkeypatch, capsys):
    """The suites themselves run in the tests above; what each is given, and when, is looked at here."""
    from benchmarks import encoder_suites

    asked, stops = [], [1, 4]

    def ask(*arguments):
        asked.append(arguments)
        if len(asked) - 1 in stops:
            raise KeyboardInterrupt

    def of_mteb(source, rows, options, tasks):
        for task in tasks:
            ask(source, rows, options, task)
            yield {f"mteb/{task}/score": 0.25}

    def of_xares(name, source, task, rows, folder, options):
        ask(source, rows, options, task)
        return {f"xares/{task}/mlp": 0.5}

    monkeypatch.setattr(encoder_suites, "mteb_scores", of_mteb)
    monkeypatch.setattr(encoder_suites, "xares_scores", of_xares)
    folder = str(Path(rows[0]["filename"]).parent)
    common = [str(tmp_path), "--esc10", folder, "--digits", folder, "--most", "2"]
    command = [*common, "W=whisper", "--options", "W={window_s: 6}"]
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            encoder_suites.main(command)
    assert encoder_suites.main(command) == 0
    tasks = ["ESC50", "ESC50Clustering", "ESC50Clustering", "esc50", "speechcommandsv1", "speechcommandsv1"]
    assert asked == [("whisper", read_rows(Path(folder), 2), {"window_s": 6}, task) for task in tasks]
    scores = {f"mteb/{task}/score": 0.25 for task in tasks[:2]}
    scores |= {"xares/esc50/mlp": 0.5, "xares/speechcommandsv1/mlp": 0.5}
    made = {"source": "whisper", "options": {"window_s": 6}, "scores": scores}
    assert json.loads((tmp_path / "encoder_suites.json").read_text()) == {"W": made}
    for wrong, said in (
        ([*common, "W=whisper"], "holds scores of another W"),
        ([*common, "V=whisper", "--options", "W={window_s: 6}"], "not asked for: W"),
    ):
        with pytest.raises(SystemExit):
            encoder_suites.main(wrong)
        assert said in capsys.readouterr().err


# ---- lmms-eval ----
LISTENER = """
import numpy as np

def ANSWERER(prompts):
    # Names a tone by counting where it crosses zero; guesses without a recording.
    said = []
    for prompt in prompts:
        clips = prompt.clips()
        assert prompt.messages[-1]["content"] == "<|audio|>" * len(clips) + "which tone"
        crossings = (np.diff(np.sign(clips[0])) != 0).mean() * 8000 if clips else 700
        said.append(min({names}, key=lambda name: abs({names}[name] - crossings)) + ". For sure.")
    return said
"""


def instance(number, **generation):
    from lmms_eval.api.instance import Instance

    arguments = ("which tone", generation, lambda doc: [doc["audio"]], number, "tones", "test")
    return Instance("generate_until", arguments, 0, {"task": "tones", "doc_id": number, "repeats": 1})


@pytest.fixture
def lmms_model(tmp_path):
    pytest.importorskip("lmms_eval", reason="needs alm-toolkit[lmms]")
    from eval.bridges.lmms_model import LmmsModel

    (tmp_path / "listener.py").write_text(LISTENER.replace("{names}", repr(TONES)))
    times = np.arange(8000) / 8000
    documents = [
        {"audio": {"array": 0.3 * np.sin(2 * np.pi * hz * times), "sampling_rate": 8000}, "answer": name}
        for name, hz in TONES.items()
        if hz < 4000
    ]

    def open_with(**options):
        model = LmmsModel(str(tmp_path / "listener.py"), batch_size=2, **options)
        model.task_dict = {"tones": {"test": documents}}
        return model

    return open_with, documents


def test_a_model_answers_lmms_eval_with_and_without_our_controls(lmms_model):
    open_with, documents = lmms_model
    requests = [instance(number, max_new_tokens=5, until=["."]) for number in range(len(documents))]
    names = [one["answer"] for one in documents]
    assert open_with().generate_until(requests) == names
    found = [json.loads(text) for text in open_with(controls="true").generate_until(requests)]
    assert [one["none"] for one in found] == names
    assert {one["no_audio"] for one in found} == {"middle"}
    assert all(
        one["other_clip"] != name and one["other_clip"] in names
        for one, name in zip(found, names, strict=True)
    )
    for options, message in (
        ({"do_sample": True}, "asks for sampling"),
        ({"num_beams": 3}, "asks for sampling or beams"),
    ):
        with pytest.raises(UserError, match=message):
            open_with().generate_until([instance(0, **options)])
    documents[0]["audio"] = "a picture"
    with pytest.raises(UserError, match="task tones, document 0: got a str, expected a recording"):
        open_with().generate_until(requests)
    with pytest.raises(UserError, match="by likelihood are not supported"):
        open_with().loglikelihood(requests)


def test_a_task_of_lmms_eval_scores_each_control_by_its_filter(lmms_model):
    """Through lmms-eval's own registry of models and pipelines of filters."""
    from lmms_eval.filters import build_filter_ensemble
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from eval.bridges.lmms_model import LmmsModel, manifest

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    assert registry.get_model_class("alm") is LmmsModel
    open_with, documents = lmms_model
    requests = [instance(number, max_new_tokens=5, until=["."]) for number in range(len(documents))]
    for request, said in zip(requests, open_with(controls=True).generate_until(requests), strict=True):
        request.resps.append(said)
    for control in ("none", "no_audio", "other_clip"):
        steps = [["alm_control", {"control": control}], ["take_first", None]]
        build_filter_ensemble(control, steps).apply(requests, documents)
    right = {
        control: [
            one.filtered_resps[control] == doc["answer"] for one, doc in zip(requests, documents, strict=True)
        ]
        for control in ("none", "no_audio", "other_clip")
    }
    assert all(right["none"]) and sum(right["no_audio"]) == 1 and not any(right["other_clip"])
    with pytest.raises(
        UserError, match="unknown control 'no-audio'; expected one of none, no_audio, other_clip"
    ):
        build_filter_ensemble("x", [["alm_control", {"control": "no-audio"}]])
    with pytest.raises(UserError, match="'a dog' holds no answer under 'none'; run the model with"):
        build_filter_ensemble("x", [["alm_control", {"control": "none"}]]).filters[0].apply(
            [["a dog"]], documents
        )
