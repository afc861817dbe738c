"""Files of answers with one damaged value, given to `alm score` alone and against a benchmark."""

import json
import random
import tempfile
from pathlib import Path

from fuzzing import fuzz, hostile_value, report

from eval.benchmarks import load_benchmark
from eval.metrics import load_metric
from eval.runner.score_file import score_file

# Import slow modules before the first input: an import that the time limit interrupts breaks all later inputs.
load_benchmark("clotho")
load_metric("bleu")

LINES = (
    {
        "id": "q",
        "key": "1",
        "control": "none",
        "prediction": "rain",
        "references": ["rain"],
        "choices": [],
        "kind": "qa",
        "question": "what",
        "clip": "a",
        "duration_s": 1.0,
        "model": "m",
    },
    {
        "id": "m",
        "key": "2",
        "control": "none",
        "prediction": "A",
        "references": ["rain"],
        "choices": ["rain", "wind"],
        "kind": "choice",
        "question": "which",
        "clip": "b",
        "ranking": [0.5, -1.0],
        "groups": {"level": "easy"},
    },
    {
        "id": "c",
        "key": "3",
        "control": "none",
        "prediction": "a dog barks",
        "references": ["a dog barks", "a dog"],
        "choices": [],
        "kind": "caption",
        "caption": True,
        "question": "describe",
        "clip": "c",
    },
    {
        "id": "q",
        "key": "4",
        "control": "no_audio",
        "prediction": "wind",
        "references": ["rain"],
        "choices": [],
        "clip": "a",
    },
)
QUESTIONS = '{"id": "q", "audio": "a.wav", "question": "what", "answer": "rain"}\n'


def case(rng: random.Random):
    lines = [json.loads(json.dumps(line)) for line in LINES]
    line = rng.choice(lines)
    field = rng.choice([*line, "extra", "answers"])
    if rng.random() < 0.1:
        line.pop(field, None)
    else:
        line[field] = hostile_value(rng, line.get(field))
    foreign = rng.random() < 0.3
    if foreign:
        lines = [
            {
                rng.choice(("id", "uniq_id", "name")): "q",
                rng.choice(("response", "output", "text")): line.get(field),
            }
        ]
    text = "".join(json.dumps(one) + "\n" for one in lines)
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("", "\x00", "\n", "}", "\ufffd", "[[" * 2000)) + text[at + 1 :]

    def act() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, questions = Path(folder) / "p.jsonl", Path(folder) / "t.jsonl"
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
            questions.write_text(QUESTIONS)
            against = {"benchmark": "manifest", "data": str(questions)} if foreign else {}
            scores = score_file(path, **against)
            json.dumps(scores, allow_nan=False)
            for arm in scores["arms"].values():
                for key, one in arm["scores"].items():
                    assert not key.startswith("qa/") or 0.0 <= one["value"] <= 1.0, (key, one)

    return text[:500], act


def main(seconds: float) -> int:
    return report(fuzz("predictions", case, seconds))
