"""Checks that an encoder keeps the contract of `AudioEncoder`; each failure has a diagnosis.

Every check takes an encoder in evaluation mode, does not change it, and raises `ConformanceError` if the contract is
broken. `run_checks` runs them all.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from alm.common.errors import UserError
from alm.common.peft_import import adapters_without_bitsandbytes, bitsandbytes_on_use
from encoders.base import AudioEncoder, AudioTokens

# Largest difference between two ways of computing the same tokens, as a part of the tokens' own scale. Only the
# order of additions in a kernel may differ.
_TOLERANCE = 1e-3
_QUIET = 0.01  # amplitude of the background noise
_LOUD = 0.5  # amplitude of the burst that must be found again
# Smallest change of tokens by sound at the very end of a clip, as a part of the usual change: unpadded convolutions
# cover only the beginning of the last step (measured: a tenth to a half of the usual change).
_FAINT = 0.05

Probe = Callable[[int, int, int], tuple[Tensor, Tensor]]
"""Takes the samples of a clip, and start and width of an interval; returns two clips (S,) that differ only there."""


class ConformanceError(Exception):
    """An encoder breaks its contract; names the check and the probable cause."""

    def __init__(self, check: str, diagnosis: str) -> None:
        super().__init__(f"{check}: {diagnosis}")
        self.check = check
        self.diagnosis = diagnosis


class NotApplicable(Exception):
    """A check does not apply to this encoder."""


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check."""

    name: str
    status: str
    """passed, failed or skipped."""
    message: str
    seconds: float


def run_checks(encoder: AudioEncoder) -> list[CheckResult]:
    """Run every check on an encoder and collect the outcomes."""
    results = []
    for name, check in CHECKS.items():
        start = time.perf_counter()
        status, message = "passed", ""
        try:
            check(encoder)
        except ConformanceError as error:
            status, message = "failed", error.diagnosis
        except NotApplicable as reason:
            status, message = "skipped", str(reason)
        except Exception as error:  # a user's encoder may raise anything; report it as a finding
            status, message = "failed", f"raises {describe_error(error)}"
        results.append(CheckResult(name, status, message, time.perf_counter() - start))
    return results


def check_padding_invariance(encoder: AudioEncoder) -> None:
    """A clip alone has the same tokens as in a batch beside longer clips, whatever the padding holds."""
    full = _samples(encoder, 2.5)
    lengths = [full, int(full * 0.37), int(full * 0.71) + 13]
    clips = [_noise(n, seed=n) for n in lengths]
    batch = _noise(full, seed=1).repeat(3, 1)  # padding holds noise, not zeros: lengths alone must decide
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = _encode(encoder, batch, lengths)
    for row, clip in enumerate(clips):
        alone = _encode(encoder, clip[None], [len(clip)])
        _require_close(
            alone.tokens[0][alone.mask[0]],
            together.tokens[row][together.mask[row]],
            "padding_invariance",
            f"tokens of a {_seconds(encoder, len(clip))} clip change when it is padded beside a longer one: "
            "attention, a normalisation or the front end sees the padding",
        )


def check_batch_invariance(encoder: AudioEncoder) -> None:
    """A clip's tokens do not depend on its neighbours or its place in the batch."""
    n = _samples(encoder, 1.3)
    batch = torch.stack([_noise(n, seed=seed, amplitude=0.02 * 2**seed) for seed in range(4)])
    together = _encode(encoder, batch, [n] * 4)
    turned = _encode(encoder, batch.flip(0), [n] * 4)
    first = _encode(encoder, batch[:1], [n])
    message = "tokens of a clip change with its neighbours in the batch: some statistic spans the batch"
    _require_close(together.tokens, turned.tokens.flip(0), "batch_invariance", message)
    _require_close(together.tokens[:1], first.tokens, "batch_invariance", message)


def check_eval_purity(encoder: AudioEncoder) -> None:
    """A frozen encoder inside a training model computes the same tokens as in evaluation, and changes no state."""
    frozen = copy.deepcopy(encoder)
    n = _samples(encoder, 1.0)
    wave = torch.stack([_noise(n, seed=seed) for seed in range(3)])
    expected = _encode(frozen.eval(), wave, [n] * 3).tokens
    parent = nn.ModuleDict({"encoder": frozen.freeze(), "rest": nn.Linear(2, 2)})
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    for how, start in (("its parent's .train()", parent.train), (".train()", frozen.train)):
        start()
        with torch.enable_grad():
            tokens = frozen(wave, torch.tensor([n] * 3)).tokens
            again = frozen(wave, torch.tensor([n] * 3)).tokens
        if tokens.requires_grad:
            raise ConformanceError(
                "eval_purity", "a frozen encoder still has parameters that require gradients"
            )
        for got in (tokens, again):
            _require_close(
                expected,
                got,
                "eval_purity",
                f"after {how} a frozen encoder computes other tokens: dropout, drop path or batch statistics "
                "are active",
            )
        moved = [key for key, value in frozen.state_dict().items() if not torch.equal(value, before[key])]
        if moved:
            raise ConformanceError("eval_purity", f"after {how} a forward pass changes {', '.join(moved)}")


