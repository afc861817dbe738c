"""Whether a model with real parts hears: an unseen speaker's digits, asked as a stranger to this toolkit would.

    python -m benchmarks.spoken_digits --encoder DIR --llm DIR --fsdd DIR --out DIR [KEY=VALUE ...]

`alm quickstart --encoder --llm --data` trains a projector between a frozen speech encoder and a frozen LLM, such as
Whisper tiny.en and SmolLM2-135M-Instruct, on the digits of all speakers but one, and scores the model with its
controls. A process that imports only `transformers` then loads the saved model with `trust_remote_code=True` and asks
which digit the held-out speaker says, one by one, in batches, and without the recordings. The folder of digits holds a
`meta.csv` with the columns filename, category and speaker. Finished steps of the quickstart are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.json_text import write_json
from alm.data.manifest import read_manifest
from alm.data.records import Record
from benchmarks.measure import arguments
from eval.scoring.predictions import read_predictions
from eval.scoring.stats import mean_interval
from train.quickstart.labelled import run_labelled

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Which digit is spoken?"
RESULTS = "spoken-digits.json"

_STRANGER = """
import json, sys
from transformers import AutoModelForCausalLM, AutoProcessor

assert "alm" not in sys.modules
folder, asked, batch_size = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
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
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        found += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found

paths = [[path] for path in asked["paths"]]
print(json.dumps({
    "alone": answers(paths, 1), "together": answers(paths, batch_size), "no_audio": answers([[]], 1) * len(paths)
}))
"""


def ask(model: Path, asked: Sequence[Record], out: Path, batch_size: int) -> dict[str, list[str]]:
    """What a process answers that imports only `transformers`: alone, in batches, without the recordings."""
    paths = [str(record.audio[0].path) for record in asked]
    write_json(out / "asked.json", {"question": QUESTION, "paths": paths})
    found = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(model), str(out / "asked.json"), str(batch_size)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str((out / "modules").resolve())},
    )
    answers: dict[str, list[str]] = json.loads(found.stdout.splitlines()[-1])
    return answers


def right(answers: Sequence[str], asked: Sequence[Record]) -> list[bool]:
    """Whether an answer is the digit's name; case, spaces and a full stop do not matter."""
    return [
        answer.strip().strip(".").lower() == record.answer
        for answer, record in zip(answers, asked, strict=True)
    ]


def results(
    answers: dict[str, list[str]], asked: Sequence[Record], evaluated: Sequence[str]
) -> dict[str, Any]:
    """Accuracies with 95 % intervals over recordings, the confusions, and how many answers differ.

    Args:
        answers: From `ask`.
        asked: The records, in the same order.
        evaluated: What the evaluation of the quickstart got as answers.
    """
    found: dict[str, Any] = {"asked": len(asked)}
    for name, texts in answers.items():
        flags = [float(one) for one in right(texts, asked)]
        interval = mean_interval(flags, [record.id for record in asked], proportion=True)
        found[name] = {
            "right": int(sum(flags)),
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
        }
    wrong = zip(asked, answers["alone"], right(answers["alone"], asked), strict=True)
    mistakes = Counter(
        f"{record.answer} -> {text.strip()}" for record, text, is_right in wrong if not is_right
    )
    found["confusions"] = dict(mistakes.most_common())
    for name, other in (("changed_by_batch", answers["together"]), ("unlike_evaluation", evaluated)):
        found[name] = sum(a.strip() != b.strip() for a, b in zip(answers["alone"], other, strict=True))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train, ask, write the figures."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--encoder", required=True, help="directory or hub id of the speech encoder")
    parser.add_argument("--llm", required=True, help="directory or hub id of the LLM")
    parser.add_argument("--fsdd", type=Path, required=True, help="folder with meta.csv and the spoken digits")
    parser.add_argument("--speaker", default="nicolas", help="speaker that is held out")
    parser.add_argument("--batch-size", type=int, default=8, help="recordings asked about together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training run and the figures")
    parser.add_argument(
        "overrides", nargs="*", help="changes of configs/quickstart-labelled.yaml, as key.sub=value"
    )
    options = parser.parse_args(argv)
    run = options.out / "quickstart"
    parts = {"encoder": options.encoder, "llm": options.llm, "data": str(options.fsdd / "meta.csv")}
    quick = ["align.optim.steps=2", "align.optim.warmup_steps=1", "evaluate.limit=4"] if options.quick else []
    run_labelled(
        run,
        {**parts, "held_out": f"speaker={options.speaker}"},
        [f"question={QUESTION}", *quick, *options.overrides],
    )
    said = {
        line["id"]: line["prediction"]
        for line in read_predictions(run / "predictions.jsonl")
        if line["control"] == "none"
    }
    asked = [record for record in read_manifest(run / "data" / "test.jsonl") if record.id in said]
    answers = ask(run / "align" / "model", asked, options.out, options.batch_size)
    found = results(answers, asked, [said[record.id] for record in asked])
    write_json(options.out / RESULTS, {**found, "answers": answers})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
