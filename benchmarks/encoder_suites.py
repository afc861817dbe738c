"""Encoders in MTEB and X-ARES, on local data.

`python -m benchmarks.encoder_suites OUT --esc10 DIR --digits DIR ENCODER …` prints each encoder's scores in two
tasks of MTEB (ESC50 classification by five-fold cross-validation, ESC50 clustering) and two of X-ARES (ESC-50 and
Speech Commands, each by an MLP and by nearest neighbours). The tasks are the suites' own code; their data is that of
the folders: ESC-10 in place of ESC-50, spoken digits in place of commands. A folder has `meta.csv` (`filename`, `fold`,
`category`). Figures compare encoders on the same data, not with published ones.

`ENCODER` is NAME=SOURCE, and SOURCE is whatever `alm embed` takes. `--options "NAME={window_s: 6}"` gives one of them
options, here Whisper windows of 6 s instead of 30 s. X-ARES encodes the padding of a batch with its clips: they are
sorted by length, so that there is little. The command resumes: scores that `OUT/encoder_suites.json` holds are not
computed again. Needs `alm-toolkit[mteb,xares]`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml

from alm.common.files import write_text_atomic

Row = dict[str, str]

MTEB_TASKS = ("ESC50", "ESC50Clustering")
TASKS = (*(f"mteb/{task}" for task in MTEB_TASKS), "xares/esc50", "xares/speechcommandsv1")


def read_rows(folder: Path, most: int) -> list[Row]:
    """Rows of `meta.csv` with absolute paths, at most so many of each category and fold."""
    with open(folder / "meta.csv", newline="") as file:
        rows = [{**row, "filename": str(folder / row["filename"])} for row in csv.DictReader(file)]
    kept: dict[tuple[str, str], int] = {}
    chosen = []
    for row in rows:
        key = row["category"], row["fold"]
        kept[key] = kept.get(key, 0) + 1
        if kept[key] <= most:
            chosen.append(row)
    return chosen


def mteb_scores(
    source: str,
    rows: Sequence[Row],
    options: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = MTEB_TASKS,
) -> Iterator[dict[str, float]]:
    """Main scores of MTEB's ESC50 tasks, one after the other."""
    import mteb
    from datasets import Audio, ClassLabel, Dataset, DatasetDict

    from eval.bridges.mteb_encoder import MtebEncoder

    labels = sorted({row["category"] for row in rows})
    table = Dataset.from_dict(
        {
            "audio": [row["filename"] for row in rows],
            "target": [labels.index(row["category"]) for row in rows],
        }
    )
    table = table.cast_column("audio", Audio()).cast_column("target", ClassLabel(names=labels))
    encoder = MtebEncoder(source, **options or {})
    for name in tasks:
        task = mteb.get_task(name)
        task.dataset, task.data_loaded = DatasetDict({"train": table}), True
        [result] = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results
        yield {f"mteb/{name}/{task.metadata.main_score}": result.get_score()}


def xares_scores(
    name: str,
    source: str,
    task: str,
    rows: Sequence[Row],
    folder: Path,
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Accuracy of an MLP and of nearest neighbours in a task of X-ARES, which writes into an empty folder."""
    from importlib import import_module

    from xares.audiowebdataset import write_audio_tar
    from xares.task import XaresTask

    from eval.bridges.xares_model import XaresModel

    threads = torch.get_num_threads()  # X-ARES takes two where it is not told
    encoder = type(f"{name}Encoder", (XaresModel,), {"source": source, "options": dict(options or {})})()
    config: Any = getattr(import_module(f"tasks.{task}_task"), f"{task}_config")(encoder)
    labels = sorted({row["category"] for row in rows})
    folds = sorted({row["fold"] for row in rows})
    config.env_root, config.k_fold_splits, config.num_encoder_workers = folder, folds, 0
    config.output_dim, config.torch_num_threads = len(labels), threads
    config.label_processor = lambda line: labels.index(line["label"])
    config.update_tar_name_of_split()
    suite = XaresTask(config)
    for fold in folds:
        chosen = sorted((row for row in rows if row["fold"] == fold), key=_seconds)
        write_audio_tar(
            [row["filename"] for row in chosen],
            [row["category"] for row in chosen],
            str(suite.env_dir / f"wds-audio-fold-{fold}-*.tar"),
            suffix=Path(chosen[0]["filename"]).suffix[1:],
            num_shards=1,
        )
    (suite.env_dir / config.xares_settings.audio_ready_filename).touch()
    (mlp, _), (knn, _) = suite.run()
    return {f"xares/{task}/mlp": float(mlp), f"xares/{task}/knn": float(knn)}


def _seconds(row: Row) -> float:
    return float(soundfile.info(row["filename"]).duration)


def main(argv: Sequence[str]) -> int:
    """Print and write the table of scores by encoder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_suites", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("encoders", nargs="+", metavar="NAME=SOURCE")
    parser.add_argument("--esc10", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--most", type=int, default=1000, help="clips of a category and fold")
    parser.add_argument(
        "--options", action="append", default=[], metavar="NAME={...}", help="options of an encoder"
    )
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "encoder_suites.json"
    table: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    sounds, digits = (read_rows(folder, arguments.most) for folder in (arguments.esc10, arguments.digits))
    sources, given = (
        dict(one.split("=", 1) for one in some) for some in (arguments.encoders, arguments.options)
    )
    if unknown := given.keys() - sources.keys():
        parser.error(f"--options of encoders that are not asked for: {', '.join(sorted(unknown))}")
    for name, source in sources.items():
        made = {"source": source, "options": yaml.safe_load(given.get(name, "{}"))}
        entry = table.setdefault(name, {**made, "scores": {}})
        if any(entry[key] != made[key] for key in made):
            parser.error(f"{file}: holds scores of another {name}; give it another name, or another OUT")
        scores, options = entry["scores"], made["options"]
        missing = [task for task in TASKS if not any(key.startswith(f"{task}/") for key in scores)]
        of_mteb = [task.removeprefix("mteb/") for task in missing if task.startswith("mteb/")]
        for found in mteb_scores(source, sounds, options, of_mteb) if of_mteb else ():
            scores |= found
            write_text_atomic(file, json.dumps(table, indent=1) + "\n")
        for task, rows in (("esc50", sounds), ("speechcommandsv1", digits)):
            if f"xares/{task}" in missing:
                with tempfile.TemporaryDirectory() as folder:
                    scores |= xares_scores(name, source, task, rows, Path(folder), options)
                write_text_atomic(file, json.dumps(table, indent=1) + "\n")
        print(name, json.dumps(scores), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
