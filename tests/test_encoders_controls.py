"""The controls: an untrained encoder that is the same for its seed, and an oracle that knows what it looks up."""

import json

import numpy as np
import pytest
import torch

from alm.cli import main
from alm.common.errors import AudioError, ConfigError
from encoders import encoder_class, load_encoder
from encoders.audio import load_audio, pad_batch, save_wav

SIZES = {"spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 2, "num_heads": 2}


def test_random_is_the_same_for_its_seed(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = load_encoder("random", seed=3, **SIZES)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(6)
    again, other = load_encoder("random", seed=3, **SIZES), load_encoder("random", seed=4, **SIZES)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same) and not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)
    first.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is encoder_class("random") and loaded.config == first.config


@pytest.fixture
def scenes(tmp_path):
    """Two composed scenes with sounds at known times, and their label table."""
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    lines = []
    for name, events in (
        ("s0", [("dog bark", 0.5, 0.3), ("bell", 1.0, 0.2)]),
        ("s1", [("bell", 0.0, 0.4)]),
    ):
        save_wav(tmp_path / f"audio/{name}.wav", 0.1 * rng.standard_normal(24000), 16000)
        rows = [{"kind": k, "onset_s": t, "duration_s": d, "gain_db": 0.0} for k, t, d in events]
        lines.append(json.dumps({"id": name, "duration_s": 1.5, "events": rows, "split": "train"}))
    (tmp_path / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    assert (
        main(["encoders", "labels", str(tmp_path / "scenes.jsonl"), "--out", str(tmp_path / "t.json")]) == 0
    )
    return tmp_path


def test_labels_are_where_the_sounds_are(scenes):
    oracle = load_encoder("labels", table=str(scenes / "t.json"), step_s=0.1, embed_dim=32)
    clips = [load_audio(scenes / f"audio/s{i}.wav", 16000) for i in range(2)]
    out = oracle(*pad_batch(clips))
    assert out.grid == (15, 1) and bool(out.mask.all())
    sounding = out.tokens.norm(dim=2) > 0
    assert sounding[0].nonzero()[:, 0].tolist() == [5, 6, 7, 10, 11]
    assert sounding[1].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    bell, dog = out.tokens[1, 0], out.tokens[0, 5]
    assert torch.equal(out.tokens[0, 10], bell) and not torch.allclose(dog, bell)
    again = load_encoder("labels", table=str(scenes / "t.json"), step_s=0.1, embed_dim=32)
    assert torch.equal(again(*pad_batch(clips)).tokens, out.tokens)


def test_an_unknown_clip_or_table_is_an_error(scenes):
    clip = load_audio(scenes / "audio/s0.wav", 16000)
    oracle = load_encoder("labels", table=str(scenes / "t.json"))
    with pytest.raises(AudioError, match="clip 1 of the batch is not in .*t.json"):
        oracle(*pad_batch([clip, clip[:-1]]))
    with pytest.raises(ConfigError, match="no table given"):
        load_encoder("labels")(*pad_batch([clip]))
    with pytest.raises(ConfigError, match="no such file; make it with alm encoders labels"):
        load_encoder("labels", table="none.json")(*pad_batch([clip]))
    with pytest.raises(ConfigError, match="made at 16000 Hz; expected 8000"):
        load_encoder("labels", table=str(scenes / "t.json"), sample_rate=8000)(*pad_batch([clip]))
    command = ["encoders", "labels", str(scenes / "scenes.jsonl"), "--out", str(scenes / "8.json")]
    assert main([*command, "--sample-rate", "8000"]) == 0
    clip = load_audio(scenes / "audio/s0.wav", 8000)
    out = load_encoder("labels", table=str(scenes / "8.json"), sample_rate=8000)(*pad_batch([clip]))
    assert out.tokens.norm() > 0


def test_recordings_have_one_label_throughout(scenes, capsys):
    (scenes / "labels.csv").write_text("filename,category,fold\naudio/s0.wav,dog,1\naudio/s1.wav,rain,2\n")
    table = str(scenes / "r.json")
    assert main(["encoders", "labels", str(scenes / "labels.csv"), "--out", table]) == 0
    assert "2 clips" in capsys.readouterr().out
    tokens = load_encoder("labels", table=table)(
        *pad_batch([load_audio(scenes / "audio/s1.wav", 16000)])
    ).tokens
    assert tokens.norm() > 0 and torch.equal(tokens[0, 0], tokens[0, -1])


def test_the_same_sound_with_two_labels_is_refused(scenes, capsys):
    (scenes / "audio/copy.wav").write_bytes((scenes / "audio/s0.wav").read_bytes())
    (scenes / "labels.csv").write_text("filename,category,fold\naudio/s0.wav,dog,1\naudio/copy.wav,rain,2\n")
    assert main(["encoders", "labels", str(scenes / "labels.csv"), "--out", str(scenes / "r.json")]) == 2
    assert "with other labels" in capsys.readouterr().err
