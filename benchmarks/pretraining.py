"""What pretraining buys on two small data sets: probes of pretrained encoders, untrained ones and plain log-mel.

    python -m benchmarks.pretraining --esc10 DIR --fsdd DIR --seeds 3 --out DIR

Every encoder is pretrained without labels by configs/pretrain/audiomosaic-tiny.yaml, on all ESC-10 clips outside the
held-out fold and on all spoken digits that the held-out speaker did not say. Probes then learn from the labels of the
same clips and are tested on the held-out fold and speaker, unseen in pretraining. Everything is a stage of
`alm train`; finished ones are reused, so the same command resumes it. Each folder holds a `meta.csv`
with the columns filename and category, and fold (ESC-10) or speaker (digits).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alm.common.files import write_text_atomic
from alm.common.json_text import read_json, write_json
from alm.common.settings import load_settings
from benchmarks.measure import arguments, clock, machine
from encoders.audio import seconds_of
from eval.scoring.stats import Interval, difference_interval, mean_interval
from train.finetune.splits import Split, choose_split, read_data
from train.finetune.stage import logmel_probe
from train.pipeline.rundir import MARKER
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RESULTS = "PRETRAINING.md"
MODES = ("linear", "attentive")
PARTS = {"masks": "Masks and augmentation", "released": "The released recipe in equal CPU time"}
"""Titles of the tables by their names on the command line."""
BASELINE = "log-mel logistic regression"
COST = "cost.json"
_LONG_S = 2.0
_PRETRAIN = CONFIGS / "pretrain" / "audiomosaic-tiny.yaml"
_EPOCH_STEPS = 25  # of 50 clips; ESC-10 without a fold and the digits without a speaker, long clips twice
_TIMED_STEPS = 40
_QUICK = {"pretrain": ("optim.batch_size=4", "optim.warmup_steps=1"), "attentive": ("finetune.epochs=1",)}


@dataclasses.dataclass(frozen=True)
class Held:
    """A labelled data set with its held-out part.

    Attributes:
        name: Name on the page.
        table: Its label table.
        column: The column by which the test part is chosen.
        test: Value of that column in the test part.
    """

    name: str
    table: Path
    column: str
    test: str

    def data(self) -> list[str]:
        """Overrides with which a fine-tuning stage uses this data set."""
        options = {"root": str(self.table), "fold_column": self.column}
        return [
            "data.dataset=label_csv",
            f"data.dataset_options={json.dumps(options)}",
            f'data.folds={{"test": "{self.test}"}}',
        ]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to make an encoder.

    Attributes:
        name: Its folder, and its line on the page.
        steps: Optimiser steps of pretraining; 0 leaves the encoder as it was drawn.
        overrides: What it changes in the pretraining config.
        as_long_as: Two earlier arms. This arm trains as long as the first one did; a step takes as long as one of the
            second. None trains for `steps`.
        modes: Modes of the probes on this encoder.
    """

    name: str
    steps: int
    overrides: tuple[str, ...] = ()
    as_long_as: tuple[str, str] | None = None
    modes: tuple[str, ...] = ("linear",)


def pretrained(steps: int) -> list[Arm]:
    """The shipped config and the encoder that it starts from."""
    return [Arm("pretrained", steps, modes=MODES), Arm("untrained", 0, modes=MODES)]


def masks_and_augmentations(short: int) -> list[Arm]:
    """Masks and augmentations at fewer steps.

    The augmentations are compared in the published recipe, as the config's crop and equaliser act on log-mels alone.
    """
    fast = ("contrastive.views={augment: fast}",)
    waveform = ("contrastive.views={augment: waveform}",)
    return [
        Arm("time_frequency", short),
        Arm("official", short, ("contrastive.mask_layout=official",)),
        Arm("unstructured", short, ("contrastive.mask_layout=unstructured",)),
        Arm("fast", short, fast),
        Arm("waveform, equal steps", short, waveform),
        Arm("waveform, equal time", short, waveform, ("fast", "waveform, equal steps")),
    ]