def check_valid_length(encoder: AudioEncoder) -> None:
    """Mask, grid, width and frame rate agree with the config for clips of many lengths."""
    config, full = encoder.config, _samples(encoder, 2.5)
    step = config.sample_rate / config.frame_rate_hz  # samples
    lengths = sorted(
        {int(full * part) + odd for part, odd in ((1, 0), (0.8, 1), (0.51, -1), (0.4, 7), (0.2, 0))}
        | {round((int(full * part / step) + 0.5) * step) for part in (0.3, 0.7)}  # half a step more or less
    )
    given = _call(encoder, torch.stack([_noise(full, seed=2)] * len(lengths)), lengths)
    out = _on_cpu(given)

    def fail(diagnosis: str) -> None:
        raise ConformanceError("valid_length", diagnosis)

    steps = [config.n_time_for(n) for n in lengths]
    grid = (max(steps), config.n_freq)
    if out.grid != grid:
        fail(f"grid is {out.grid}; the longest clip's n_time_for and the config's n_freq say {grid}")
    if out.tokens.shape != (len(lengths), out.grid[0] * out.grid[1], config.dim):
        fail(
            f"tokens have shape {tuple(out.tokens.shape)}; grid {out.grid} and width {config.dim} say otherwise"
        )
    if out.mask.shape != out.tokens.shape[:2] or out.mask.dtype != torch.bool:
        fail(f"mask is {out.mask.dtype} {tuple(out.mask.shape)}; expected bool {tuple(out.tokens.shape[:2])}")
    for row, (n, valid) in enumerate(zip(lengths, steps, strict=True)):
        wanted = torch.arange(out.grid[0]).repeat_interleave(out.grid[1]) < valid
        if not torch.equal(out.mask[row].cpu(), wanted):
            fail(
                f"mask of a {_seconds(encoder, n)} clip is True for {int(out.mask[row].sum())} tokens; n_time_for "
                f"says the first {int(wanted.sum())} ({valid} time steps of {config.n_freq})"
            )
        expected = n / config.sample_rate * config.frame_rate_hz
        # A partly filled last step may count or not; a front end that pads both ends may add one step.
        if not expected - 2 <= valid <= math.floor(expected + 1e-6) + 1:
            fail(
                f"a {_seconds(encoder, n)} clip has {valid} time steps; frame_rate_hz says about {expected:.1f}"
            )
    weights = next((p for p in encoder.parameters() if p.is_floating_point()), torch.zeros(()))
    if given.tokens.dtype != weights.dtype:
        fail(
            f"tokens are {given.tokens.dtype}, the weights {weights.dtype}: a projector of the weights' precision "
            "refuses them"
        )
    if not torch.isfinite(out.tokens).all():
        fail("tokens hold NaN or infinite values")
    if out.tokens[~out.mask].abs().sum() != 0:
        fail("tokens outside the mask are not zero")
    empty = out.mask & (out.tokens == 0).all(dim=2)
    if encoder.uses_audio and empty.any():
        row, token = empty.nonzero()[0].tolist()
        at = token // out.grid[1] / config.frame_rate_hz
        fail(
            f"{int(empty.sum())} tokens inside the mask are zero, the first at {at:.2f} s of a "
            f"{_seconds(encoder, lengths[row])} clip of noise: n_time_for counts time steps that have no tokens"
        )
    if encoder.uses_audio:
        for windows in (1, 2.5):
            _require_end_encoded(encoder, windows, fail)


