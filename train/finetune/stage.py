"""Fine-tuning and probing: train a head (and the encoder) on labelled clips, select by validation, score test clips."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.common.json_text import write_json
from alm.common.processes import is_main_process, world_size
from encoders import AudioEncoder, AudioMosaicEncoder, list_encoders, load_encoder
from encoders.checkpoint import write_weights
from encoders.devices import pick_device
from train.engine.groups import layer_scales
from train.engine.trainer import fit
from train.finetune.datasets import LabelledClip
from train.finetune.heads import AttentiveHead, ClipHead, FinetuneModel, build_head, encode
from train.finetune.inputs import (
    FeatureRows,
    LabelledAudio,
    WaveformRows,
    collate_features,
    collate_waveforms,
    compute_features,
    predict,
)
from train.finetune.optim import BestEpoch, FinetuneTrainer
from train.finetune.scores import LOWER_IS_BETTER, markdown, metrics_of, report, score
from train.finetune.splits import Split, choose_split, digest, read_data
from train.processes import say
from train.settings import TrainSettings
from train.settings.finetune import FinetuneSettings

if TYPE_CHECKING:
    from eval.scoring.logistic import LinearClassifier

# Added to the run's seed, so that the random encoder differs from a run's initial weights.
_CONTROL_SEED = 1009


def check_finetune(settings: TrainSettings) -> dict[str, Any]:
    """Check data, split, encoder and options before an older result is replaced.

    Returns:
        Facts about the data that the result depends on.

    Raises:
        UserError: They do not fit together.
    """
    data = read_data(settings.data)
    split = choose_split(data, settings)
    options = settings.finetune
    for name in options.class_weights:
        if name not in data.classes:
            raise ConfigError(
                f"finetune.class_weights: no class '{name}'; classes: {', '.join(data.classes[:20])}"
            )
    if options.metric not in ("auto", *metrics_of(data)):
        raise ConfigError(
            f"finetune.metric: got '{options.metric}', this data set has {', '.join(metrics_of(data))}"
        )
    if options.loss == "ce" and data.multi_label:
        raise ConfigError("finetune.loss: got 'ce', but clips of this data set have several labels; use bce")
    encoder = _load(settings)
    if options.augment.on_log_mel and not isinstance(encoder, AudioMosaicEncoder):
        raise ConfigError(
            f"finetune.augment: {type(encoder).__name__} does not offer its log-mel; "
            "noise, spec_* and mask_* are for AudioMosaic"
        )
    if options.augment.on_log_mel and (options.mode not in ("full", "linear") or options.reads_tokens):
        raise ConfigError(
            f"finetune.augment: noise, spec_* and mask_* need the clip feature (mode full or linear, head auto), "
            f"not mode {options.mode} with head {options.head}"
        )
    head = build_head(encoder, options, _example(encoder, options), len(data.classes))
    if isinstance(head, AttentiveHead) and settings.optim.batch_size * world_size() < 2:
        raise ConfigError(
            "optim.batch_size=1: the attentive head normalises over the batch; raise it to 2 or more"
        )
    if options.layer_decay < 1:
        layer_scales(encoder, options.layer_decay)
    return {"clips": digest(data), "training_clips": len(split.train)}


def finetune(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Run the stage.

    Writes `folder/classifier` (the head and its description), `folder/encoder` if the encoder was trained or has random
    weights, `predictions.jsonl` of the test clips, and `scores.json` with its page `scores.md`.
    """
    data = read_data(settings.data)
    split = choose_split(data, settings)
    if settings.finetune.metric != "auto":
        data = dataclasses.replace(data, metric=settings.finetune.metric)
        split = dataclasses.replace(split, data=data)
    for note in split.notes:
        say(f"finetune: {note}")
    encoder = _load(settings)
    predicted, facts, model = _train(settings, split, encoder, folder)
    if is_main_process():
        _save(settings, split, encoder, model.head, folder)
        _write_predictions(split, predicted, folder / "predictions.jsonl")
    targets = split.targets(split.test).numpy()
    systems = {_title(settings): report(data, split.test, predicted, targets) | facts}
    if settings.finetune.controls:
        untrained = _untrained(encoder, settings.run.seed + _CONTROL_SEED)
        predicted, facts, _ = _train(settings, split, untrained, folder / "control")
        name = f"{_title(settings)}, untrained encoder"
        systems[name] = report(data, split.test, predicted, targets) | facts
    if settings.finetune.baseline and is_main_process():
        predicted, strength = logmel_probe(split, encoder.config.sample_rate, settings.run.seed)
        systems["log-mel logistic regression"] = report(data, split.test, predicted, targets) | {
            "strength": strength
        }
    scores = {
        "name": f"{settings.data.dataset or Path(settings.data.train[0]).stem}",
        "metric": data.metric,
        "split": {
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "classes": len(data.classes),
            "test_fold": settings.data.folds.test,
            "notes": list(split.notes),
        },
        "systems": systems,
    }
    if is_main_process():
        write_json(folder / "scores.json", scores)
        write_text_atomic(folder / "scores.md", markdown(scores))
    say(markdown(scores))
    return {"scores": {name: system[data.metric]["value"] for name, system in systems.items()}}


