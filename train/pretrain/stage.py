"""Contrastive pretraining of AudioMosaic on two masked views of every clip, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from alm.common.errors import AudioError, ConfigError
from alm.common.processes import is_main_process, world_size
from alm.data.scenes.events import RecordedEvents
from alm.data.sources import Chain
from encoders import AudioEncoder, AudioMosaicEncoder, load_encoder
from encoders.checkpoint import load_strict
from encoders.mel import frames_or_error
from train.data.order import one_source_order
from train.data.quarantine import check_audible, guarded
from train.engine.trainer import StageTrainer, fit, gathered_weights
from train.pretrain.augment_waveform import WaveformViews
from train.pretrain.clips import ClipCollator, ClipDataset, NamedClip, collate_clips, read_clips
from train.pretrain.contrastive import ContrastiveModel, build_loss
from train.pretrain.monitor import collapse_warning
from train.pretrain.online_probe import OnlineProbe
from train.pretrain.views import background_tape
from train.processes import say
from train.settings import TrainSettings

# Number of clips in the background tape, and seconds from each clip's start: at most 43 min, 125 MB of 128 mels.
_BACKGROUND_CLIPS, _BACKGROUND_S = 256, 10


class PretrainingWatch(TrainerCallback):
    """Warns of collapse and of silent clips, and probes the encoder at regular steps."""

    def __init__(self, model: ContrastiveModel, probe: OnlineProbe | None) -> None:
        self.model = model
        self.probe = probe
        self.silent_clips = 0
        self._collapsed_lines = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Probe the encoder, on every process (under ZeRO-3 no process holds all of it)."""
        if self.probe is not None and state.global_step % self.probe.settings.every == 0:
            self.model.queue_metrics(self.probe.score(self.model.encoder, args.device))
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Warn if the new line of the log shows silent clips or collapse."""
        logs = logs or {}
        if logs.get("silent_clips") and not self.silent_clips:
            say(
                f"pretrain: step {state.global_step}: {logs['silent_clips']} silent clips, which do not help training"
            )
        self.silent_clips += logs.get("silent_clips", 0)
        warm_up = min(args.warmup_steps, state.max_steps // 2)
        if "loss" not in logs or state.global_step < warm_up:
            return  # an encoder that has hardly begun to learn looks like a collapsed one
        warning = collapse_warning(logs, args.per_device_train_batch_size)
        self._collapsed_lines = self._collapsed_lines + 1 if warning else 0
        if self._collapsed_lines == 2:  # one batch can be an outlier; warn once per collapse
            say(f"pretrain: step {state.global_step}: {warning}")


@torch.no_grad()
def retrieval_accuracy(
    model: ContrastiveModel, dataset: ClipDataset, device: torch.device
) -> dict[str, float]:
    """Compute how often a clip's second view is the nearest one to its first view.

    Returns:
        `view_retrieval` in [0, 1] and `view_retrieval_chance`.
    """
    was_training = model.training
    model.eval().to(device)
    parts = []
    for start in range(0, len(dataset), 32):
        batch = collate_clips([dataset[i] for i in range(start, min(start + 32, len(dataset)))])
        parts.append(model.embed(**{key: value.to(device) for key, value in batch.items()}))
    first, second = (
        nn.functional.normalize(torch.cat(side).float(), dim=-1) for side in zip(*parts, strict=True)
    )
    hit = (first @ second.T).argmax(1) == torch.arange(len(first), device=first.device)
    model.train(was_training)
    return {"view_retrieval": float(hit.float().mean()), "view_retrieval_chance": 1 / len(first)}


def pretraining_encoder(settings: TrainSettings) -> AudioMosaicEncoder:
    """Load the encoder to train, with a contrastive head."""
    assert isinstance(settings.encoder, str)
    options = {"model_class": "AudioMosaicPretrain", **settings.encoder_options}
    encoder: AudioEncoder = load_encoder(settings.encoder, **options)
    if not isinstance(encoder, AudioMosaicEncoder):
        raise ConfigError(
            f"encoder: '{settings.encoder}' is a {type(encoder).__name__}; contrastive pretraining is for AudioMosaic"
        )
    if settings.run.checkpoint_fraction:
        encoder.checkpoint_fraction = settings.run.checkpoint_fraction
    return encoder


def pretrain(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Run the pretraining stage; writes `folder/encoder` in the release layout."""
    from transformers import set_seed

    from encoders.conformance import check_time_localisation
    from encoders.devices import pick_device

    set_seed(settings.run.seed)
    model, dataset = starting_point(settings)
    encoder = model.encoder
    held_out = clip_dataset(settings, read_clips(settings.data.validation), encoder)
    labelled = settings.contrastive.probe
    probe = OnlineProbe(labelled, encoder.config.sample_rate) if labelled.labels else None
    watch = PretrainingWatch(model, probe)
    trained_on = guarded(dataset, _check_sample, settings.data, folder)
    collator = ClipCollator(encoder.config.sample_rate)
    trainer = fit(settings.loop, model, trained_on, collator, folder, "pretrain", [watch], drop_last=True)
    trained = save_encoder(trainer, encoder, folder / "encoder")
    facts: dict[str, Any] = {"clips": len(dataset), "silent_clips": watch.silent_clips}
    if watch.silent_clips:
        say(
            f"pretrain: {watch.silent_clips} training samples were silent; remove these clips from data.train"
        )
    if len(held_out):
        held_out.clips = held_out.clips[:256]
        facts |= retrieval_accuracy(model, held_out, pick_device())
        say(
            f"pretrain: for {facts['view_retrieval']:.1%} of the held-out clips, the nearest view is the clip's "
            f"own other view (chance {facts['view_retrieval_chance']:.1%})"
        )
    if probe is not None:
        facts |= probe.score(trained, torch.device("cpu"))
    check_time_localisation(trained.eval())
    say("pretrain: time localisation is right (an impulse at second t changes the tokens of second t most)")
    return facts