def _require_end_encoded(encoder: AudioEncoder, windows: float, fail: Callable[[str], None]) -> None:
    """Sound in the last time step of a clip changes tokens, at least by a small part of the usual change."""
    config = encoder.config
    step = config.sample_rate / config.frame_rate_hz  # samples
    steps = math.ceil(_samples(encoder, windows) / step - 1e-6)
    n = round(steps * step)
    inside = _response(encoder, n, round(steps // 2 * step), _other_noise, config.timed_dims).max()
    end = _response(encoder, n, n - round(step), _other_noise, config.timed_dims).max()
    if end < _FAINT * inside:
        fail(
            f"sound in the last {1 / config.frame_rate_hz:.3g} s of a {_seconds(encoder, n)} clip changes no token: "
            "fewer time steps are counted than the clip has, or its end is cut off"
        )


def check_time_localisation(encoder: AudioEncoder) -> None:
    """Sound at second t changes the tokens that cover t most, anywhere in the clip.

    A loud burst in a quiet clip is tried first. Encoders that normalise over the whole clip change everywhere
    then; they get a second chance with noise that gives way to other noise of the same level.
    """
    if not encoder.uses_audio:
        raise NotApplicable("the encoder looks its tokens up in a table")
    # One window first, where a transposed grid is easy to name.
    within = _samples(encoder, 1) / encoder.config.sample_rate
    for clip_s in (within, 2.5 * within):
        diagnosis = _mislocated(encoder, clip_s, _burst)
        if diagnosis and _mislocated(encoder, clip_s, _other_noise):
            raise ConformanceError("time_localisation", diagnosis)


def _mislocated(encoder: AudioEncoder, clip_s: float, probe: Probe) -> str:
    """Diagnosis of where a probe's sound changes tokens; empty if the place is right."""
    rate = encoder.config.frame_rate_hz
    n = round(clip_s * encoder.config.sample_rate)
    steps = encoder.config.n_time_for(n)
    # Not the last step: a clip may end inside it, with too little of the sound left.
    wanted = sorted({round((steps - 2) * i / 6) for i in range(7)})
    width = round(encoder.config.sample_rate / rate)
    # (sounds, n_time, n_freq)
    response = torch.stack([_response(encoder, n, step * width, probe) for step in wanted])
    by_step = response.sum(dim=2)
    loudest = by_step.amax(dim=1)
    unheard = [s for s, change in zip(wanted, loudest, strict=True) if change <= 1e-3 * loudest.max()]
    if unheard:
        return (
            f"sound at second {', '.join(f'{(s + 0.5) / rate:.2f}' for s in unheard)} of a {clip_s:.2f} s clip "
            "changes no token: part of the clip is ignored"
        )
    found = by_step.argmax(dim=1).tolist()
    wrong = [(w, f) for w, f in zip(wanted, found, strict=True) if abs(w - f) > 1]
    if not wrong:
        return ""
    turned = response.flatten(1).unflatten(1, response.shape[:0:-1]).sum(dim=1)  # read frequency-major
    agrees = sum(abs(w - int(f)) <= 1 for w, f in zip(wanted, turned.argmax(dim=1), strict=True))
    examples = "; ".join(f"{(w + 0.5) / rate:.2f} s shows at {(f + 0.5) / rate:.2f} s" for w, f in wrong)
    hint = (
        "tokens are frequency-major: the grid is transposed"
        if agrees == len(wanted)
        else "tokens are not in time order"
    )
    return f"sound at {examples} of a {clip_s:.2f} s clip; {hint}"


def check_determinism(encoder: AudioEncoder) -> None:
    """Two passes over the same audio give the same tokens, bit for bit, and do not seed torch's generator."""
    n = _samples(encoder, 1.4)
    wave = _noise(n, seed=5)[None]
    passes, states = [], []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            passes.append(_encode(encoder, wave, [n]).tokens)
            states.append(torch.get_rng_state())
    if not torch.equal(*passes):
        raise ConformanceError(
            "determinism", "two passes in evaluation mode differ: something is still random"
        )
    if torch.equal(*states):
        raise ConformanceError(
            "determinism",
            "a pass seeds torch's global generator, so random numbers of the training repeat; use a separate "
            "torch.Generator",
        )


def check_save_load(encoder: AudioEncoder) -> None:
    """Saved and loaded again, config, weights and tokens are equal."""
    n = _samples(encoder, 1.4)
    wave = _noise(n, seed=6)[None]
    with tempfile.TemporaryDirectory() as folder:
        try:
            encoder.save_pretrained(folder)
            loaded = type(encoder).from_pretrained(folder)
        except UserError as error:
            raise ConformanceError(
                "save_load", f"what save_pretrained writes does not load: {error}"
            ) from error
    if loaded.config != encoder.config:
        raise ConformanceError("save_load", f"config changes: {encoder.config} comes back as {loaded.config}")
    loaded.to(wave.device)
    if not torch.equal(_encode(encoder, wave, [n]).tokens, _encode(loaded, wave, [n]).tokens):
        raise ConformanceError("save_load", "tokens of the loaded encoder differ: some state is not saved")


def check_lora_reach(encoder: AudioEncoder) -> None:
    """LoRA adapters on `lora_targets` all get gradients, the first block's included."""
    linears = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    if not encoder.lora_targets:
        if linears:
            raise ConformanceError(
                "lora_reach", f"lora_targets is empty but there are Linear modules: {linears[:3]}"
            )
        raise NotApplicable("the encoder has no Linear modules to adapt")
    unused = [t for t in encoder.lora_targets if not any(f".{name}".endswith(f".{t}") for name in linears)]
    if unused:
        raise ConformanceError("lora_reach", f"lora_targets {unused} name no Linear module")
    adapted = _with_adapters(copy.deepcopy(encoder).freeze())
    n = _samples(encoder, 1.4)
    with torch.enable_grad():
        out = adapted(_noise(n, seed=7)[None], torch.tensor([n]))
        direction = torch.randn(out.tokens.shape, generator=torch.Generator().manual_seed(8))
        if not out.tokens.requires_grad:
            raise ConformanceError(
                "lora_reach", "tokens carry no gradient: forward runs under no_grad or detaches"
            )
        (out.tokens * direction).sum().backward()
    adapters = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    dry = [name for name, p in adapters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    if dry:
        raise ConformanceError(
            "lora_reach", f"no gradient reaches {len(dry)} of {len(adapters)} adapters: {dry[:3]}"
        )
    thawed = [name for name, p in adapted.named_parameters() if p.requires_grad and name not in adapters]
    if thawed:
        raise ConformanceError(
            "lora_reach", f"parameters other than the adapters are trainable: {thawed[:3]}"
        )


def check_fixed_statistics(encoder: AudioEncoder) -> None:
    """Training the encoder, in full or through LoRA adapters, changes none of its buffers and uses no batch statistics.

    BatchNorm in training mode would normalise every batch by its own statistics and overwrite the pretrained ones.
    """
    full = _samples(encoder, 1.4)
    lengths = [full, full, full // 2]
    wave = torch.stack([_noise(full, seed=seed, amplitude=0.02 * 3**seed) for seed in range(3)])
    for how in ("full training", "LoRA training"):
        trained = copy.deepcopy(encoder)
        if how == "LoRA training":
            if not encoder.lora_targets:
                continue
            trained = _with_adapters(trained)
        trained.train()
        learned = tuple(f"{name}." for name in trained.learned_statistics)
        buffers = {key: value.clone() for key, value in trained.named_buffers()}
        by_batch: list[str] = []

        def note(module: nn.Module, _given: object, _out: object, *, name: str, found: list[str]) -> None:
            if module.training:
                found.append(name)

        for name, module in trained.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not f"{name}.".startswith(learned):
                module.register_forward_hook(partial(note, name=name, found=by_batch))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            trained(wave, torch.tensor(lengths))
        moved = [key for key, value in trained.named_buffers() if not torch.equal(value, buffers[key])]
        if moved or by_batch:
            raise ConformanceError(
                "fixed_statistics",
                f"under {how}, "
                + (f"a forward pass changes {', '.join(moved)}" if moved else "")
                + (" and " if moved and by_batch else "")
                + (f"{', '.join(dict.fromkeys(by_batch))} normalises by batch statistics" if by_batch else "")
                + ": keep BatchNorm in evaluation mode, as AudioEncoder.train does",
            )


def _with_adapters(encoder: AudioEncoder) -> AudioEncoder:
    """The encoder with random LoRA adapters on its `lora_targets`, changed in place."""
    with bitsandbytes_on_use():
        from peft import LoraConfig, inject_adapter_in_model

    # init_lora_weights=False starts both factors random: with a zero one, the other's gradient is zero by design.
    lora = LoraConfig(r=2, target_modules=list(encoder.lora_targets), init_lora_weights=False)
    with adapters_without_bitsandbytes():
        adapted: AudioEncoder = inject_adapter_in_model(lora, encoder)  # type: ignore[assignment]
    return adapted


def check_window_stitching(encoder: AudioEncoder) -> None:
    """Windows of a long clip are independent and in order: each has the tokens it has at the start of a clip."""
    config = encoder.config
    if not math.isfinite(config.clip_s):
        raise NotApplicable("the encoder processes the whole clip at once; nothing is stitched")
    window = round(config.clip_s * config.sample_rate)
    per_window = round(config.clip_s * config.frame_rate_hz)
    n = _samples(encoder, 3.4)
    wave = _noise(n, seed=9)
    whole = _by_step(_encode(encoder, wave[None], [n]))
    for start in range(1, 3):
        rest = wave[start * window :]
        later = _by_step(_encode(encoder, rest[None], [len(rest)]))
        _require_close(
            later[:per_window],
            whole[start * per_window : (start + 1) * per_window],
            "window_stitching",
            f"window {start} of a {_seconds(encoder, n)} clip has other tokens than the same audio at the start of "
            "a clip: windows are cut, ordered or stitched wrongly, or tokens depend on more than clip_s "
            f"({config.clip_s:g} s)",
        )


CHECKS: dict[str, Callable[[AudioEncoder], None]] = {
    # Randomness, or state kept between calls, fails many checks; the check that names it comes first.
    "determinism": check_determinism,
    "eval_purity": check_eval_purity,
    "valid_length": check_valid_length,
    "time_localisation": check_time_localisation,
    "padding_invariance": check_padding_invariance,
    "batch_invariance": check_batch_invariance,
    "save_load": check_save_load,
    "lora_reach": check_lora_reach,
    "fixed_statistics": check_fixed_statistics,
    "window_stitching": check_window_stitching,
}


def describe_error(error: Exception) -> str:
    """Type, message and the innermost line of an unexpected error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} ({' '.join(str(error).split())[:300]}) at {frame.filename}:{frame.lineno}"


def _samples(encoder: AudioEncoder, windows: float) -> int:
    """Samples in a clip of some windows. A window without a length counts as 1 s; it has at least 8 time steps."""
    config = encoder.config
    window_s = config.clip_s if math.isfinite(config.clip_s) else 1.0
    return round(windows * max(window_s, 8 / config.frame_rate_hz) * config.sample_rate)


def _seconds(encoder: AudioEncoder, n_samples: int) -> str:
    return f"{n_samples / encoder.config.sample_rate:.2f} s"


def _noise(n_samples: int, seed: int, amplitude: float = 0.1) -> Tensor:
    return amplitude * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed)).clamp_(-4, 4)


@torch.no_grad()
def _call(encoder: AudioEncoder, waveform: Tensor, lengths: list[int]) -> AudioTokens:
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    out: AudioTokens = encoder(waveform.to(device), torch.tensor(lengths))
    return out


def _encode(encoder: AudioEncoder, waveform: Tensor, lengths: list[int]) -> AudioTokens:
    return _on_cpu(_call(encoder, waveform, lengths))


def _on_cpu(out: AudioTokens) -> AudioTokens:
    """Tokens and mask on the CPU, tokens in float32."""
    return AudioTokens(out.tokens.cpu().float(), out.mask.cpu(), out.grid)


def _by_step(out: AudioTokens) -> Tensor:
    """Tokens of the first clip by time step: (n_time, n_freq, D)."""
    tokens: Tensor = out.tokens[0].unflatten(0, out.grid)
    return tokens


def _burst(n_samples: int, start: int, width: int) -> tuple[Tensor, Tensor]:
    """A quiet clip, and the same with a loud burst."""
    quiet = _noise(n_samples, seed=3, amplitude=_QUIET)
    loud = quiet.clone()
    burst = _noise(width, seed=4, amplitude=_LOUD) * torch.hann_window(width)
    loud[start : start + width] += burst[: n_samples - start]
    return quiet, loud.clamp_(-1, 1)


def _other_noise(n_samples: int, start: int, width: int) -> tuple[Tensor, Tensor]:
    """A clip of noise, and the same with other noise of the same level in one place."""
    noise = _noise(n_samples, seed=3)
    other = noise.clone()
    other[start : start + width] = _noise(width, seed=4)[: n_samples - start]
    return noise, other


def _response(
    encoder: AudioEncoder, n_samples: int, start: int, probe: Probe, dims: slice = slice(None)
) -> Tensor:
    """Change of each token, or of some of its values, by a sound as long as a time step: (n_time, n_freq)."""
    width = round(encoder.config.sample_rate / encoder.config.frame_rate_hz)
    out = _encode(encoder, torch.stack(probe(n_samples, start, width)), [n_samples] * 2)
    change = (out.tokens[1] - out.tokens[0])[:, dims].norm(dim=1)  # (N,)
    by_place: Tensor = change.unflatten(0, out.grid)
    return by_place


def _require_close(expected: Tensor, got: Tensor, check: str, diagnosis: str) -> None:
    if expected.shape != got.shape:
        raise ConformanceError(
            check, f"{diagnosis} (shape {tuple(expected.shape)} becomes {tuple(got.shape)})"
        )
    scale = expected.abs().max().clamp(min=1e-6)
    worst = ((expected - got).abs().max() / scale).item() if expected.numel() else 0.0
    if not worst <= _TOLERANCE:
        raise ConformanceError(check, f"{diagnosis} (largest change {worst:.2g} of the tokens' scale)")