def _load(settings: TrainSettings) -> AudioEncoder:
    """Load the encoder; one without weights is initialised from the run's seed."""
    assert isinstance(settings.encoder, str)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.run.seed)
        return load_encoder(settings.encoder, **settings.encoder_options)


def _untrained(encoder: AudioEncoder, seed: int) -> AudioEncoder:
    """Build the same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return type(encoder)(encoder.config)


def _example(encoder: AudioEncoder, options: FinetuneSettings) -> Tensor:
    """Compute features of a second of silence, for their shape."""
    n_samples = encoder.config.sample_rate
    encoder.eval()
    with torch.no_grad():
        waveforms, lengths = torch.zeros(1, n_samples), torch.tensor([n_samples])
        return encode(encoder, options, waveforms, lengths)["features"].float()


def _train(
    settings: TrainSettings, split: Split, encoder: AudioEncoder, folder: Path
) -> tuple[np.ndarray, dict[str, Any], FinetuneModel]:
    """Train a head, and the encoder in mode full; return the test clips' probabilities at the best epoch."""
    from transformers import set_seed

    options, data, device = settings.finetune, split.data, pick_device()
    set_seed(settings.run.seed)
    head = build_head(encoder, options, _example(encoder, options), len(data.classes))
    audio = LabelledAudio(encoder)
    if options.frozen:
        encoder.freeze()
    targets = split.targets(split.train)
    drawn = (split.train, targets, options, settings.run.seed)
    features: dict[str, list[Tensor]] = {}
    if options.cached or options.probe_first:
        kept = Path(settings.data.feature_folder) if settings.data.feature_folder else None
        # In the same order for every fold, so that the folds share cached features.
        clips = sorted(split.clips if options.cached else split.train, key=lambda clip: clip.id)
        limit = settings.data.cache_limit_gb
        features = compute_features(encoder, options, audio, clips, device, limit, kept)
    if options.cached:
        if options.solver == "logistic":
            return _solve(settings, split, head, features)
        rows: Any = FeatureRows(features, *drawn)
        collate: Any = collate_features
    else:
        rows, collate = WaveformRows(audio, *drawn), collate_waveforms
        if options.probe_first:
            _solve_first(settings, split, head, features)
    weights = [options.class_weights.get(name, 1.0) for name in data.classes]
    model = FinetuneModel(
        head,
        None if options.cached else encoder,
        options,
        data.multi_label,
        torch.tensor(weights) if options.class_weights else None,
    ).to(device)
    if not options.frozen:
        _freeze_unused(model, audio.read(split.train[0]))

    def crops_of(clip: LabelledClip) -> Sequence[Any]:
        return features[clip.id] if options.cached else audio.crops(clip, options)

    def predict_clips(clips: Sequence[LabelledClip]) -> np.ndarray:
        return predict(model, clips, crops_of, settings.optim.batch_size, device)

    wanted = split.targets(split.validation).numpy()

    def validate() -> tuple[float, float]:
        predicted = predict_clips(split.validation)
        value = score(data, data.metric, predicted, wanted)
        loss = float(-(wanted * np.log(predicted.clip(1e-7, 1))).sum(axis=1).mean())
        return (-value if data.metric in LOWER_IS_BETTER else value), loss

    folder.mkdir(parents=True, exist_ok=True)
    best = BestEpoch(
        model, validate, folder / "checkpoints", folder / "metrics.jsonl", start_counts=options.probe_first
    )
    fit(
        _scheduled(settings, len(rows)).loop,
        model,
        rows,
        collate,
        folder,
        "finetune",
        [best],
        FinetuneTrainer,
    )
    best.restore()
    assert best.best is not None
    facts = {"validation": abs(best.best["score"]), "best_epoch": best.best["epoch"]}
    return predict_clips(split.test), facts | {"trained": _n_trained(model)}, model


