"""The encoder contract: waveform in, time-major audio tokens out.

Axis letters: B batch, S samples, N tokens, P prefix tokens, D width.
"""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alm.common.errors import AudioError, CheckpointError, ConfigError
from alm.common.fields import coerce_fields, located
from alm.common.files import make_folder, write_bytes_atomic
from alm.common.json_text import read_json_object
from alm.common.pretrained import check_sizes, typed_errors
from encoders.checkpoint import (
    LoadReport,
    load_strict,
    read_weights,
    resolve_source,
    write_weights,
)

_LOWEST_HZ = 1000  # below, a 25 ms frame or a 1 ms shift is less than a sample
LAST_LAYER = "last"
"""Value of the option `layer` that stands for the encoder's own output."""


@dataclass
class AudioTokens:
    """Output of an encoder for a batch of clips."""

    tokens: Tensor
    """(B, N, D), time-major: token n = t * n_freq + f. Zeros where `mask` is False."""
    mask: Tensor
    """(B, N) bool, True where the token covers real audio of the clip."""
    grid: tuple[int, int]
    """(n_time, n_freq) with n_time * n_freq = N; n_time is the longest clip's."""
    prefix: Tensor | None = None
    """(B, P, D) tokens without a place in time, for example one CLS per window; zeros for windows a clip lacks."""
    pooled: Tensor | None = None
    """(B, D') the encoder's own clip feature, the input of its own classifier; None where it has none."""

    def clip_features(self) -> Tensor:
        """One feature per clip, (B, D'): the encoder's own, else the mean over the tokens that cover audio."""
        if self.pooled is not None:
            return self.pooled
        valid = self.mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
        return (self.tokens * self.mask[..., None]).sum(dim=1) / valid  # (B, N, D) -> (B, D)


@dataclass(frozen=True)
class EncoderConfig(ABC):
    """Sizes and front end of an encoder, without its weights. The processor computes token counts from it alone."""

    model_class: str = ""
    """Names the encoder in config.json; the registry finds the encoder by it."""
    sample_rate: int = 16000
    """Rate in Hz of the waveforms the encoder takes."""

    model_classes: ClassVar[tuple[str, ...]] = ()
    """Every `model_class` this config stands for, the default first; only needed where there are several."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` of the publishers' config.json files that this config reads."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "model_class" in vars(cls) and "model_classes" not in vars(cls):
            cls.model_classes = (cls.model_class,)

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of a token."""

    @property
    @abstractmethod
    def n_freq(self) -> int:
        """Frequency steps per time step."""

    @property
    @abstractmethod
    def frame_rate_hz(self) -> float:
        """Time steps per second."""

    @property
    def timed_dims(self) -> slice:
        """The values of a token (D) that are computed for each time step; the others may be coarser in time."""
        return slice(None)

    @property
    def part_dims(self) -> list[int]:
        """Widths of the parts of a token, which add up to D: one for each encoder of a fusion."""
        return [self.dim]

    @property
    @abstractmethod
    def clip_s(self) -> float:
        """Length in seconds of the window the encoder sees at once; longer clips are cut into windows.

        No token depends on audio outside its own window. `math.inf`: every token may depend on the whole clip.
        """

    @abstractmethod
    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a clip.

        Args:
            n_samples: Length of the clip in samples.

        Raises:
            AudioError: The clip is too short for a single time step.
        """

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values; `from_dict` undoes it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "encoder config") -> Self:
        """Build the config, checking every key and type.

        Args:
            values: Key to value, as read from JSON or YAML.
            where: File or config key, for messages.

        Raises:
            ConfigError: Unknown key (names the nearest), wrong type, or values that do not fit together.
        """
        with located(where):
            return cls._checked(cls(**coerce_fields(cls, cls._flat(values))))

    def replace(self, where: str = "encoder config", **overrides: Any) -> Self:
        """A copy with some values changed, checked like `from_dict`."""
        with located(where):
            return self._checked(dataclasses.replace(self, **coerce_fields(type(self), overrides)))

    @classmethod
    def _checked(cls, config: Self) -> Self:
        """The config, if its `model_class` is one of this class and its sizes have no zero or negative number.

        Raises:
            ConfigError: Naming the key.
        """
        if cls.model_classes and config.model_class not in cls.model_classes:
            expected = " or ".join(cls.model_classes)
            raise ConfigError(f"model_class is {config.model_class!r}; expected {expected}")
        if config.sample_rate < _LOWEST_HZ:
            raise ConfigError(f"sample_rate is {config.sample_rate}; expected at least {_LOWEST_HZ} (Hz)")
        return config

    @classmethod
    def _flat(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values by field name; configs with nested sections in their file flatten them here."""
        return values