def released(steps: int, short: int) -> list[Arm]:
    """The released recipe on the same clips, sizes and batches, for as much CPU time as `pretrained` takes.

    Its masks, ratios, augmentation of waveforms, temperature, mixed batches, second beta and warm-up of an epoch are
    kept. Its learning rate is one for batches of thousands, so the shipped config's is tried, too.
    """
    recipe = (
        "contrastive.mask_layout=official",
        "contrastive.time_ratio=0.6",
        "contrastive.freq_ratio=0.4",
        "contrastive.views={augment: waveform}",
        "contrastive.temperature=0.1",
        "contrastive.one_source_batches=false",
        "optim.beta2=0.999",
        f"optim.warmup_steps={_EPOCH_STEPS}",
    )
    published = (*recipe, "optim.lr=6.0e-4")
    clocks = ("pretrained", "released, timing")
    return [
        Arm("released, timing", min(short, _TIMED_STEPS), published),
        Arm("released, equal time", steps, published, clocks),
        Arm("released, equal time, lr of the config", steps, recipe, clocks),
    ]


class Bench:
    """Runs arms in a folder.

    Args:
        sets: What is probed.
        out: The folder.
        changes: Further overrides of the stage `pretrain` and of the probes, by their mode.
    """

    def __init__(self, sets: Sequence[Held], out: Path, changes: Mapping[str, Sequence[str]]) -> None:
        self.sets, self.out, self.changes = sets, out, changes
        out.mkdir(parents=True, exist_ok=True)
        self.heard = [self._manifest(held) for held in sets]

    def _manifest(self, held: Held) -> Path:
        """Write the clips for pretraining; the first half of a long clip is a second entry, for more batches."""
        records: list[dict[str, Any]] = []
        for clip in self.split(held).clips:
            if clip.fold == held.test:
                continue
            name, file = f"{held.name}/{clip.id}", str(clip.path.resolve())
            records.append({"id": name, "audio": file})
            if (seconds := seconds_of(file)) > _LONG_S:
                records.append({"id": f"{name}#half", "audio": {"path": file, "end_s": seconds / 2}})
        path = self.out / f"pretrain-{held.name}.jsonl"
        write_text_atomic(path, "".join(json.dumps(record) + "\n" for record in records))
        return path

    def split(self, held: Held) -> Split:
        """Which clips of a set a probe learns from, which choose its epoch, which are asked about."""
        settings = load_settings(TrainSettings, CONFIGS / "finetune" / "probe-linear.yaml", held.data())
        return choose_split(read_data(settings.data), settings)

    def encoder(self, arm: Arm, seed: int) -> list[str]:
        """Overrides that name an arm's encoder, pretrained first where it is not yet."""
        if not arm.steps:
            options = load_settings(TrainSettings, _PRETRAIN).encoder_options
            return ["encoder=audiomosaic", f"encoder_options={json.dumps(options)}"]
        folder = self._folder(arm, seed) / "pretrain"
        steps = arm.steps
        if arm.as_long_as is not None:
            allowed, timed = (self._cost(name, seed) for name in arm.as_long_as)
            steps = max(1, round(timed["steps"] * allowed["seconds"] / timed["seconds"]))
        changes = [
            f"out={folder}",
            f"run.seed={seed}",
            f"optim.steps={steps}",
            f"data.train={json.dumps([str(path) for path in self.heard])}",
            "data.validation=[]",
            *arm.overrides,
        ]
        settings = load_settings(TrainSettings, _PRETRAIN, [*changes, *self.changes.get("pretrain", ())])
        marker, now = folder / MARKER, clock()
        before, started = marker.stat().st_mtime_ns if marker.is_file() else None, now()
        found = run_stage(settings)
        if marker.stat().st_mtime_ns != before:  # not reused
            cost = {"seconds": round(now() - started, 1), "steps": steps}
            write_json(folder.parent / COST, cost)
        return [f"encoder={found}"]

    def _folder(self, arm: Arm, seed: int) -> Path:
        return self.out / arm.name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"

    def _cost(self, name: str, seed: int) -> dict[str, Any]:
        return read_json(self._folder(Arm(name, 0), seed) / COST)

    def probe(self, arm: Arm, seed: int) -> None:
        """Pretrain an arm's encoder and probe it; what is finished is reused."""
        encoder = self.encoder(arm, seed)
        for held in self.sets:
            for mode in arm.modes:
                folder = self._folder(arm, seed) / f"{held.name}-{mode}"
                changes = [f"out={folder}", f"run.seed={seed}", *encoder, *held.data()]
                changes += self.changes.get(mode, ())
                run_stage(load_settings(TrainSettings, CONFIGS / "finetune" / f"probe-{mode}.yaml", changes))

    def right(self, arm: Arm, held: Held, mode: str, seeds: int) -> np.ndarray:
        """Whether each seed's probe was right about each asked clip: (seeds, clips) zeros and ones."""
        rows = []
        for seed in range(seeds):
            file = self._folder(arm, seed) / f"{held.name}-{mode}" / "predictions.jsonl"
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            rows.append([line["predicted"] in line["labels"] for line in lines])
        return np.array(rows, dtype=np.float64)

    def baseline(self, held: Held) -> np.ndarray:
        """The same for logistic regression on the mean and deviation of the log-mel: (1, clips)."""
        split = self.split(held)
        said, _ = logmel_probe(split, 16000, seed=0)
        wanted = split.targets(split.test).numpy()
        return wanted[np.arange(len(said)), said.argmax(axis=1)][None].astype(np.float64)

    def groups(self, held: Held) -> list[str]:
        """The source recording of each asked clip."""
        return [clip.group for clip in self.split(held).test]

    def costs(self, arm: Arm, seeds: int) -> list[dict[str, Any]]:
        """Steps and seconds of an arm's pretraining, seed by seed."""
        files = [self._folder(arm, seed) / COST for seed in range(seeds)]
        return [read_json(file) for file in files if file.is_file()]


