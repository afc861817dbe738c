"""Cross-validation: one fine-tuning run per fold, each in its own run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.common.json_text import read_json, write_json
from alm.common.processes import is_main_process
from train.finetune.scores import fold_markdown, fold_summary
from train.finetune.splits import check_fold, folds_of, read_data
from train.processes import say
from train.settings import TrainSettings


def run_folds(settings: TrainSettings, run: Callable[[TrainSettings], Path]) -> Path:
    """Run the folds of `finetune.folds`, reuse finished ones, and summarise them in `out/scores.json` and `.md`.

    Returns:
        The directory of the summary.

    Raises:
        ConfigError: No such fold, or no folds at all.
    """
    known = folds_of(read_data(settings.data))
    if not known:
        raise ConfigError("finetune.folds: the data set has no folds; remove finetune.folds")
    asked = (
        known if settings.finetune.folds == "all" else [str(fold) for fold in settings.finetune.folds or ()]
    )
    for fold in asked:
        check_fold("finetune.folds", fold, known)
    folder = Path(settings.out)
    features = settings.data.feature_folder
    if features is None and settings.finetune.cached:
        features = str(folder / "features")  # the folds share the frozen encoder's features
    results = {}
    for fold in asked:
        one = dataclasses.replace(
            settings,
            out=str(folder / f"fold-{fold}"),
            data=dataclasses.replace(
                settings.data,
                feature_folder=features,
                folds=dataclasses.replace(settings.data.folds, test=fold),
            ),
            finetune=dataclasses.replace(settings.finetune, folds=None),
        )
        run(one)
        results[fold] = read_json(folder / f"fold-{fold}" / "scores.json")
    summary = fold_summary(folder.name, results)
    page = fold_markdown(summary)
    if is_main_process():
        write_json(folder / "scores.json", summary)
        write_text_atomic(folder / "scores.md", page)
    say(page)
    return folder
