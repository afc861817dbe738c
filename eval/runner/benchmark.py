"""A benchmark from config to printed scores."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import alm
from alm.checkpoint import model_id_of, resolve
from alm.common.files import write_text_atomic
from alm.common.progress import progress
from alm.common.settings import load_settings
from alm.data.records import Record
from eval.benchmarks import list_benchmarks, load_benchmark
from eval.errors import EvaluationError
from eval.reports.run_report import write_run_report
from eval.runner.benchmark_data import read_records
from eval.runner.manifest import evaluate_manifest
from eval.runner.predictions import HEADLINE, read_predictions
from eval.runner.process_shards import PREDICTIONS, Shards
from eval.runner.settings import EvalSettings
from eval.scoring.arm_scores import ANSWER_METRICS
from eval.scoring.contamination import contaminated, contamination_note
from eval.scoring.scores import Scores, format_scores, write_scores


def run(config: str | Path, model: str | Path, out: str | Path | None, overrides: Sequence[str]) -> Scores:
    """See `eval.benchmarks.run_benchmark`. All data is checked before the model is loaded."""
    settings = load_settings(EvalSettings, find_config(config), overrides)
    benchmark = load_benchmark(settings.benchmark)
    records, notes = read_records(benchmark, settings.data, settings.split, settings.missing_audio)
    if settings.training:
        contamination = contaminated(records, [Path(path) for path in settings.training])
        notes = [*notes, contamination_note(contamination)]
    folder = resolve(model)
    split = settings.split or benchmark.splits[0]
    name = benchmark.name if split == benchmark.splits[0] else f"{benchmark.name}-{split}"
    out_dir = Path(out) if out is not None else folder / "eval" / name
    shards = Shards(out_dir)
    main = shards.is_main
    model_id = model_id_of(
        folder
    )  # before it is loaded: the directory may change while the questions are answered
    loaded, processor = alm.load(folder, shards.device)
    with ExitStack() as stack:
        advance = [lambda n: None]

        def start(missing: int) -> None:
            if main:
                advance[0] = stack.enter_context(progress(benchmark.name, missing, "answer"))

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
            seed=settings.seed,
            on_start=start,
            progress=lambda n: advance[0](n),
            prompt_version=benchmark.prompt_version,
            answer_by=settings.answer_by,
            rank_by=settings.rank_by,
            groups=benchmark.groups,
            caption_metrics=caption_metrics(benchmark.metrics),
            require=settings.require,
            official=benchmark.official,
            notes=notes,
            answer_metrics=answer_metrics(benchmark.metrics),
        )
    if not main:
        return scores
    if not scores:
        print(f"no answers are published for {name}: {_write_submission(records, out_dir)}")
        return scores
    scores["run"] = {
        "benchmark": benchmark.name,
        "split": split,
        "data": str(Path(settings.data).resolve()),
        "prompt_version": benchmark.prompt_version,
        "citation": benchmark.citation,
        "model_id": model_id,
        "data_sha256": _data_hash(records),
        "answer_by": settings.answer_by,
        **({"rank_by": settings.rank_by} if settings.answer_by == "rank" else {}),
        "max_new_tokens": settings.max_new_tokens,
    }
    if settings.training:
        scores["contamination"] = contamination
    write_scores(out_dir / "scores.json", scores)
    write_run_report(out_dir, name, scores, records, read_predictions(out_dir / PREDICTIONS))
    print(format_scores(scores))
    print(f"predictions, scores and report: {out_dir}")
    return scores


def caption_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of a benchmark's metrics that score captions."""
    return tuple(name for name in metrics if name not in ("qa", "map", *ANSWER_METRICS))


def answer_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """Those of a benchmark's metrics that score answers beside whether they are right."""
    return tuple(name for name in metrics if name in ANSWER_METRICS)


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


def _data_hash(records: Sequence[Record]) -> str:
    """Hash of everything asked and of the right answers, so that a revised benchmark is told apart."""
    rows = [
        [
            record.id,
            record.question,
            list(record.choices),
            list(record.references),
            sorted(record.meta.get("answers", ())),
        ]
        for record in records
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
