"""The settings of one evaluation."""

from dataclasses import dataclass, field
from typing import Any

from alm.common.errors import ConfigError
from alm.data.readers.base import parse_source
from encoders.audio.options import AudioOptions
from eval.benchmarks._base import OURS
from eval.models.endpoint import EndpointSettings
from eval.models.likelihood import NORMALISATIONS
from eval.runner.manifest import ANSWER_MODES
from eval.scoring.predictions import CONTROLS

MISSING_AUDIO = ("error", "leave_out")


@dataclass(frozen=True)
class EvalSettings:
    """One evaluation; `configs/eval/<name>.yaml` holds the values for a benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        model: The model to evaluate: a directory or hub id, `openai:MODEL@URL`, or a Python file with an `ANSWERER`;
            `--model` on the command line replaces it.
        data: Its data: for `manifest` a path in any format (`alm list formats`) or a mapping with `path`, `format`,
            `columns`, `prompt` and more, as in `data.train`; for the others a folder.
        split: Which split of it; empty is the benchmark's default.
        prompt: Name of one of the benchmark's prompts: `ours`, or a key of its `prompts`.
        batch_size: Questions per batch.
        max_new_tokens: Length limit of an answer in tokens; None is the benchmark's.
        decoding: Settings of `generate` in place of greedy decoding, for example `{do_sample: true}`; the generation
            config of the LLM contributes none of its own to greedy decoding.
        limit: Evaluate only the first `limit` records; None evaluates all.
        controls: Which of `none`, `no_audio`, `other_clip` to run.
        seed: Seed of the choice of other clips.
        answer_by: `generate`, or `rank` for the likeliest of the choices.
        rank_by: How likelihoods are normalised: `length`, `corrected` or `sum`.
        missing_audio: `error`, or `leave_out` to drop records whose recordings are missing or cannot be read; the
            scores say how many.
        training: Manifests the model was trained on; the scores say which of the benchmark's clips are in them.
        trust_remote_code: Run Python code that comes with the LLM that the model refers to. Set it only for an author
            whom you trust.
        audio: How channels are mixed and peaks above full scale are treated (see `encoders.audio.AudioOptions`).
        endpoint: Requests to an OpenAI-compatible endpoint (see `eval.models.endpoint.EndpointSettings`).
        require: Metrics that must be computed, such as `meteor`; the run fails without them.
    """

    benchmark: str = "manifest"
    model: str = ""
    data: Any = ""
    split: str = ""
    prompt: str = OURS
    batch_size: int = 16
    max_new_tokens: int | None = None
    limit: int | None = None
    controls: tuple[str, ...] = CONTROLS
    seed: int = 0
    answer_by: str = "generate"
    rank_by: str = "length"
    missing_audio: str = "error"
    decoding: dict[str, Any] = field(default_factory=dict)
    require: tuple[str, ...] = ()
    training: tuple[Any, ...] = ()
    trust_remote_code: bool = False
    audio: AudioOptions = AudioOptions()
    endpoint: EndpointSettings = EndpointSettings()

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in (
            ("data", self.data),
            *((f"training[{i}]", v) for i, v in enumerate(self.training)),
        ):
            parse_source(value, name)
        for name in ("batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        for name in ("max_new_tokens", "num_return_sequences"):
            if name in self.decoding:
                raise ConfigError(f"decoding.{name}: not a setting of decoding in an evaluation; remove it")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; expected at least 1, or null for all records")
        for name, known in (
            ("answer_by", ANSWER_MODES),
            ("rank_by", NORMALISATIONS),
            ("missing_audio", MISSING_AUDIO),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if self.rank_by != EvalSettings.rank_by and self.answer_by != "rank":
            raise ConfigError(
                f"rank_by is {self.rank_by!r}, and nothing is ranked; set answer_by=rank, or remove it"
            )
        for control in self.controls:
            if control not in CONTROLS:
                raise ConfigError(f"controls holds {control!r}; expected some of {', '.join(CONTROLS)}")
        if "none" not in self.controls:
            raise ConfigError(f"controls is {list(self.controls)}; it must hold 'none', the model as it is")