def over_seeds(right: np.ndarray, groups: Sequence[str]) -> Interval:
    """Mean accuracy over seeds, its interval resampling recordings: (seeds, clips) zeros and ones."""
    return mean_interval(right.flatten(), list(groups) * len(right), proportion=True)


def advantage(first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> Interval:
    """Mean of the difference of two systems' accuracy on the same clips, seeds averaged."""
    return difference_interval(first.mean(axis=0), second.mean(axis=0), groups)


def percent(interval: Interval, signed: bool = False) -> str:
    """`81.2 [75.0, 87.5]`."""
    sign = "+" if signed else ""
    text = f"{100 * interval.value:{sign}.1f}"
    if interval.low is None or interval.high is None:
        return text
    return f"{text} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"


def page(
    bench: Bench,
    main: Sequence[Arm],
    tables: Mapping[str, Sequence[Arm]],
    seeds: int,
    about: Sequence[str],
    command: str,
) -> str:
    """The Markdown page: the probes of the two main arms, then a table for each group of other arms, by its title."""
    lines = [_HEAD.format(command=command), *(f"- {line}" for line in about), ""]
    for held in bench.sets:
        split = bench.split(held)
        lines.append(
            f"- {held.name}: {held.column} {held.test} held out; probes learn from {len(split.train)} clips and "
            f"{len(split.validation)} more (which choose an attentive one's epoch); {len(split.test)} are asked about"
        )
    lines += [
        "",
        "## Probes",
        "",
        "| data | probe | system | accuracy | seeds | over untrained | over log-mel |",
    ]
    lines.append("|---" * 7 + "|")
    trained, untrained = main
    for held in bench.sets:
        groups, plain = bench.groups(held), bench.baseline(held)
        for mode in MODES:
            ours, theirs = (bench.right(arm, held, mode, seeds) for arm in (trained, untrained))
            better = [percent(advantage(ours, other, groups), signed=True) for other in (theirs, plain)]
            for name, right, extra in (("pretrained", ours, better), ("untrained", theirs, ["", ""])):
                cells = [held.name, mode, name, percent(over_seeds(right, groups)), _each(right), *extra]
                lines.append("| " + " | ".join(cells) + " |")
        cells = [held.name, "", BASELINE, percent(over_seeds(plain, groups)), "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for title, listed in tables.items():
        lines += ["", f"## {title}, linear probe", ""]
        lines.append(
            "| pretraining | steps | seconds | " + " | ".join(held.name for held in bench.sets) + " |"
        )
        lines.append("|---" * (3 + len(bench.sets)) + "|")
        for arm in listed:
            costs = bench.costs(arm, seeds)
            cells = [arm.name, *(_range([cost[key] for cost in costs]) for key in ("steps", "seconds"))]
            for held in bench.sets:
                right = bench.right(arm, held, "linear", seeds)
                cells.append(f"{percent(over_seeds(right, bench.groups(held)))} ({_each(right)})")
            lines.append("| " + " | ".join(cells) + " |")
    costs = bench.costs(trained, seeds)
    seconds = _range([cost["seconds"] for cost in costs])
    lines += [
        "",
        f"The pretrained encoders took {seconds} s each for {_range([c['steps'] for c in costs])} steps.",
    ]
    return "\n".join(lines) + "\n"


def _each(right: np.ndarray) -> str:
    return " ".join(f"{100 * value:.1f}" for value in right.mean(axis=1))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f}-{high:.0f}"


_HEAD = """# What pretraining buys

Written by `{command}`. Accuracy in percent on held-out recordings, mean over the seeds; 95 % intervals resample source
recordings, the seeds' own figures stand beside. Untrained encoders are the same architecture as it is drawn, one per
seed. Logistic regression reads the mean and deviation of 128 log-mel bands of the same clips. Nothing of the held-out
fold and speaker was heard in pretraining, and no setting was chosen by them.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all arms, write the page."""
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--esc10", type=Path, required=True, help="folder with meta.csv and the clips of ESC-10"
    )
    parser.add_argument("--fsdd", type=Path, required=True, help="folder with meta.csv and the spoken digits")
    parser.add_argument("--fold", default="4", help="ESC-10 fold that is held out")
    parser.add_argument("--speaker", default="nicolas", help="speaker that is held out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of the pretrained encoders (default: the config's)")
    parser.add_argument(
        "--short-steps", type=int, default=400, help="steps of the compared masks and augmentations"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to compare with (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="run directories, reused where they are finished"
    )
    parser.add_argument("--page", type=Path, help=f"where to write the page (default OUT/{RESULTS})")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    about = machine()
    sets = [
        Held("ESC-10", options.esc10 / "meta.csv", "fold", options.fold),
        Held("digits", options.fsdd / "meta.csv", "speaker", options.speaker),
    ]
    bench = Bench(sets, options.out, _QUICK if options.quick else {})
    steps = options.steps or load_settings(TrainSettings, _PRETRAIN).optim.steps
    steps, short = (2, 2) if options.quick else (steps, options.short_steps)
    groups = {"masks": masks_and_augmentations(short), "released": released(steps, short)}
    tables = {PARTS[part]: groups[part] for part in PARTS if part in options.parts}
    trained = pretrained(steps)
    for seed in range(options.seeds):
        for arm in (*trained, *(arm for group in tables.values() for arm in group)):
            bench.probe(arm, seed)
    command = f"python -m benchmarks.pretraining --esc10 DIR --fsdd DIR --seeds {options.seeds} --out DIR"
    command += f" --steps {options.steps}" * (options.steps is not None)
    command += f" --parts {' '.join(options.parts)}" * (list(options.parts) != list(PARTS))
    about += ["**Quick mode: these figures mean nothing.**"] * options.quick
    text = page(bench, trained, tables, options.seeds, about, command)
    write_text_atomic(options.page or options.out / RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
