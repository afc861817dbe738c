"""What all tokens of an encoder share is subtracted before a new projector, where it dominates them."""

import pytest
import torch
from survival import assert_bit_equal, of_stage

from alm.checkpoint import load_model
from encoders import load_encoder
from encoders.audio import load_audio, pad_batch
from train.engine.trainer import StageTrainer
from train.pipeline.runner import run_stage

SAID = "align: the mean of the encoder's tokens"


@pytest.fixture(scope="module")
def shifted(parts, tmp_path_factory):
    """The tiny encoder with a constant added to every token, many times what they differ by."""
    folder = tmp_path_factory.mktemp("shifted") / "encoder"
    encoder = load_encoder(str(parts["encoder"]))
    with torch.no_grad():
        encoder.blocks[-1].mlp.fc2.bias += torch.linspace(-40, 40, encoder.config.dim)
    encoder.save_pretrained(folder)
    return parts | {"encoder": folder}


def mean_token(encoder, data):
    """Mean over the tokens of all clips of the data, each weighed alike."""
    clips = [load_audio(data / "audio" / f"{number}.wav", 16000) for number in range(7)]
    waveforms, lengths = pad_batch(clips)
    with torch.no_grad():
        out = encoder.eval()(waveforms, lengths)
    return out.tokens[out.mask].mean(dim=0)


@pytest.mark.parametrize("cached", [True, False])
def test_a_dominating_mean_is_subtracted(cached, data, shifted, tmp_path, capsys):
    """Measured on cached tokens as on live ones, and kept by the next stage."""
    given = {"data": {"cache_features": cached, "augment": {}}, "optim": {"steps": 1}}
    model = load_model(run_stage(of_stage("align", data, tmp_path / "align", shifted, **given)))
    assert SAID in capsys.readouterr().out
    assert model.projector.config.centred and model.config.projector["centred"] is True
    torch.testing.assert_close(model.projector.centre, mean_token(model.encoder, data), rtol=1e-4, atol=1e-3)
    after = of_stage("instruct", data, tmp_path / "next", shifted | {"aligned": tmp_path / "align/model"},
                     optim={"steps": 1}, policy={"encoder": "frozen"})  # fmt: skip
    kept = load_model(run_stage(after)).projector
    assert torch.equal(kept.centre, model.projector.centre) and SAID not in capsys.readouterr().out


def test_the_option_decides(data, parts, shifted, tmp_path, capsys):
    for name, given, options, expected in (
        ("usual", parts, {}, False),
        ("wanted", parts, {"centred": True}, True),
        ("unwanted", shifted, {"centred": False}, False),
    ):
        run = of_stage("align", data, tmp_path / name, given, optim={"steps": 1}, projector_options=options)
        model = load_model(run_stage(run))
        assert (model.projector.centre is not None) == expected, name
        assert (SAID in capsys.readouterr().out) == expected, name


@pytest.mark.parametrize("options", [{}, {"scaled": False}, {"centred": False}])
def test_the_parts_of_a_fusion_are_judged_one_by_one(options, data, parts, shifted, tmp_path, capsys):
    """One part's mean dominates that part and not the token; both parts deviate alike afterwards."""
    fusion = {"fusion": "concat", "parts": [str(parts["encoder"]), str(shifted["encoder"])]}
    given = parts | {"encoder": fusion}
    set_up = {"data": {"augment": {}}, "optim": {"steps": 1}, "projector_options": options}
    model = load_model(run_stage(of_stage("align", data, tmp_path / "run", given, **set_up)))
    projector, encoder = model.projector, model.encoder.eval()
    if options == {"centred": False}:
        assert projector.centre is None and projector.scale is None and SAID not in capsys.readouterr().out
        return
    mean = mean_token(encoder, data)
    torch.testing.assert_close(projector.centre, mean, rtol=1e-4, atol=1e-3)
    waveforms, lengths = pad_batch([load_audio(data / "audio" / f"{n}.wav", 16000) for n in range(7)])
    with torch.no_grad():
        out = encoder(waveforms, lengths)
    moved = out.tokens[out.mask] - mean
    half = moved.shape[1] // 2
    before = [part.square().mean().sqrt() for part in moved.split(half, dim=1)]
    assert before[0] > 3 * before[1], "LayerNorm of the large constant leaves little"
    if options == {"scaled": False}:
        assert projector.scale is None and "scaled to" not in capsys.readouterr().out
        return
    after = [part.square().mean().sqrt() for part in (moved * projector.scale).split(half, dim=1)]
    torch.testing.assert_close(torch.stack(after), torch.ones(2), rtol=1e-3, atol=0)
    assert "its parts are scaled to equal deviation" in capsys.readouterr().out


def test_a_resumed_run_is_bit_equal(data, shifted, tmp_path, monkeypatch):
    runs = [
        of_stage("align", data, tmp_path / name, shifted, optim={"steps": 4}) for name in ("whole", "resumed")
    ]
    run_stage(runs[0])
    step = StageTrainer.training_step

    def stopped(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stage(runs[1])
    monkeypatch.setattr(StageTrainer, "training_step", step)
    run_stage(runs[1])
    assert_bit_equal(runs[1], runs[0])
