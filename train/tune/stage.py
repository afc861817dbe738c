"""Alignment and instruction tuning: they differ by the trainable parts and by the model they start from."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, lcm
from pathlib import Path
from typing import Any

from alm.checkpoint import load_llm, load_model, load_processor
from alm.common.errors import AudioError
from alm.common.processes import is_main_process, world_size
from alm.data.records import AudioRef, Record
from alm.data.sources import open_records, open_source, parts_of, resolve_source
from alm.hub.model_card import parameter_size
from alm.llm import gguf_file, load_tokenizer
from alm.model import AudioLanguageModel
from alm.processing.branches import check_branches
from alm.processor import AudioLanguageProcessor, build_processor
from encoders import AudioEncoder, load_encoder
from encoders.devices import pick_device
from train.data.augmented_clips import NO_AUGMENTATION, ClipAugmenter
from train.data.order import Lengths, SampleOrder, tempered
from train.data.protocols import TrainingDataset
from train.data.quarantine import guarded
from train.engine.arguments import counted
from train.engine.compiled import compile_blocks
from train.engine.fsdp import check_processes
from train.engine.trainer import fit, gathered_weights
from train.processes import say
from train.settings import TrainSettings
from train.tune.centring import centre_tokens
from train.tune.controls import audio_control_losses, mean_loss, samples_of
from train.tune.conversations import (
    ClipFeatures,
    ClipWaveforms,
    ConversationCollator,
    ConversationDataset,
    clips_of,
)
from train.tune.lengths import SampleLengths
from train.tune.packing import check_packing
from train.tune.sharing import SharedClips, groups_by_clip

_LONGEST_TOKEN_S = 60  # no encoder with a projector needs a longer clip than this for its first token


def starting_model(settings: TrainSettings) -> tuple[AudioLanguageModel, AudioLanguageProcessor]:
    """Load the model that a stage starts from, or assemble a new one from encoder, projector and LLM."""
    trusted = settings.trust_remote_code
    if settings.model is not None:
        model = load_model(settings.model, trust_remote_code=trusted)
        return model, load_processor(settings.model, trust_remote_code=trusted)
    assert settings.encoder is not None and settings.llm is not None
    encoder = load_encoder(settings.encoder, **settings.encoder_options)
    llm = load_llm(settings.llm, bits=settings.llm_bits, trust_remote_code=trusted)
    tokenizer = load_tokenizer(settings.llm, trust_remote_code=trusted)
    model = AudioLanguageModel.assemble(
        encoder,
        llm,
        settings.projector,
        settings.projector_options,
        # Weights of a GGUF file are de-quantised and saved with the model.
        llm_source=None if gguf_file(settings.llm) else settings.llm,
        llm_bits=settings.llm_bits,
        # A fusion of encoders has no single source.
        encoder_source=settings.encoder if isinstance(settings.encoder, str) else None,
    )
    return model, build_processor(tokenizer, model, settings.chat_template)


def model_to_train(settings: TrainSettings) -> tuple[AudioLanguageModel, AudioLanguageProcessor, str]:
    """The model that a stage trains, its processor, and the table of its trainable parameters."""
    model, processor = starting_model(settings)
    table = model.set_policy(settings.policy)
    if settings.run.compile:
        compile_blocks(model.llm)
    return model, processor, table


def training_data(
    settings: TrainSettings,
    records: Sequence[Record],
    processor: AudioLanguageProcessor,
    clips: ClipWaveforms,
) -> tuple[TrainingDataset, ConversationCollator]:
    """Return the samples, in the order of the config, and their collator."""
    data = settings.data
    augmenter = clip_augmenter(settings, processor)
    sizes, weights, lengths, together = _ordering(settings, records, processor, augmenter)
    collator = ConversationCollator(
        processor, clips, data.max_length, data.pack, data.supervise, shared=data.share_clips > 0
    )
    if not data.share_clips:
        order = SampleOrder(sizes, weights, lengths, together)
        return ConversationDataset(records, settings.run.seed, order, augmenter), collator
    samples = ConversationDataset(records, settings.run.seed, augmenter=augmenter)
    groups = groups_by_clip(records, data.share_clips)
    return SharedClips(samples, groups, weights, lengths, together), collator


def sample_checks(settings: TrainSettings) -> Iterator[tuple[str, Callable[[], None]]]:
    """See `train.stage.Stage.samples`; the checks are those of quarantine."""
    sources = [open_records(settings.data.train), open_records(settings.data.validation)]
    _, processor = starting_model(settings)
    clips = ClipWaveforms(processor.sample_rate)
    data = settings.data
    collator = ConversationCollator(processor, clips, data.max_length, supervise=data.supervise)
    augmenters = (clip_augmenter(settings, processor), NO_AUGMENTATION)

    def check(dataset: ConversationDataset, index: int) -> None:
        heard: list[AudioRef] = []
        n_captions, versions = len(dataset.records[index].captions), dataset.augmenter.settings.versions
        try:
            # each epoch shows another caption, or another version of a clip
            for epoch in range(lcm(n_captions or 1, versions or 1)):
                dataset.set_epoch(epoch)
                sample = dataset[index]
                heard += sample["audio"]
                collator.check(sample)
        finally:
            clips.forget(heard)

    datasets = [
        ConversationDataset(records, settings.run.seed, augmenter=augmenter)
        for records, augmenter in zip(sources, augmenters, strict=True)
        if len(records)
    ]
    for dataset in datasets:
        for index in range(len(dataset)):
            yield dataset.name(index), partial(check, dataset, index)


def _ordering(
    settings: TrainSettings,
    records: Sequence[Record],
    processor: AudioLanguageProcessor,
    augmenter: ClipAugmenter,
) -> tuple[list[int], list[float] | None, Lengths | None, int]:
    """Return what the order depends on: records and shares of the sources, lengths to group by, samples of a pass."""
    data = settings.data
    sizes = [len(part) for part in parts_of(records)]
    weights, lengths = None, None
    if data.mixture is not None:
        weights = tempered(data.mixture.weights or sizes, data.mixture.temperature)
        shares = ", ".join(f"{path} {share:.1%}" for path, share in zip(data.train, weights, strict=True))
        say(f"{settings.stage}: mixture of {shares}")
    if data.group_by_length:
        lengths = SampleLengths(records, processor, data.on_bad == "quarantine", augmenter)
    return sizes, weights, lengths, settings.optim.batch_size * world_size()


def caches_features(settings: TrainSettings, encoder: AudioEncoder) -> bool:
    """Whether a stage caches its encoder's tokens, which must not change during training."""
    if not settings.data.cache_features or settings.policy.encoder != "frozen":
        return False
    if encoder.readout and settings.policy.projector == "train":
        say(
            "data.cache_features: tokens are not cached, because the weights of the encoder's layers are trained"
        )
        return False
    return True


