"""Runs a benchmark, from config to printed scores."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.common.processes import check_launch, is_main_process
from alm.common.settings import load_settings
from alm.configs import shipped
from alm.data.readers.base import as_source, parse_source
from alm.data.records import Record
from encoders.audio.options import applied
from eval.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from eval.benchmarks._base import OURS
from eval.benchmarks._data import BenchmarkData, read_records
from eval.errors import EvaluationError
from eval.models import Answerer, Opening, open_model
from eval.models.own import OwnModel
from eval.reports.model_card import add_to_card
from eval.reports.run_report import write_run_report
from eval.reports.score_table import format_scores
from eval.runner.manifest import evaluate_manifest
from eval.runner.process_shards import Shards
from eval.runner.settings import EvalSettings
from eval.scoring.contamination import contaminated, contamination_note
from eval.scoring.predictions import HEADLINE, PREDICTIONS, read_predictions
from eval.scoring.scores import Scores, write_scores
from eval.waveforms import Waveforms


def run_benchmark(
    config: str | Path, model: str | Path = "", out: str | Path | None = None, overrides: Sequence[str] = ()
) -> Scores:
    """Run `alm eval`: read the benchmark's data, answer it, print and return the scores.

    All data is checked before the model is loaded.

    Args:
        config: A YAML file, or the name of a benchmark: its shipped config, or the defaults for one of a plug-in.
        model: The model to evaluate: a directory or hub id, `openai:MODEL@URL`, or a Python file with an `ANSWERER`,
            see `eval.models`; empty is the config's.
        out: Folder of predictions and scores; None is `eval/<name>` in the model directory, or `eval/<model>/<name>` in
            the working directory where the model has none.
        overrides: `key=value` strings over the config, for example `data=test.jsonl`.

    Returns:
        The scores; see `eval.scoring.scores.score_predictions`.

    Raises:
        UserError: A bad config, benchmark, manifest or model, audio that cannot be read, or a folder that cannot be
            written.
    """
    values = read_settings(config, overrides)
    if str(model):
        values = replace(values, model=str(model))
    with applied(values.audio):
        return _run(values, out)


@dataclass(frozen=True)
class Prepared:
    """A benchmark ready to run: its data is read and its model is open.

    Attributes:
        settings: The settings.
        benchmark: The benchmark.
        name: Its name with the split.
        data: Its questions.
        model: The model to evaluate.
        out_dir: Where answers are written.
        waveforms: Recordings that were read already.
        notes: Remarks for readers of the scores.
        contamination: Which clips are in the training data; None if no training data was given.
    """

    settings: EvalSettings
    benchmark: Benchmark
    name: str
    data: BenchmarkData
    model: Answerer
    out_dir: Path
    waveforms: Waveforms
    notes: list[str]
    contamination: dict[str, Any] | None

    @property
    def answering(self) -> dict[str, Any]:
        """Options of `eval.runner.manifest.answer_records`."""
        return {
            "controls": self.settings.controls,
            "batch_size": self.settings.batch_size,
            "title": self.benchmark.name,
            "seed": self.settings.seed,
            "prompt_version": self.benchmark.version_named(self.settings.prompt),
            "answer_by": self.settings.answer_by,
            "rank_by": self.settings.rank_by,
            "groups": self.benchmark.groups,
            "waveforms": self.waveforms,
        }

    @property
    def scoring(self) -> dict[str, Any]:
        """Options of `eval.scoring.scores.score_predictions`."""
        return {
            "metrics": self.benchmark.metrics,
            "require": self.settings.require,
            "official": self.benchmark.official,
            "is_right": self.benchmark.is_right,
        }


def prepare(settings: EvalSettings, out: str | Path | None, model: Answerer | None = None) -> Prepared:
    """Read a benchmark's data, then open the model.

    Args:
        settings: The settings.
        out: Folder of predictions and scores; None is the default of `run_benchmark`.
        model: A model that is open already.

    Raises:
        UserError: See `run_benchmark`.
    """
    benchmark = load_benchmark(settings.benchmark)
    if not settings.model:
        raise ConfigError("model is empty; name the model to evaluate, for example --model DIR")
    check_launch()
    waveforms = Waveforms()
    data = read_records(
        benchmark,
        settings.data,
        settings.split,
        settings.missing_audio,
        waveforms=waveforms,
        prompt=settings.prompt,
    )
    notes, contamination = data.notes, None
    if settings.training:
        contamination = contaminated(
            data.records, [parse_source(one, "training") for one in settings.training]
        )
        notes = [*notes, contamination_note(contamination)]
    split = settings.split or benchmark.splits[0]
    name = benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
    if settings.prompt != OURS:
        name = f"{name}-{settings.prompt}"
    if model is None:
        opening = Opening(
            Shards.device(),
            settings.max_new_tokens or benchmark.max_new_tokens,
            settings.decoding,
            settings.trust_remote_code,
            {"endpoint": settings.endpoint},
        )
        model = open_model(settings.model, opening)
    if settings.decoding.get("do_sample"):
        torch.manual_seed(settings.seed)
    home = Path("eval") / path_name(settings.model) if model.home is None else model.home / "eval"
    return Prepared(
        settings,
        benchmark,
        name,
        data,
        model,
        Path(out) if out is not None else home / name,
        waveforms,
        [*notes, *model.notes],
        contamination,
    )


def _run(settings: EvalSettings, out: str | Path | None) -> Scores:
    run = prepare(settings, out)
    records, model, out_dir = run.data.records, run.model, run.out_dir
    scores = evaluate_manifest(
        model, records, out_dir, limit=settings.limit, notes=run.notes, scoring=run.scoring, **run.answering
    )
    if not is_main_process():
        return scores
    if not scores:
        print(f"no answers are published for {run.name}: {_write_submission(records, out_dir)}")
        return scores
    scores["run"] = {
        "benchmark": run.benchmark.name,
        "split": settings.split or run.benchmark.splits[0],
        "data": _resolved(settings.data),
        "prompt": settings.prompt,
        "prompt_version": run.benchmark.version_named(settings.prompt),
        "citation": run.benchmark.citation,
        "model_id": model.model_id,
        "data_sha256": _data_hash(records),
        "answer_by": settings.answer_by,
        **({"rank_by": settings.rank_by} if settings.answer_by == "rank" else {}),
        "max_new_tokens": model.max_new_tokens,
        "decoding": dict(model.decoding),
        **({"left_out": run.data.left_out} if run.data.left_out else {}),
    }
    if run.contamination is not None:
        scores["contamination"] = run.contamination
    write_scores(out_dir / "scores.json", scores)
    write_run_report(
        out_dir, run.name, scores, records, read_predictions(out_dir / PREDICTIONS), run.benchmark.is_right
    )
    if isinstance(model, OwnModel) and model.home is not None:
        add_to_card(model.home, model.model, run.name, scores, settings.limit)
    print(format_scores(scores))
    print(f"predictions, scores and report: {out_dir}")
    return scores


def read_settings(config: str | Path, overrides: Sequence[str] = ()) -> EvalSettings:
    """The settings of a YAML file or of a benchmark; a benchmark of a plug-in folder needs no config.

    Args:
        config: A YAML file, or the name of a benchmark.
        overrides: `key=value` strings over the config.

    Raises:
        ConfigError: A wrong key or value.
        EvaluationError: Neither a file nor a benchmark.
    """
    try:
        path = find_config(config)
    except EvaluationError:
        if str(config) not in BENCHMARKS.names():
            raise
        return load_settings(EvalSettings, None, [f"benchmark={config}", *overrides])
    return load_settings(EvalSettings, path, overrides)


def find_config(config: str | Path) -> Path:
    """The YAML file of a path, or the shipped one of a benchmark's name.

    Raises:
        EvaluationError: Neither a file nor a benchmark that ships a config.
    """
    if Path(config).suffix in (".yaml", ".yml") or "/" in str(config):
        return shipped.find_config(config, ("eval",))
    try:
        return shipped.find_config(config, ("eval",))
    except ConfigError as error:
        near = get_close_matches(str(config), BENCHMARKS.names(), n=1)
        hint = f"; did you mean {near[0]}? Benchmarks: " if near else "; benchmarks: "
        raise EvaluationError(
            f"{config}: neither a YAML config nor a benchmark{hint}{', '.join(BENCHMARKS.names())}"
        ) from error


def path_name(model: str) -> str:
    """A model's name as the name of a folder."""
    return re.sub(r"[^\w.+-]+", "-", model).strip("-.")[:100] or "model"


def _resolved(data: Any) -> Any:
    """The data of a run as its scores name it, with an absolute path where it is a local one."""
    source = as_source(parse_source(data, "data"))
    path = str(Path(source.path).resolve()) if os.path.exists(source.path) else source.path
    return path if isinstance(data, str | Path) else {**data, "path": path}


def _data_hash(records: Sequence[Record]) -> str:
    """Hash of the questions and right answers, so that a revised benchmark has another hash."""
    rows = [
        [one.id, one.question, list(one.choices), list(one.references), sorted(one.meta.get("answers", ()))]
        for one in records
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode("ascii")).hexdigest()


def _write_submission(records: Sequence[Record], out_dir: Path) -> Path:
    """Write the answers in the submission format of benchmarks whose reference answers are not published."""
    lines = read_predictions(out_dir / PREDICTIONS)
    said = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
    items = [
        {**record.meta, "id": record.id, "model_prediction": said.get(record.id, "")} for record in records
    ]
    path = out_dir / "submission.json"
    write_text_atomic(path, json.dumps(items, ensure_ascii=False, indent=1) + "\n")
    return path
