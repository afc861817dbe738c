"""Fuzz the index that `alm ablate --report-only` reads."""

import dataclasses
import json
import tempfile
from pathlib import Path

from fuzzing import corrupted, fuzz, report

from alm.common.settings import parse_settings
from eval.ablation.report import write_ablation_report
from eval.ablation.settings import AblationSettings

SETTINGS = {
    "out": "x",
    "baseline": "logmel",
    "inputs": {"train": ["a.jsonl"], "validation": ["b.jsonl"], "test": "c.jsonl", "llm": "some/llm"},
    "stages": {"align": {"optim": {"lr": 1e-3, "steps": 10}}, "instruct": {"optim": {"lr": 1e-3}}},
    "axes": {"encoder": {"logmel": {"align": {"encoder": "logmel"}}}},
}


def index_of():
    """The index of an ablation whose one arm was not run."""
    arm = {
        "name": "logmel", "track": "native", "tokens_per_s": 6.25, "remark": "", "config": {"align": {"a": 1}},
        "steps": {}, "plan": {"align": "plan-0"}, "lr_scale": 1.0, "sweep": {}, "probe": [], "error": "",
        "runs": [{"seed": 0, "key": "k", "train": ["align-0"], "score": "score-0", "chain": ["align-0", "score-0"]}],
    }  # fmt: skip
    settings = dataclasses.asdict(parse_settings(AblationSettings, SETTINGS))
    return {"settings": settings, "work": ".", "arms": [arm]}


def case_in(folder):
    """Cases for the harness: change one place of the index, then write the report in `folder`."""

    def case(rng):
        what, tree = corrupted(rng, index_of())
        text = json.dumps(tree)

        def make_report():
            (folder / "arms.json").write_text(text)
            write_ablation_report(folder)

        return what, make_report

    return case


def main(seconds):
    with tempfile.TemporaryDirectory() as folder:
        return report(fuzz("arms.json", case_in(Path(folder)), seconds))


if __name__ == "__main__":
    raise SystemExit(main(60.0))
