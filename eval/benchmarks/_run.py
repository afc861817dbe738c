"""A benchmark from config to printed scores."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import alm
from alm.checkpoint import resolve
from alm.errors import ConfigError
from alm.progress import progress
from alm.settings import load_settings
from encoders.checkpoint import sha256_of
from eval.benchmarks import list_benchmarks, load_benchmark
from eval.benchmarks._base import EvalSettings
from eval.errors import EvaluationError
from eval.run import evaluate_manifest
from eval.scoring import Scores, format_scores


def run(config: str | Path, model: str | Path, out: str | Path | None, overrides: Sequence[str]) -> Scores:
    """See `eval.benchmarks.run_benchmark`. All data is checked before the model is loaded."""
    settings = load_settings(EvalSettings, find_config(config), overrides)
    benchmark = load_benchmark(settings.benchmark)
    if not settings.data:
        raise ConfigError("data is empty; say where the benchmark's data is, for example data=test.jsonl")
    records = benchmark.reader(Path(settings.data))
    folder = resolve(model)
    out_dir = Path(out) if out is not None else folder / "eval" / benchmark.name
    loaded, processor = alm.load(folder)
    with ExitStack() as stack:
        advance = [lambda n: None]

        def start(missing: int) -> None:
            advance[0] = stack.enter_context(progress(benchmark.name, missing, "answer"))

        scores = evaluate_manifest(
            loaded,
            processor,
            records,
            out_dir,
            model_id=model_id_of(folder),
            controls=settings.controls,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            limit=settings.limit,
            seed=settings.seed,
            on_start=start,
            progress=lambda n: advance[0](n),
        )
    print(format_scores(scores))
    print(f"predictions and scores: {out_dir}")
    return scores


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


def model_id_of(folder: Path) -> str:
    """What distinguishes a model's answers: a hash of its configs, tokenizer files and weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if (
            file.suffix in (".json", ".safetensors", ".model", ".jinja", ".txt")
            and "eval" not in file.parts[len(folder.parts) :]
        ):
            digest.update(f"{file.relative_to(folder)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:32]
