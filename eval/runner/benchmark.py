"""A benchmark from config to printed scores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

import alm
from alm.checkpoint import model_id_of, resolve
from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.common.processes import check_launch
from alm.common.settings import load_settings
from alm.data.readers.base import as_source, parse_source
from alm.data.records import Record
from alm.decoding import beyond_greedy, decoding_settings
from encoders.audio.options import applied
from eval.benchmarks import list_benchmarks, load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError
from eval.reports.run_report import write_run_report
from eval.reports.score_table import format_scores
from eval.runner.manifest import evaluate_manifest
from eval.runner.process_shards import Shards
from eval.runner.settings import EvalSettings
from eval.scoring.contamination import contaminated, contamination_note
from eval.scoring.predictions import HEADLINE, PREDICTIONS, read_predictions
from eval.scoring.scores import Scores, write_scores

# Settings of a generation config that do not shape the text of an answer, or that decoding takes from elsewhere.
_NOT_DECODING = frozenset(
    ["bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "use_cache"]
)


def run_benchmark(
    config: str | Path, model: str | Path, out: str | Path | None = None, overrides: Sequence[str] = ()
) -> Scores:
    """Run `alm eval`: read the benchmark's data, answer it, print and return the scores.

    All data is checked before the model is loaded.

    Args:
        config: A YAML file, or the name of a benchmark for the config shipped with it.
        model: Audio-language model directory or hub id.
        out: Folder of predictions and scores; None is `eval/<name>` in the model directory.
        overrides: `key=value` strings over the config, for example `data=test.jsonl`.

    Returns:
        The scores; see `eval.scoring.scores.score_predictions`.

    Raises:
        UserError: A bad config, benchmark, manifest or model, audio that cannot be read, or a folder that cannot be
            written.
    """
    values = load_settings(EvalSettings, find_config(config), overrides)
    with applied(values.audio):
        return _run(values, model, out)


def _run(values: EvalSettings, model: str | Path, out: str | Path | None) -> Scores:
    benchmark = load_benchmark(values.benchmark)
    settings = replace(values, max_new_tokens=values.max_new_tokens or benchmark.max_new_tokens)
    assert settings.max_new_tokens is not None
    check_launch()
    _check_decoding(settings.decoding)
    records, notes = read_records(benchmark, settings.data, settings.split, settings.missing_audio)
    if settings.training:
        contamination = contaminated(records, [parse_source(one, "training") for one in settings.training])
        notes = [*notes, contamination_note(contamination)]
    folder = resolve(model)
    split = settings.split or benchmark.splits[0]
    name = benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
    out_dir = Path(out) if out is not None else folder / "eval" / name
    shards = Shards(out_dir)
    # Before the model is loaded: the directory may change or disappear while questions are answered.
    model_id = model_id_of(folder)
    loaded, processor = alm.load(folder, shards.device, settings.trust_remote_code)
    decoding = decoding_settings(loaded, processor, settings.max_new_tokens, **settings.decoding)
    notes = [*notes, *_ignored_settings(loaded, decoding)]
    if decoding.get("do_sample"):
        torch.manual_seed(settings.seed)
    scores = evaluate_manifest(
        loaded,
        processor,
        records,
        out_dir,
        model_id=model_id,
        controls=settings.controls,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        limit=settings.limit,
        title=benchmark.name,
        seed=settings.seed,
        prompt_version=benchmark.prompt_version,
        decoding=beyond_greedy(loaded, processor, decoding),
        options=settings.decoding,
        answer_by=settings.answer_by,
        rank_by=settings.rank_by,
        groups=benchmark.groups,
        metrics=benchmark.metrics,
        require=settings.require,
        official=benchmark.official,
        is_right=benchmark.is_right,
        notes=notes,
    )
    if not shards.is_main:
        return scores
    if not scores:
        print(f"no answers are published for {name}: {_write_submission(records, out_dir)}")
        return scores
    scores["run"] = {
        "benchmark": benchmark.name,
        "split": split,
        "data": _resolved(settings.data),
        "prompt_version": benchmark.prompt_version,
        "citation": benchmark.citation,
        "model_id": model_id,
        "data_sha256": _data_hash(records),
        "answer_by": settings.answer_by,
        **({"rank_by": settings.rank_by} if settings.answer_by == "rank" else {}),
        "max_new_tokens": settings.max_new_tokens,
        "decoding": decoding,
    }
    if settings.training:
        scores["contamination"] = contamination
    write_scores(out_dir / "scores.json", scores)
    write_run_report(out_dir, name, scores, records, read_predictions(out_dir / PREDICTIONS))
    print(format_scores(scores))
    print(f"predictions, scores and report: {out_dir}")
    return scores


def _check_decoding(options: Mapping[str, Any]) -> None:
    """Reject settings that `transformers.GenerationConfig` does not have, which it would keep and ignore."""
    if not options:
        return
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    known = [key for key in defaults().to_dict() if not key.startswith("_")]
    for key in options:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"decoding.{key}: not a setting of transformers.GenerationConfig{hint}")


def _ignored_settings(model: Any, decoding: Mapping[str, Any]) -> list[str]:
    """A note that names what the LLM's generation config sets and this evaluation does not apply."""
    config = model.generation_config.to_diff_dict()
    ignored = {
        key: value
        for key, value in sorted(config.items())
        if key not in decoding and key not in _NOT_DECODING and not key.startswith("_")
    }
    if not ignored:
        return []
    named = ", ".join(f"{key}={value}" for key, value in ignored.items())
    return [
        f"Decoding ignores {named} of the LLM's generation_config.json; see 'decoding' for what was applied."
    ]


def find_config(config: str | Path) -> Path:
    """The YAML file of a path, or the shipped one of a benchmark's name.

    Raises:
        EvaluationError: Neither a file nor a benchmark that ships a config.
    """
    if Path(config).suffix in (".yaml", ".yml"):
        return Path(config)
    # Configs are installed beside the packages, as they lie beside them in a checkout.
    shipped = Path(__file__).parents[2] / "configs" / "eval" / f"{config}.yaml"
    if shipped.is_file():
        return shipped
    raise EvaluationError(
        f"{config}: neither a YAML config nor a benchmark; benchmarks: {', '.join(list_benchmarks())}"
    )


def _resolved(data: Any) -> Any:
    """The data of a run as its scores name it, with an absolute path where it is a local one."""
    source = as_source(parse_source(data, "data"))
    path = str(Path(source.path).resolve()) if Path(source.path).exists() else source.path
    return path if isinstance(data, str | Path) else {**data, "path": path}


def _data_hash(records: Sequence[Record]) -> str:
    """Hash of everything asked and of the right answers, so that a revised benchmark has another hash."""
    rows = [
        [one.id, one.question, list(one.choices), list(one.references), sorted(one.meta.get("answers", ()))]
        for one in records
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode("ascii")).hexdigest()


def _write_submission(records: Sequence[Record], out_dir: Path) -> Path:
    """The answers in the form in which benchmarks with hidden answers take them."""
    lines = read_predictions(out_dir / PREDICTIONS)
    said = {line["id"]: line["prediction"] for line in lines if line["control"] == HEADLINE}
    items = [
        {**record.meta, "id": record.id, "model_prediction": said.get(record.id, "")} for record in records
    ]
    path = out_dir / "submission.json"
    write_text_atomic(path, json.dumps(items, ensure_ascii=False, indent=1) + "\n")
    return path
