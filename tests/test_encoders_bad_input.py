"""What is broken is refused with one clear error; what is merely quiet comes through finite."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alm.common.errors import AudioError, CheckpointError
from encoders import AudioMosaicEncoder, encoder_class, list_encoders, load_encoder
from encoders.checkpoint import read_weights


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_wrong_shaped_weights(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["patch_embed.proj.weight"] = torch.zeros(32, 1, 16, 8)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"mis-shaped patch_embed.proj.weight: \(32, 1, 16, 8\) for \(32, 1, 8, 16\); give the config",
    ):
        load_encoder(saved)


class _Malicious:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("name", ["last.pt", "last.bin", "last.pth"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "it-ran"
    torch.save({"model": {"a": torch.ones(1)}, "extra": _Malicious(proof)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="is not a plain state dict .*save model.state_dict"):
        read_weights(tmp_path / name)
    assert not proof.exists()
    torch.load(tmp_path / name, weights_only=False)  # the file does hold working code
    assert proof.exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_safetensors(saved: Path, part: float) -> None:
    file = saved / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read \(.*\); get it again"):
        load_encoder(saved)


@pytest.mark.parametrize("name", list_encoders())
def test_clip_shorter_than_one_frame(name: str) -> None:
    encoder = encoder_class(name).tiny()
    with pytest.raises(AudioError, match="clip 1 of the batch"):
        encoder(torch.zeros(2, 16000), torch.tensor([16000, 10]))


@pytest.mark.parametrize("amplitude", [0.0, 1e-20])
def test_silent_clips_are_finite(amplitude: float) -> None:
    encoder = AudioMosaicEncoder.tiny().train()
    silence = torch.full((2, 12000), amplitude)
    out = encoder(silence, torch.tensor([12000, 500]))
    assert out.tokens.isfinite().all() and out.prefix.isfinite().all()
    out.tokens.square().sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["audiomosaic", "beats", "logmel", "wav2vec2", "whisper"])
def test_nan_samples(name: str, bad: float) -> None:
    encoder = encoder_class(name).tiny()
    clips = 0.1 * torch.randn(3, 16000)
    clips[1, 8000] = bad
    lengths = torch.tensor([16000, 16000, 9000])
    with pytest.raises(AudioError, match="clip 1 of the batch: holds NaN or infinite samples; repair"):
        encoder(clips, lengths)
    clips[1, 8000] = 0.0
    clips[2, 9000:] = bad  # values past the clip's end are not read
    with torch.no_grad():
        assert encoder(clips, lengths).tokens.isfinite().all()
