"""Every encoder the registry finds keeps the contract, and encoders that break it are told how."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import encoders
from encoders import AudioEncoder, AudioMosaicEncoder, AudioTokens
from encoders.conformance import CHECKS, ConformanceError, NotApplicable, run_checks


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", encoders.list_encoders())
def test_encoder_keeps_the_contract(name: str, check: str) -> None:
    encoder = encoders.encoder_class(name).tiny()
    try:
        CHECKS[check](encoder)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_the_suite_covers_the_known_encoders() -> None:
    known = "ast audiomae audiomosaic beats clap dasheng data2vec eat hubert labels logmel qwen2_audio random"
    assert {*known.split(), "wav2vec2", "wavlm", "whisper"} <= set(encoders.list_encoders())
    results = run_checks(encoders.encoder_class("logmel").tiny())
    assert [result.name for result in results] == list(CHECKS)
    assert {result.status for result in results} == {"passed", "skipped"}


@pytest.mark.parametrize("name", encoders.list_encoders())
def test_tiny_leaves_the_global_generator_alone_and_repeats(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = encoders.encoder_class(name).tiny(seed=3)
    assert torch.equal(torch.rand(3), expected)
    second = encoders.encoder_class(name).tiny(seed=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", encoders.list_encoders())
def test_every_weight_learns_and_half_precision_works(name: str) -> None:
    encoder = encoders.encoder_class(name).tiny().train()
    n = int(1.7 * encoder.config.sample_rate)
    wave = 0.1 * torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([n, n // 2])
    tokens = encoder(wave, lengths).tokens
    if tokens.requires_grad:
        tokens.square().sum().backward()
        heads = ("fc_norm.", "projector.")  # AudioMosaic's own, behind the tokens
        if name == "layers":  # around an AudioMosaic
            heads = tuple(f"encoder.{head}" for head in heads)
        dry = [k for k, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
        assert all(key.startswith(heads) and name in ("audiomosaic", "random", "layers") for key in dry), dry
    half = encoder.eval().to(torch.bfloat16)
    with torch.no_grad():
        out = half(wave, lengths).tokens
    assert torch.isfinite(out).all() and out.abs().sum() > 0 or not encoder.uses_audio


class TransposedGrid(AudioMosaicEncoder):
    """Hands each window's tokens out frequency-major."""

    def forward_mel(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        tokens = super().forward_mel(mel, keep)
        turned = tokens[:, 1:].unflatten(1, self.config.grid).transpose(1, 2).flatten(1, 2)
        return torch.cat([tokens[:, :1], turned], dim=1)


class AlwaysTraining(AudioMosaicEncoder):
    """Follows its parent into training mode although it is frozen."""

    def train(self, mode: bool = True) -> "AlwaysTraining":
        return nn.Module.train(self, mode)


class MovingStatistics(AudioMosaicEncoder):
    """Normalises its tokens with a BatchNorm that a frozen encoder still updates."""

    def __init__(self, config=None) -> None:
        super().__init__(config)
        self.extra = nn.BatchNorm1d(self.config.embed_dim)

    def train(self, mode: bool = True) -> "MovingStatistics":
        super().train(mode)
        self.extra.train(mode)
        return self

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        out = super().forward(waveform, lengths)
        self.extra(out.tokens.flatten(0, 1))
        return out


class WrongMask(AudioMosaicEncoder):
    """Calls the padding of short clips audio."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        out = super().forward(waveform, lengths)
        return AudioTokens(out.tokens, torch.ones_like(out.mask), out.grid, out.prefix)


class HalfTheClip(AudioMosaicEncoder):
    """Hears the first half of every clip only."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        half = torch.arange(waveform.shape[1])[None] < (lengths // 2)[:, None]
        return super().forward(waveform * half, lengths)


class SeesPadding(AudioMosaicEncoder):
    """Normalises by the loudest sample of the whole batch."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        return super().forward(waveform / waveform.abs().max(), lengths)


class NoGradient(AudioMosaicEncoder):
    """Runs its first block without gradients."""

    def forward_mel(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        handle = self.blocks[0].register_forward_hook(lambda module, args, out: out.detach())
        try:
            return super().forward_mel(mel, keep)
        finally:
            handle.remove()


class ForgetsState(AudioMosaicEncoder):
    """Scales its tokens by something it does not save."""

    def __init__(self, config=None) -> None:
        super().__init__(config)
        self.secret = float(torch.rand(()))

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        out = super().forward(waveform, lengths)
        return AudioTokens(out.tokens * self.secret, out.mask, out.grid)


class ReversedWindows(AudioMosaicEncoder):
    """Stitches the windows of a long clip in the wrong order."""

    def forward_mel(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        return super().forward_mel(mel.flip(0), keep)


def zoo(name: str, **members) -> type[AudioEncoder]:
    """An encoder of the zoo with some members replaced."""
    return type(f"Broken{name.title()}", (encoders.encoder_class(name),), members)


def frequency_major(self, waveform: Tensor, lengths: list[int]):
    """AST's patches in the order its model has them."""
    tokens, prefix = type(self).__mro__[1].encode_windows(self, waveform, lengths)
    return tokens.transpose(1, 2).flatten(1, 2).unflatten(1, tokens.shape[1:3]), prefix


def counts_the_padding(self, lengths: Tensor) -> list[int]:
    """Every clip is as long as a window: Whisper's 1500 tokens whatever was said."""
    return [self.config.steps_per_window * -(-n // self.config.window_samples) for n in lengths.tolist()]


def first_window_only(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    """Longer clips than a window are cut off, as the feature extractors do, and called whole."""
    places = torch.arange(waveform.shape[1])
    return type(self).__mro__[1].forward(self, waveform * (places < self.config.window_samples), lengths)


def one_step_short(self, waveform: Tensor, lengths: list[int]):
    """Unpadded convolutions leave 49 steps of a second, counted as 50."""
    tokens, prefix = type(self).__mro__[1].encode_windows(self, waveform, lengths)
    return tokens[:, : self.config.steps_per_window - 1], prefix


def miscounting(steps: int) -> type[AudioEncoder]:
    """Log-mel whose config, mask and tokens agree on a wrong number of time steps."""
    logmel = encoders.encoder_class("logmel")

    class MiscountedConfig(logmel.config_class):
        def n_time_for(self, n_samples: int) -> int:
            return max(1, super().n_time_for(n_samples) + steps)

    def tiny(cls: type[AudioEncoder]) -> AudioEncoder:
        return cls(MiscountedConfig(**dataclasses.asdict(logmel.tiny().config))).eval()

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        out = logmel.forward(self, waveform, lengths)
        return AudioTokens((out.tokens + 1) * out.mask[..., None], out.mask, out.grid)

    return zoo("logmel", tiny=classmethod(tiny), forward=forward)


def end_cut_off(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    """The last time step of every clip is silence."""
    step = round(self.config.sample_rate / self.config.frame_rate_hz)
    heard = torch.arange(waveform.shape[1])[None] < (lengths - step)[:, None]
    return type(self).__mro__[1].forward(self, waveform * heard, lengths)


def halves(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    """Tokens of half the precision of the weights."""
    out = type(self).__mro__[1].forward(self, waveform, lengths)
    return AudioTokens(out.tokens.half(), out.mask, out.grid)


def whole_clip_mean(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    """Normalises over all of a clip."""
    out = type(self).__mro__[1].forward(self, waveform, lengths)
    mean = out.clip_features()[:, None]
    return AudioTokens((out.tokens - mean) * out.mask[..., None], out.mask, out.grid)


def seeds(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    """Is repeatable at the cost of everybody else's random numbers."""
    torch.manual_seed(0)
    return type(self).__mro__[1].forward(self, waveform, lengths)


def raises(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("broken", "check", "diagnosis"),
    [
        (zoo("ast", encode_windows=frequency_major), "time_localisation", "the grid is transposed"),
        (zoo("whisper", check_lengths=counts_the_padding), "valid_length", "longest clip's n_time_for"),
        (zoo("whisper", forward=first_window_only), "time_localisation", "part of the clip is ignored"),
        (zoo("clap", forward=first_window_only), "time_localisation", "part of the clip is ignored"),
        (zoo("hubert", encode_windows=one_step_short), "valid_length", "time steps that have no tokens"),
        (zoo("wav2vec2", pads=True), "padding_invariance", "sees the padding"),
        (zoo("data2vec", pads=True), "padding_invariance", "sees the padding"),
        (zoo("wavlm", lora_targets=("q_proj", "output_dense")), "lora_reach", "no gradient reaches 4 of 8"),
        (
            zoo("dasheng", train=nn.Module.train),
            "fixed_statistics",
            "init_bn.1 normalises by batch statistics",
        ),
        (
            zoo("dasheng", train=nn.Module.train),
            "fixed_statistics",
            "full training, .* init_bn.1.running_mean",
        ),
        (
            zoo("clap", train=nn.Module.train),
            "fixed_statistics",
            "a forward pass changes model.*running_mean",
        ),
        (MovingStatistics, "fixed_statistics", "changes extra.running_mean"),
        (miscounting(1), "valid_length", "frame_rate_hz says about"),
        (miscounting(-2), "valid_length", "frame_rate_hz says about"),
        (zoo("audiomosaic", forward=end_cut_off), "valid_length", "or its end is cut off"),
        (zoo("whisper", forward=end_cut_off), "valid_length", "or its end is cut off"),
        (zoo("logmel", forward=seeds), "determinism", "seeds torch's global generator"),
        (
            zoo("audiomosaic", forward=halves),
            "valid_length",
            "tokens are torch.float16, the weights torch.float32",
        ),
        (zoo("logmel", forward=whole_clip_mean), "window_stitching", "tokens depend on more than clip_s"),
        (TransposedGrid, "time_localisation", "the grid is transposed"),
        (AlwaysTraining, "eval_purity", "dropout, drop path or batch statistics are active"),
        (MovingStatistics, "eval_purity", "changes extra.running_mean"),
        (WrongMask, "valid_length", "mask of a"),
        (HalfTheClip, "time_localisation", "part of the clip is ignored"),
        (SeesPadding, "padding_invariance", "sees the padding"),
        (SeesPadding, "batch_invariance", "some statistic spans the batch"),
        (NoGradient, "lora_reach", "no gradient reaches 8 of 16 adapters"),
        (ForgetsState, "save_load", "some state is not saved"),
        (ReversedWindows, "window_stitching", "stitched wrongly"),
        (ReversedWindows, "time_localisation", "not in time order"),
    ],
)
def test_a_broken_encoder_is_caught(broken: type[AudioEncoder], check: str, diagnosis: str) -> None:
    with pytest.raises(ConformanceError, match=diagnosis) as caught:
        CHECKS[check](broken.tiny())
    assert caught.value.check == check


def test_full_tuning_of_dasheng_normalises_by_the_pretrained_statistics() -> None:
    encoder = encoders.encoder_class("dasheng").tiny()
    norm = encoder.init_bn[1]
    norm.running_mean.uniform_(-60, -20, generator=torch.Generator().manual_seed(1))
    norm.running_var.uniform_(100, 400, generator=torch.Generator().manual_seed(2))
    kept = norm.running_mean.clone(), norm.running_var.clone()
    wave = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[0.3], [0.1], [0.01]]
    )
    lengths = torch.tensor([16000, 9000, 9000])  # two groups of windows of equal length
    with torch.no_grad():
        expected = encoder(wave, lengths).tokens
    parent = nn.ModuleDict({"encoder": encoder, "rest": nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.0)
    for _ in range(4):
        tokens = parent.train()["encoder"](wave, lengths).tokens
        tokens.square().mean().backward()
        optimizer.step()
        assert torch.equal(tokens, expected)
    assert torch.equal(norm.running_mean, kept[0]) and torch.equal(norm.running_var, kept[1])
    assert encoder.training and norm.weight.grad.abs().sum() > 0  # its weights do train


def test_the_contrastive_head_of_audiomosaic_still_learns_its_statistics() -> None:
    encoder = AudioMosaicEncoder.tiny().train()
    before = encoder.projector[1].running_mean.clone()
    encoder.embed_head(torch.randn(8, 32, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(encoder.projector[1].running_mean, before)


def test_whatever_an_encoder_raises_is_a_finding_with_its_place() -> None:
    results = run_checks(zoo("logmel", forward=raises).tiny())
    failed = [result for result in results if result.status == "failed"]
    assert len(failed) >= 7
    assert all("raises RuntimeError (mat1 and mat2" in result.message for result in failed)
    assert all("test_encoders_contract.py:" in result.message for result in failed)


def test_random_evaluation_is_caught() -> None:
    encoder = AudioMosaicEncoder.tiny()
    encoder.blocks[0].drop_path1.train().rate = 0.5
    with pytest.raises(ConformanceError, match="still random"):
        for _ in range(5):
            CHECKS["determinism"](encoder)


def test_an_encoder_may_hear_the_whole_clip_at_once() -> None:
    logmel = encoders.encoder_class("logmel")

    class WholeClipConfig(logmel.config_class):
        clip_s = math.inf

    def tiny(cls: type[AudioEncoder]) -> AudioEncoder:
        return cls(WholeClipConfig(**dataclasses.asdict(logmel.tiny().config))).eval()

    members = {"tiny": classmethod(tiny), "forward": whole_clip_mean, "config_class": WholeClipConfig}
    results = run_checks(zoo("logmel", **members).tiny())
    assert {result.name: result.status for result in results if result.status != "passed"} == {
        "lora_reach": "skipped",
        "window_stitching": "skipped",
    }, results