def clip_augmenter(settings: TrainSettings, processor: AudioLanguageProcessor) -> ClipAugmenter:
    """Return the augmenter of a stage's training clips."""
    if not settings.data.augment.any:
        return NO_AUGMENTATION
    return ClipAugmenter(settings.data.augment, settings.run.seed, shortest_clip(processor))


def shortest_clip(processor: AudioLanguageProcessor) -> int:
    """Length in samples of the shortest clip that gives a token."""

    def is_enough(n_samples: int) -> bool:
        try:
            return processor.n_audio_tokens(n_samples) > 0
        except AudioError:
            return False

    return 1 + bisect_left(range(1, _LONGEST_TOKEN_S * processor.sample_rate), True, key=is_enough)


def training_clips_of(
    settings: TrainSettings, records: Sequence[Record], augmenter: ClipAugmenter
) -> list[AudioRef]:
    """Return all different clips that training uses, each augmented version by itself."""
    optim, share = settings.optim, settings.data.share_clips
    n_items = sum(map(len, groups_by_clip(records, share))) if share else len(records)
    batches = ceil(n_items / (optim.batch_size * world_size()))
    steps = counted(optim, n_items, world_size()).steps
    epochs = ceil(steps / ceil(batches / optim.accumulation))
    return list(augmenter.all_of(clips_of(records), epochs))