def _solve(
    settings: TrainSettings, split: Split, head: ClipHead, features: dict[str, list[Tensor]]
) -> tuple[np.ndarray, dict[str, Any], FinetuneModel]:
    """Like `_train`, with the logistic solver; the only random choice is the folds that select the penalty."""

    def features_of(clip: LabelledClip) -> np.ndarray:
        return features[clip.id][0].double().numpy()

    solved = _regression(split, (*split.train, *split.validation), features_of, settings.run.seed)
    _set(head, solved)
    model = FinetuneModel(head, None, settings.finetune, split.data.multi_label, None)
    predicted = solved.probabilities(np.stack([features_of(clip) for clip in split.test]))
    return predicted, {"strength": solved.strength, "trained": _n_trained(model)}, model


def _solve_first(
    settings: TrainSettings, split: Split, head: ClipHead, features: dict[str, list[Tensor]]
) -> None:
    """Start fine-tuning from the best classifier for the unchanged encoder (Kumar et al. 2022, LP-FT).

    With a random classifier, the first steps would distort the features. The validation clips are not used: they select
    the epoch.
    """

    @torch.no_grad()
    def features_of(clip: LabelledClip) -> np.ndarray:
        normed: np.ndarray = head.norm(features[clip.id][0][None])[0].double().numpy()
        return normed

    _set(head, _regression(split, split.train, features_of, settings.run.seed))


def _set(head: ClipHead, solved: LinearClassifier) -> None:
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(solved.weight))
        head.linear.bias.copy_(torch.from_numpy(solved.bias))