def sample_checks(settings: TrainSettings) -> Iterator[tuple[str, Callable[[], None]]]:
    """See `train.stage.Stage.samples`; the checks are those of quarantine."""
    model, dataset = starting_point(settings)
    held_out = clip_dataset(settings, read_clips(settings.data.validation), model.encoder)

    def check(clips: ClipDataset, index: int) -> None:
        _check_sample(clips[index])

    for clips in (dataset, held_out):
        for index in range(len(clips)):
            yield clips.name(index), partial(check, clips, index)


def _check_sample(sample: dict[str, Any]) -> None:
    """Raise AudioError if a clip is silent."""
    check_audible(sample["waveform"], "the clip")


def check_pretraining(settings: TrainSettings) -> None:
    """Check the data of a pretraining run before an older result is replaced.

    Raises:
        UserError: A source or label table that cannot be used, or a batch that cannot be made.
    """
    read_clips(settings.data.validation)
    check_batch(settings, len(read_clips(settings.data.train)))
    probe = settings.contrastive.probe
    if probe.labels:
        RecordedEvents(probe.labels, probe.test_folds, variation=False)


def clip_dataset(
    settings: TrainSettings, clips: Sequence[NamedClip], encoder: AudioMosaicEncoder
) -> ClipDataset:
    """Return clips as waveforms or, with `views.augment: waveform`, as two views of each."""
    config, views = encoder.config, settings.contrastive.views
    if views.augment == "waveform":
        fbank = encoder.fbank
        window_samples = (config.spec_size[0] - 1) * fbank.shift_samples + fbank.window_samples
        return WaveformViews(
            clips, config.sample_rate, config.frame_shift, views, window_samples, settings.run.seed
        )
    return ClipDataset(clips, config.sample_rate, config.frame_shift)


def training_clips(settings: TrainSettings, encoder: AudioMosaicEncoder) -> ClipDataset:
    """Return the clips of `data.train`, with the order in which they fill batches."""
    sources = settings.data.train
    if not settings.contrastive.one_source_batches:
        return clip_dataset(settings, read_clips(sources), encoder)
    parts = [read_clips((source,)) for source in sources]
    dataset = clip_dataset(settings, Chain(parts), encoder)
    together = settings.optim.batch_size * world_size()
    dataset.own_order = partial(one_source_order, [len(part) for part in parts], together)
    return dataset


def starting_point(settings: TrainSettings) -> tuple[ContrastiveModel, ClipDataset]:
    """Build the model and its training clips.

    Raises:
        UserError: An encoder or clips that cannot be used.
    """
    encoder = pretraining_encoder(settings)
    dataset = training_clips(settings, encoder)
    tape = None
    if settings.contrastive.views.background_p:
        tape = background_tape(_background_clips(dataset), encoder.fbank, encoder.config.spec_size[0])
    loss = build_loss(settings.contrastive)
    model = ContrastiveModel(
        encoder, loss, settings.contrastive, settings.run.seed, settings.run.compile, tape
    )
    return model, dataset


def _background_clips(dataset: ClipDataset) -> list[Tensor]:
    """Load the beginnings (S,) of clips spread evenly over the data, the same on every process."""
    beginnings, wrong = [], None
    for clip in dataset.clips[:: -(-len(dataset) // _BACKGROUND_CLIPS)]:
        try:
            waveform = clip.ref.load(dataset.sample_rate)[: _BACKGROUND_S * dataset.sample_rate]
            frames_or_error(len(waveform), dataset.sample_rate, dataset.frame_shift_ms)
            check_audible(waveform, f"{clip.ref.path}")
        except AudioError as error:  # training reports each bad clip when it reads it
            wrong = error
        else:
            beginnings.append(torch.from_numpy(waveform.copy()))  # without the rest of a long recording
    if not beginnings:
        raise AudioError(
            f"contrastive.views.background_p: no clip can be used as a background; the last error: {wrong}"
        ) from wrong
    return beginnings


def check_batch(settings: TrainSettings, n_clips: int) -> None:
    """Check that the clips fill a batch of all processes, and that a batch has at least two.

    Raises:
        ConfigError: Too few clips, or a batch of one.
    """
    world = world_size()
    batch = settings.optim.batch_size * world
    what = f"optim.batch_size={settings.optim.batch_size}" + (f" in {world} processes" if world > 1 else "")
    if batch < 2:
        raise ConfigError(
            f"{what}: a contrastive loss needs at least two clips in a batch; raise it "
            "(contrastive.grad_cache_chunk makes room for large batches)"
        )
    if n_clips < batch:
        raise ConfigError(f"{what} but data.train has only {n_clips} clips; lower it")


def save_encoder(trainer: StageTrainer, encoder: AudioMosaicEncoder, folder: Path) -> AudioMosaicEncoder:
    """Write the trained encoder, loaded strictly into a new one, and return that; every process must call this."""
    prefix = "encoder."
    weights = {
        key.removeprefix(prefix): value
        for key, value in gathered_weights(trainer).items()
        if key.startswith(prefix)
    }
    trained = type(encoder)(encoder.config)
    load_strict(trained, weights, source="the trained encoder")
    if (
        is_main_process()
    ):  # saved before anything else can fail; only the marker says that the run is finished
        trained.save_pretrained(folder)
    return trained