def cached_features(
    settings: TrainSettings,
    encoder: AudioEncoder,
    records: Sequence[Record],
    held_out: Sequence[Record],
    augmenter: ClipAugmenter = NO_AUGMENTATION,
) -> ClipFeatures:
    """Return the frozen encoder's tokens of all clips; those that `data.feature_folder` lacks are computed."""
    data, device = settings.data, pick_device()
    encoder.to(device)
    folder = Path(data.feature_folder) if data.feature_folder else None
    refs = list(dict.fromkeys([*training_clips_of(settings, records, augmenter), *clips_of(held_out)]))
    collect_bad = data.on_bad == "quarantine"
    features = ClipFeatures(encoder, refs, data.cache_limit_gb, device, folder, collect_bad=collect_bad)
    for ref in clips_of(held_out):  # validation clips are never replaced
        features.check(ref)
    return features


def record_training(
    settings: TrainSettings, model: AudioLanguageModel, records: Sequence[Record], steps: int
) -> None:
    """Record in the model's config which parts this stage trained on which data, for the model card."""
    sources = [resolve_source(source) for source in settings.data.train]
    sizes = [len(part) for part in parts_of(records)]
    if len(sizes) != len(sources):  # a source without records
        sizes = [len(open_source(source)) for source in sources]
    data: list[dict[str, Any]] = []
    for source, size in zip(sources, sizes, strict=True):
        is_local = os.path.exists(source.path)  # its folders are this machine's
        name = Path(source.path).resolve().name if is_local else source.path
        data.append({"name": name, "records": size} | ({} if is_local else {"hub": True}))
    counts = {
        part: sum(parameter_size(one) for one in component.parameters() if one.requires_grad)
        for part, component in model.components.items()
    }
    stage = {"stage": settings.stage, "steps": steps, **model.choices, "parameters": counts, "data": data}
    model.config.training = [*(model.config.training or []), stage]


def tune(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Run an align or instruct stage and write `folder/model`.

    Returns:
        Facts for the completion marker, among them the held-out loss with the right audio and with another clip's.
    """
    from transformers import set_seed

    if settings.run.fsdp is not None:
        check_processes()
    records = open_records(settings.data.train)
    held_out = open_records(settings.data.validation)
    set_seed(settings.run.seed)
    model, processor, table = model_to_train(settings)
    say(table)
    clips = ClipWaveforms(processor.sample_rate)
    augmenter = clip_augmenter(settings, processor)
    if caches_features(settings, model.encoder):
        clips = cached_features(settings, model.encoder, records, held_out, augmenter)
    if settings.model is None:
        centre_tokens(settings, model, processor, records, clips, augmenter)
    if settings.data.share_clips:
        check_branches(model.llm, "data.share_clips")
    elif settings.data.pack:
        check_packing(model.llm)
    dataset, collator = training_data(settings, records, processor, clips)
    trained_on = guarded(dataset, collator.check, settings.data, folder)
    samples = samples_of(held_out)  # fails before training if a record has no answer

    def validate() -> float:
        return mean_loss(model, collator, samples, settings.optim.batch_size)

    trainer = fit(settings.loop, model, trained_on, collator, folder, settings.stage, validate=validate)
    record_training(settings, model, records, trainer.state.global_step)
    # Saved before anything else can fail; only the marker says that the run is finished.
    weights = gathered_weights(trainer)
    if is_main_process():
        model.save_pretrained(folder / "model", state_dict=weights)
        processor.save_pretrained(folder / "model")
    facts: dict[str, Any] = {"trainable": table.splitlines(), "samples": len(records)}
    if trainer.best is not None:
        facts["best_step"] = trainer.best["step"]
    if held_out:
        facts |= audio_control_losses(model, collator, held_out, settings.optim.batch_size)
        say(
            f"{settings.stage}: held-out loss {facts['loss']:.3f} with the right audio, "
            f"{facts['loss_other_audio']:.3f} with another clip's"
        )
    return facts