def _scheduled(settings: TrainSettings, n_rows: int) -> TrainSettings:
    """Compute steps and learning rate from epochs and the learning rate per 256 clips."""
    options, optim = settings.finetune, settings.optim
    batch = optim.batch_size * optim.accumulation * world_size()
    per_epoch = max(1, math.ceil(n_rows / batch))
    changes: dict[str, Any] = {}
    if options.epochs is not None:
        changes["steps"] = options.epochs * per_epoch
        changes["warmup_steps"] = min(optim.warmup_steps, changes["steps"] // 10)
    if options.warmup_epochs is not None:
        changes["warmup_steps"] = round(options.warmup_epochs * per_epoch)
    if options.base_lr is not None:
        changes["lr"] = options.base_lr * batch / 256
    return dataclasses.replace(settings, optim=dataclasses.replace(optim, **changes))


def _freeze_unused(model: FinetuneModel, wave: np.ndarray) -> None:
    """Freeze parameters that the logits do not depend on, for example the head of another objective."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    waveforms = torch.from_numpy(wave)[None].to(device)
    model(waveforms=waveforms, lengths=torch.tensor([len(wave)]))["logits"].sum().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
    model.zero_grad(set_to_none=True)
    model.train(was_training)


def _n_trained(model: FinetuneModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _title(settings: TrainSettings) -> str:
    source = Path(str(settings.encoder))
    name = source.parent.name if source.name == "encoder" and source.parent.name else source.name
    head = "" if settings.finetune.head == "auto" else f", {settings.finetune.head} head"
    return f"{name}, {'fine-tuned' if settings.finetune.mode == 'full' else settings.finetune.mode}{head}"


def _save(settings: TrainSettings, split: Split, encoder: AudioEncoder, head: ClipHead, folder: Path) -> None:
    """Write the head with its description, and the encoder if only this run has it."""
    where = str(settings.encoder)
    encoder = encoder.cpu()
    if not settings.finetune.frozen or settings.encoder in list_encoders():
        where = "../encoder"
        whole = (
            settings.finetune.mode == "full"
            and type(head) is ClipHead
            and isinstance(encoder, AudioMosaicEncoder)
            and encoder.clip_norm
        )
        saved = encoder.as_classifier(head.norm, head.linear) if whole else encoder  # type: ignore[operator]
        saved.save_pretrained(folder / "encoder")
        write_text_atomic(
            folder / "encoder" / "labels.json", json.dumps(list(split.data.classes), indent=2) + "\n"
        )
    place = folder / "classifier"
    place.mkdir(parents=True, exist_ok=True)
    write_weights(place / "head.safetensors", head.state_dict())
    described = {
        "mode": settings.finetune.mode,
        "classes": list(split.data.classes),
        "multi_label": split.data.multi_label,
        "encoder": where,
        "encoder_options": {} if where == "../encoder" else settings.encoder_options,
        "finetune": dataclasses.asdict(settings.finetune),
    }
    write_text_atomic(place / "classifier.json", json.dumps(described, indent=2) + "\n")


def load_classifier(folder: str | Path) -> tuple[FinetuneModel, tuple[str, ...]]:
    """Load a classifier and its encoder in evaluation mode, and its classes.

    Args:
        folder: `out/classifier` of a fine-tuning run.

    Raises:
        CheckpointError: Weights are missing or do not fit.
    """
    from alm.common.settings import parse_settings
    from encoders.base import read_config
    from encoders.checkpoint import load_strict, read_weights

    place = Path(folder)
    described = read_config(place / "classifier.json")
    described["finetune"].pop("heads", None)  # an option of older versions, whose weights would not fit below
    options = parse_settings(FinetuneSettings, described["finetune"], where=str(place / "classifier.json"))
    source = described["encoder"]
    source = str((place / source).resolve()) if source.startswith("..") else source
    encoder = load_encoder(source, **described["encoder_options"])
    classes = tuple(described["classes"])
    head = build_head(encoder, options, _example(encoder, options), len(classes))
    load_strict(head, read_weights(place / "head.safetensors"), source=str(place / "head.safetensors"))
    return FinetuneModel(head, encoder, options, described["multi_label"]).eval(), classes


def _write_predictions(split: Split, probabilities: np.ndarray, path: Path) -> None:
    """Write one line per test clip: its labels, the most likely class, and the probability of every class."""
    lines = []
    for clip, row in zip(split.test, probabilities, strict=True):
        values = {
            "id": clip.id,
            "labels": list(clip.labels),
            "predicted": split.data.classes[int(row.argmax())],
            "probabilities": [round(float(value), 6) for value in row],
        }
        lines.append(json.dumps(values))
    write_text_atomic(path, "\n".join(lines) + "\n")


def logmel_probe(split: Split, sample_rate: int, seed: int) -> tuple[np.ndarray, float]:
    """Fit logistic regression on mean and standard deviation of the log-mel.

    Returns:
        Probabilities (test clips, C), and the inverse strength of the penalty that cross-validation chose.
    """
    from encoders.audio import load_audio
    from eval.scoring.baselines import logmel_features

    def features_of(clip: LabelledClip) -> np.ndarray:
        wave = load_audio(clip.path, sample_rate, clip.start_s, clip.end_s)
        row: np.ndarray = logmel_features([wave], sample_rate)[0]
        return row

    model = _regression(split, (*split.train, *split.validation), features_of, seed)
    return model.probabilities(np.stack([features_of(clip) for clip in split.test])), model.strength


def _regression(
    split: Split, clips: Sequence[LabelledClip], features_of: Callable[[LabelledClip], np.ndarray], seed: int
) -> LinearClassifier:
    """Fit logistic regression to clips; its penalty is chosen by cross-validation."""
    from eval.scoring.logistic import fit_logistic

    return fit_logistic(
        np.stack([features_of(clip) for clip in clips]),
        split.targets(clips).double().numpy(),
        [clip.group for clip in clips],
        multi_label=split.data.multi_label,
        seed=seed,
    )
