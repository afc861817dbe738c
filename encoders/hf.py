"""Encoders that are `transformers` models: one place for configs, building, and strict loading.

`transformers` itself is imported when an encoder is built or its sizes are asked for, not before.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alm.common.errors import ConfigError, did_you_mean
from alm.common.fields import located
from alm.common.pretrained import from_pretrained
from alm.common.text import error_line, one_line
from encoders.base import config_file, read_config
from encoders.checkpoint import LoadReport, require_fit, resolve_source
from encoders.windows import WindowedConfig, WindowedEncoder

_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors",
          "*.safetensors.index.json", "pytorch_model.bin")  # fmt: skip

_EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TransformersConfig(WindowedConfig):
    """A `transformers` config beside the front end's settings."""

    transformers: dict[str, Any] = field(default_factory=dict)
    """Values of the `transformers` config that differ from its defaults."""

    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` of published config.json files that this config reads."""
    config_name: ClassVar[str] = ""
    """Name of the config class in `transformers`."""
    section: ClassVar[str | None] = None
    """Entry of the published config.json that holds the audio model's values, where it is not the whole."""
    fixed: ClassVar[dict[str, Any]] = {}
    """Values that are always these, whatever the checkpoint says."""
    front_end: ClassVar[dict[str, str]] = {}
    """Our field for each setting of the published feature extractor that is followed."""
    agreeing: ClassVar[dict[str, str]] = {}
    """The `transformers` config value that a feature extractor's setting must equal."""

    def __post_init__(self) -> None:
        known = self._known()
        for key in self.transformers:
            if key not in known:
                hint = did_you_mean(key, known, f"{self.config_name} has no such value")
                raise ConfigError(f"transformers: unknown key {key!r}; {hint}")
        self.check()

    def check(self) -> None:
        """Refuse values that do not fit together.

        Raises:
            ConfigError: Naming the value.
        """

    @cached_property
    def hf(self) -> Any:
        """The `transformers` config."""
        import transformers

        try:
            return getattr(transformers, self.config_name)(**{**self.transformers, **self.fixed})
        except Exception as error:  # its validation raises a dozen types
            raise ConfigError(f"transformers: {error_line(error)}") from error

    @classmethod
    def _known(cls) -> list[str]:
        import transformers

        blank = getattr(transformers, cls.config_name)()
        return [*blank.to_dict(), *blank.attribute_map]

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return int(self.hf.hidden_size)

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return 1

    def replace(self, where: str = "encoder config", **overrides: Any) -> Self:
        """A copy with some values changed; values in `transformers` are merged into the present ones."""
        given = overrides.get("transformers")
        if isinstance(given, dict):
            overrides["transformers"] = {**self.transformers, **given}
        return super().replace(where, **overrides)

    @classmethod
    def from_published(cls, values: dict[str, Any], extractor: dict[str, Any], where: str) -> Self:
        """Read a checkpoint's own config.json and feature extractor.

        Raises:
            ConfigError: Another model's files, or settings that this encoder does not follow.
        """
        if values.get("model_type") not in cls.model_types:
            raise ConfigError(
                f"{where}: config.json has model_type {values.get('model_type')!r}; expected "
                f"{' or '.join(cls.model_types)}"
            )
        inner = values if cls.section is None else values.get(cls.section) or {}
        known = [key for key in cls._known() if key not in _IGNORED]
        given = {key: value for key, value in inner.items() if key in known}
        ours = {name: extractor[key] for key, name in cls.front_end.items() if key in extractor}
        names = [item.name for item in fields(cls)]
        config = cls.from_dict(
            {key: value for key, value in ours.items() if key in names} | {"transformers": given}, where
        )
        for key, name in cls.agreeing.items():
            if extractor.get(key) != getattr(config.hf, name):
                raise ConfigError(
                    f"{where}: the feature extractor's {key} is {extractor.get(key)}, config.json's {name} is "
                    f"{getattr(config.hf, name)}; take both files from one checkpoint"
                )
        return config


# Keys of config.json that describe the file or how to run it, not the model.
_IGNORED = ("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder",
            "label2id", "model_type", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
            "transformers_version")  # fmt: skip


class TransformersEncoder(WindowedEncoder):
    """An encoder around a `transformers` model, `self.model`."""

    config: TransformersConfig
    config_class: ClassVar[type[TransformersConfig]]
    model_name: ClassVar[str] = ""
    """Name of the model class in `transformers`."""
    heads: ClassVar[tuple[str, ...]] = ()
    """Patterns of the weights that published checkpoints hold beside the encoder's; they are not loaded."""
    renamed: ClassVar[dict[str, str]] = {}
    """Regular expression to replacement for keys of published checkpoints that `transformers` would not find."""

    def __init__(self, config: TransformersConfig | None = None, model: Any = None) -> None:
        config = config or self.config_class()
        super().__init__(config)
        if model is None:
            try:
                model = self._model_class()(config.hf)
            except Exception as error:  # values that do not fit together fail anywhere in a constructor
                detail = f"{type(error).__name__}: {one_line(str(error))[:300]}"
                raise ConfigError(
                    f"transformers: {self.model_name} cannot be built from these values ({detail}); give the config "
                    "these weights were saved with"
                ) from error
        self.model = model

    @classmethod
    def _model_class(cls) -> Any:
        import transformers

        return getattr(transformers, cls.model_name)

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
        """The model's own output; see `WindowedEncoder.encode_windows`."""
        return self.read_windows(waveform, lengths, layers=False)[0]

    def encode_window_layers(
        self, waveform: Tensor, lengths: list[int]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """All of the model's hidden states; see `WindowedEncoder.encode_window_layers`."""
        return self.read_windows(waveform, lengths, layers=True)

    @abstractmethod
    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Encode windows: the model's output alone, or each of its hidden states."""

    def states(self, layers: bool, *inputs: Tensor, **options: Any) -> list[Tensor]:
        """The model's output, or the input of its first block and every block's output."""
        made = self.model(*inputs, output_hidden_states=layers, **options)
        return list(made.hidden_states) if layers else [made.last_hidden_state]

    @property
    def n_layers(self) -> int | None:
        """The number of blocks, and one for the input of the first."""
        return int(self.config.hf.num_hidden_layers) + 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the model computes."""
        weight: Tensor = next(self.model.parameters())
        return weight.dtype

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, **config_overrides: Any
    ) -> Self:
        """Load a published `transformers` checkpoint, or what `save_pretrained` wrote, strictly.

        Raises:
            CheckpointError: Missing, unreadable, or weights that do not fit, naming every such key.
            ConfigError: A config file or the overrides are not valid.
        """
        path = resolve_source(source, revision, _FILES)
        values = read_config(config_file(path))
        if path.is_file() and path.name in _WEIGHT_FILES:
            path = path.parent  # the directory that `transformers` loads this file from
        if "model_class" in values:
            return super().from_pretrained(path, **config_overrides)
        from transformers import AutoFeatureExtractor

        if not any((path / name).is_file() for name in _EXTRACTOR_FILES):
            raise ConfigError(
                f"{path}: the feature extractor's preprocessor_config.json is missing; download it beside config.json"
            )
        extractor = from_pretrained(
            AutoFeatureExtractor, path, role="feature extractor", error=ConfigError
        ).to_dict()
        with located(str(path)):
            config = cls.config_class.from_published(values, extractor, str(path)).replace(**config_overrides)
        model, report = cls._load(path, config)
        encoder = cls(config, model)
        encoder.load_report = report
        return encoder.eval()

    @classmethod
    def _load(cls, path: Any, config: TransformersConfig) -> tuple[Any, LoadReport]:
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()  # the load report below names every mismatch
        try:
            model, info = from_pretrained(
                cls._model_class(),
                path,
                role="encoder",
                config=config.hf,
                dtype=torch.float32,
                key_mapping=cls.renamed or None,
                ignore_mismatched_sizes=True,  # collected and refused below, with every other complaint
                output_loading_info=True,
            )
        finally:
            logging.set_verbosity(before)
        misshaped = [f"{key}: {tuple(got)} for {tuple(own)}" for key, got, own in info["mismatched_keys"]]
        absent = set(info["missing_keys"]) | {key for key, _, _ in info["mismatched_keys"]}
        report = LoadReport(
            tuple(key for key in model.state_dict() if key not in absent),
            tuple(sorted(info["missing_keys"])),
            tuple(sorted(info["unexpected_keys"])),
            tuple(misshaped),
        )
        refused = [key for key in report.unexpected if not any(fnmatchcase(key, head) for head in cls.heads)]
        require_fit(path, cls.model_name, report.missing, refused, misshaped)
        return model, report


def sample_mask(lengths: list[int], waveform: Tensor) -> Tensor:
    """(B, S) bool, True at the samples of each window."""
    places = torch.arange(waveform.shape[1], device=waveform.device)
    return places[None] < torch.tensor(lengths, device=waveform.device)[:, None]
