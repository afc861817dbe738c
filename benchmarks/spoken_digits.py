"""Whether a model with real parts hears: an unseen speaker's digits, asked as a stranger to this toolkit would.

    python -m benchmarks.spoken_digits --encoder DIR --llm DIR --fsdd DIR --out DIR

A projector (MLP, 8 encoder steps a token) is trained between a frozen speech encoder and a frozen LLM, such as Whisper
tiny.en and SmolLM2-135M-Instruct, on the digits of all speakers but one. A process that imports only `transformers`
then loads the saved model with `trust_remote_code=True` and asks which digit the held-out speaker says, one by one, in
batches, and without the recordings. The folder of digits holds a `meta.csv` with the columns filename, category and
speaker. The training run is reused if it is finished.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.common.json_text import write_json
from alm.common.settings import load_settings
from benchmarks.measure import arguments
from eval.scoring.stats import mean_interval
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Which digit is spoken?"
RESULTS = "spoken-digits.json"

_STRANGER = """
import json, sys
from transformers import AutoModelForMultimodalLM, AutoProcessor

assert "alm" not in sys.modules
folder, asked, batch_size = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True)
question = {"type": "text", "text": asked["question"]}

def answers(paths, size):
    found = []
    for first in range(0, len(paths), size):
        conversations = [
            [{"role": "user", "content": [*({"type": "audio", "path": path} for path in clips), question]}]
            for clips in paths[first : first + size]
        ]
        inputs = processor.apply_chat_template(
            conversations, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        found += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found

paths = [[path] for path in asked["paths"]]
print(json.dumps({
    "alone": answers(paths, 1), "together": answers(paths, batch_size), "no_audio": answers([[]], 1) * len(paths)
}))
"""


def digits(folder: Path) -> list[dict[str, str]]:
    """The lines of `meta.csv`, with the path of each recording."""
    with (folder / "meta.csv").open(encoding="utf-8", newline="") as file:
        return [{**line, "path": str((folder / line["filename"]).resolve())} for line in csv.DictReader(file)]


def takes(lines: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first `count` recordings of each digit by each speaker."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        found.setdefault((line["category"], line["speaker"]), []).append(line)
    return [line for group in found.values() for line in group[:count]]


def train(encoder: str, llm: str, heard: Sequence[dict[str, str]], out: Path, changes: Sequence[str]) -> Path:
    """Train the projector; returns the directory of the model."""
    manifest = out / "train.jsonl"
    records = [
        {
            "id": Path(line["path"]).stem,
            "audio": line["path"],
            "question": QUESTION,
            "answer": line["category"],
        }
        for line in heard
    ]
    write_text_atomic(manifest, "".join(json.dumps(record) + "\n" for record in records))
    settings = [
        f"out={out / 'align'}",
        f"encoder={encoder}",
        f"llm={llm}",
        "projector_options={stack: 8}",
        f"data.train=[{json.dumps(str(manifest))}]",
        "optim={steps: 300, batch_size: 8, lr: 2.0e-3, warmup_steps: 10}",
        "run.precision=fp32",
        "data.workers=0",
        "data.cache_features=true",
        *changes,
    ]
    config = ROOT / "configs" / "align" / "audiomosaic-qwen2.5-0.5b.yaml"
    return Path(run_stage(load_settings(TrainSettings, config, settings)))


def ask(model: Path, asked: Sequence[dict[str, str]], out: Path, batch_size: int) -> dict[str, list[str]]:
    """What a process answers that imports only `transformers`: alone, in batches, without the recordings."""
    write_json(out / "asked.json", {"question": QUESTION, "paths": [line["path"] for line in asked]})
    found = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(model), str(out / "asked.json"), str(batch_size)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str((out / "modules").resolve())},
    )
    answers: dict[str, list[str]] = json.loads(found.stdout.splitlines()[-1])
    return answers


def right(answers: Sequence[str], asked: Sequence[dict[str, str]]) -> list[bool]:
    """Whether an answer is the digit's name; case, spaces and a full stop do not matter."""
    return [
        answer.strip().strip(".").lower() == line["category"]
        for answer, line in zip(answers, asked, strict=True)
    ]


def results(answers: dict[str, list[str]], asked: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Accuracies with 95 % intervals over recordings, and how many answers a batch changes."""
    found: dict[str, Any] = {"asked": len(asked)}
    for name, texts in answers.items():
        flags = [float(one) for one in right(texts, asked)]
        interval = mean_interval(flags, [line["path"] for line in asked], proportion=True)
        found[name] = {
            "right": int(sum(flags)),
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
        }
    found["changed_by_batch"] = sum(
        a != b for a, b in zip(answers["alone"], answers["together"], strict=True)
    )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train, ask, write the figures."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--encoder", required=True, help="directory or hub id of the speech encoder")
    parser.add_argument("--llm", required=True, help="directory or hub id of the LLM")
    parser.add_argument("--fsdd", type=Path, required=True, help="folder with meta.csv and the spoken digits")
    parser.add_argument("--speaker", default="nicolas", help="speaker that is held out")
    parser.add_argument(
        "--heard", type=int, default=25, help="recordings of each digit and speaker to train on"
    )
    parser.add_argument("--asked", type=int, default=6, help="recordings of each digit to ask about")
    parser.add_argument("--batch-size", type=int, default=8, help="recordings asked about together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training run and the figures")
    parser.add_argument("overrides", nargs="*", help="changes of the training config, as key.sub=value")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = digits(options.fsdd)
    heard = takes([line for line in lines if line["speaker"] != options.speaker], options.heard)
    asked = takes([line for line in lines if line["speaker"] == options.speaker], options.asked)
    quick = ["optim.steps=2", "optim.batch_size=2", "optim.warmup_steps=1"] if options.quick else []
    model = train(options.encoder, options.llm, heard, options.out, [*quick, *options.overrides])
    answers = ask(model, asked, options.out, options.batch_size)
    found = results(answers, asked)
    write_json(options.out / RESULTS, {**found, "answers": answers})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