class AudioEncoder(nn.Module, ABC):
    """Base class of all encoders; `encoders.conformance` checks its contract.

    `forward` takes raw waveforms; the front end and its normalisation constants belong to the encoder. Clips
    longer than the encoder's window are cut into windows whose tokens are stitched in time. A clip's tokens
    do not depend on the other clips of the batch.
    """

    config: EncoderConfig
    config_class: ClassVar[type[EncoderConfig]]
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the names of Linear modules that LoRA adapts (peft's `target_modules`)."""
    licence: ClassVar[str] = "unstated"
    """Licence of the published weights (SPDX), as their publisher states it; `-` no weights."""
    n_parameters: ClassVar[int | None] = None
    """Parameters at the default config, so that listing builds no model; None where the number is not stated."""
    learned_statistics: ClassVar[tuple[str, ...]] = ()
    """Names of submodules whose BatchNorm statistics training updates. Those of all others never change."""
    uses_audio: ClassVar[bool] = True
    """False for a control that looks its tokens up in a table instead of computing them from the audio."""
    load_report: LoadReport | None = None
    """What `from_pretrained` matched; None for an untrained encoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self._frozen = False

    @abstractmethod
    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Encode a padded batch.

        Args:
            waveform: (B, S) float32 in [-1, 1] at `config.sample_rate`; samples past a clip's length are ignored.
            lengths: (B,) samples of each clip (on the CPU this costs no device synchronisation).

        Returns:
            The tokens; grid n_time is the longest clip's.

        Raises:
            AudioError: A clip is too short for one time step.
        """

    def forward_layers(self, waveform: Tensor, lengths: Tensor) -> list[AudioTokens]:
        """Encode a padded batch and return the output of every layer, for probes of single layers or their sum.

        Returns:
            The input of the first block, then the output of each block: `n_layers` items. The last one is what the
            encoder's own code returns, for some models after the final norm.

        Raises:
            ConfigError: The encoder does not offer its layers.
            AudioError: A clip is too short for one time step.
        """
        raise self._no_layers()

    def _no_layers(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} does not offer the outputs of its layers; "
            "probe its last one (linear, attentive), or implement forward_layers"
        )

    @classmethod
    @abstractmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny randomly initialised instance for contract tests; leaves the global generator alone."""

    @classmethod
    def _tiny(cls, config: Any, seed: int) -> Self:
        """An instance with seeded random weights in evaluation mode; leaves the global generator alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).eval()

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.config.dim

    @property
    def n_layers(self) -> int | None:
        """Number of layers that `forward_layers` returns; None if the encoder gives no access to them."""
        return None

    @property
    def readout(self) -> list[nn.Parameter]:
        """Parameters that train together with the projector or head, even if the encoder is frozen."""
        return []

    def named_parts(self) -> dict[str, AudioEncoder]:
        """The encoders of a fusion by the names of their submodules; each is frozen or trained by itself."""
        return {}

    @property
    def clip_norm(self) -> nn.Module | None:
        """The trained normalisation of the clip feature, from which a classifier starts; None if there is none."""
        return None

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called."""
        return self._frozen

    def freeze(self) -> Self:
        """Freeze all parameters and stay in evaluation mode; later calls of `.train()` do not change that.

        LoRA adapters that are added later still train; dropout stays off, also in the adapters.
        """
        self._frozen = True
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for a frozen encoder and for BatchNorm layers.

        A parent's `.train()` calls this too. Without the first exception a frozen encoder would drop paths while
        the rest of the model trains. Without the second, LoRA or full tuning would normalise each group of
        windows by its own statistics and overwrite the pretrained ones; the layers' weights still train.
        """
        super().train(mode and not self._frozen)
        for name, module in self.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                name == learned or name.startswith(f"{learned}.") for learned in self.learned_statistics
            ):
                module.train(False)
        return self

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, **config_overrides: Any
    ) -> Self:
        """Load a directory in the release layout (config.json + weights) or a hub id, strictly.

        Args:
            source: Directory in that layout, a run directory with an `encoder` directory, or `organisation/name`.
            revision: Hub branch, tag or commit.
            **config_overrides: Config values that replace those of config.json.

        Raises:
            CheckpointError: Missing, unreadable, or weights that do not fit, naming every such key.
            ConfigError: config.json or the overrides are not valid.
        """
        path = resolve_encoder(source, revision)
        file = config_file(path)
        config = cls.config_class.from_dict(read_config(file), where=str(file)).replace(**config_overrides)
        with typed_errors(f"{file}: cannot build the encoder that it describes", ConfigError):
            encoder = cls(config)
        encoder.load_report = load_strict(encoder, read_weights(path), source=path)
        return encoder.eval()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors, each completely or not at all.

        Raises:
            CheckpointError: The directory is not writable.
        """
        folder = make_folder(directory, CheckpointError)
        write_weights(folder / "model.safetensors", self.state_dict())
        text = json.dumps(self.config.to_dict(), indent=2) + "\n"
        write_bytes_atomic(folder / "config.json", text.encode(), CheckpointError)

    def check_lengths(self, lengths: Tensor) -> list[int]:
        """Valid time steps of every clip.

        Raises:
            AudioError: A clip is too short for one; the message says which.
        """
        steps = []
        for row, n_samples in enumerate(lengths.tolist()):
            with located(f"clip {row} of the batch", AudioError):
                steps.append(self.config.n_time_for(n_samples))
        return steps

    def check_finite(self, features: Tensor) -> None:
        """Refuse clips whose features (B, ...) are not all finite: their samples were NaN or infinite.

        Raises:
            AudioError: Saying which clips.
        """
        if not torch.isfinite(features).all():
            rows = (~features.flatten(1).isfinite().all(dim=1)).nonzero()[:, 0].tolist()
            raise AudioError(
                f"clip {', '.join(map(str, rows))} of the batch: holds NaN or infinite samples; "
                "repair the recording or remove it"
            )


def resolve_encoder(
    source: str | os.PathLike[str], revision: str | None = None, patterns: Sequence[str] | None = None
) -> Path:
    """The local directory or file of an encoder: `resolve_source`, and a run directory's `encoder` folder.

    Raises:
        CheckpointError: Missing, or the download from the Hub failed.
    """
    path = (
        resolve_source(source, revision) if patterns is None else resolve_source(source, revision, patterns)
    )
    in_run = path / "encoder"
    return in_run if (in_run / "config.json").is_file() and not (path / "config.json").is_file() else path


def config_file(path: Path) -> Path:
    """Where the config.json of an encoder directory or of a weights file is expected."""
    return (path if path.is_dir() else path.parent) / "config.json"


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a config.json, given it or its directory.

    Raises:
        ConfigError: Not there or not a JSON object.
    """
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    if not file.exists():
        raise ConfigError(f"{file}: no such file; an encoder directory holds it and model.safetensors")
    values = read_json_object(file, ConfigError, constants=True)
    check_sizes(values, str(file), ConfigError)
    return values


def n_time_mask(n_time: list[int], grid: tuple[int, int], device: torch.device) -> Tensor:
    """Token mask (B, N) bool of clips with `n_time` valid steps on a time-major grid."""
    valid = torch.tensor(n_time, device=device)
    steps = torch.arange(grid[0], device=device)[None] < valid[:, None]  # (B, n_time)
    return steps.repeat_interleave(grid[1], dim=1)  # (B, n_time * n_freq)
