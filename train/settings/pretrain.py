"""Options of the pretraining stage: augmentation, objective, probe."""

from __future__ import annotations

import dataclasses

from alm.common.errors import ConfigError
from alm.common.settings import check_ranges


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Augmentation of a view; the defaults are those of the official pretraining (audiomentations' ranges).

    Probabilities are 0 to 1.

    Attributes:
        n_frames: Frames of a view: longer clips are cut, shorter ones padded with zeros before normalisation.
        augment: `fast` (on the log-mel, in batches), `waveform` (as published, in the loader's processes; see
            `train.pretrain.augment_waveform`), or `none` (two equal views).
        roll: Roll the clip circularly by a random number of frames.
        crop: Instead of the roll: place the (stretched) clip at a random position in the view, with silence before
            it; cut a longer clip at a random position. Without `crop`, both views of a short clip end at the clip's
            own last frame, so that the model can match views by the clip's length, without its sound.
        roll_gain_beta: b of the random amplitude Beta(b, b) + 0.5 that comes with the roll; 0 disables it.
        polarity_p: Probability of an inverted polarity; used by `waveform` alone (a log-mel has no sign).
        time_stretch_p: Probability of a time stretch.
        time_stretch: Range of the speed: above 1 the clip gets shorter and silence follows; below 1 its end is cut.
        noise_p: Probability of added Gaussian noise.
        noise_snr_db: Range of the ratio of the clip's power to the noise's.
        gain_p: Probability of a gain.
        gain_db: Range of the gain.
        high_pass_p: Probability of a high-pass filter.
        high_pass_hz: Range of the corner frequency, uniform on the mel scale.
        band_stop_p: Probability of a band-stop filter.
        band_stop_hz: Range of the centre frequency, uniform on the mel scale.
        band_stop_width: Range of the width, as a multiple of the centre frequency.
        rolloff_db: Steepness of both filters per octave, in steps of 6.
        equaliser_db: Standard deviation of a smooth random gain over the mel axis, as between microphones or rooms; 0
            disables it.
        background_p: Probability that an excerpt of other training clips is mixed into the background of the
            augmented clip (as in BYOL-A, Niizumi et al. 2021). An excerpt can be of the clip itself.
        background_snr_db: Range of the ratio of the clip's mean power to the mean power of whole background clips.
        pitch_p: Probability of a pitch shift.
        pitch_semitones: Range of the pitch shift.
    """

    n_frames: int = 1024
    augment: str = "fast"
    roll: bool = True
    crop: bool = False
    roll_gain_beta: float = 10.0
    polarity_p: float = 0.5
    time_stretch_p: float = 0.7
    time_stretch: tuple[float, float] = (0.7, 1.3)
    noise_p: float = 0.5
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    gain_p: float = 0.3
    gain_db: tuple[float, float] = (-12.0, 12.0)
    high_pass_p: float = 0.3
    high_pass_hz: tuple[float, float] = (20.0, 2400.0)
    band_stop_p: float = 0.5
    band_stop_hz: tuple[float, float] = (200.0, 4000.0)
    band_stop_width: tuple[float, float] = (0.5, 1.99)
    rolloff_db: tuple[float, float] = (12.0, 24.0)
    equaliser_db: float = 0.0
    background_p: float = 0.0
    background_snr_db: tuple[float, float] = (0.0, 20.0)
    pitch_p: float = 0.6
    pitch_semitones: tuple[float, float] = (-4.0, 4.0)

    def __post_init__(self) -> None:
        if self.augment not in ("fast", "waveform", "none"):
            raise ConfigError(f"views.augment: got {self.augment!r}, expected 'fast', 'waveform' or 'none'")
        if self.augment != "fast" and (self.crop or self.equaliser_db or self.background_p):
            raise ConfigError(
                "views: crop, equaliser_db and background_p act on log-mels; set augment to 'fast', or remove them"
            )


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """A small labelled data set on which the encoder is evaluated during pretraining (pretrain).

    Attributes:
        labels: Label table with ESC-50's columns (filename, fold, category); None disables the probe.
        every: Steps between two evaluations; 1 or more.
        test_folds: Folds that are classified; the classifier is fitted on the others. None holds out the last fold.
            Clips of one source recording are never on both sides.
        neighbours: Number of neighbours of the k-nearest-neighbour probe; 1 or more.
    """

    labels: str | None = None
    every: int = 1000
    test_folds: tuple[str, ...] | None = None
    neighbours: int = 10

    def __post_init__(self) -> None:
        check_ranges("contrastive.probe", self, every=(1, None), neighbours=(1, None))


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings:
    """The contrastive objective (AudioMosaic, sections 3.1-3.3; pretrain).

    Attributes:
        mask_layout: Name of a mask layout: a file of `train/pretrain/masks` or of a plug-in folder. `time_frequency` is
            the published method, `official` what the released code does.
        time_ratio: Share of time columns that is masked in view 0; 0 or more, below 1.
        freq_ratio: Share of frequency bands that is masked in view 1; 0 or more, below 1.
        loss: Name of a loss: a file of `train/pretrain/losses` or of a plug-in folder. `nt_xent` is the published loss;
            `siglip` has independent pairs, learned temperature and bias.
        temperature: Temperature of NT-Xent; more than 0.
        loss_chunk_rows: Rows of the logits that are computed at a time, for batches whose logits do not fit into
            memory; 0 computes all at once.
        grad_cache_chunk: Clips that are encoded at a time, for batches whose activations do not fit into memory (see
            `train.pretrain.gradcache`); costs one more forward pass. 0 encodes the whole batch at once.
        views: Augmentations of `train.pretrain.views`. With `views.augment: none` the two views differ only in
            their masks. `views.n_frames` is set to the encoder's window.
        one_source_batches: Fill every batch from one entry of `data.train`, so that clips cannot be distinguished by
            the data set that they come from. The remainders of all sources form mixed batches.
        probe: Labelled data set for evaluation during training.
    """

    mask_layout: str = "time_frequency"
    time_ratio: float = 0.6
    freq_ratio: float = 0.4
    loss: str = "nt_xent"
    temperature: float = 0.1
    loss_chunk_rows: int = 0
    grad_cache_chunk: int = 0
    views: ViewConfig = ViewConfig()
    one_source_batches: bool = False
    probe: ProbeSettings = ProbeSettings()

    def __post_init__(self) -> None:
        check_ranges(
            "contrastive",
            self,
            time_ratio=(0, 1),
            freq_ratio=(0, 1),
            temperature=(0, None),
            loss_chunk_rows=(0, None),
            grad_cache_chunk=(0, None),
        )
        if 1 in (self.time_ratio, self.freq_ratio) or self.temperature == 0:
            raise ConfigError(
                f"contrastive: got time_ratio={self.time_ratio}, freq_ratio={self.freq_ratio}, "
                f"temperature={self.temperature}; expected ratios below 1 and a temperature above 0"
            )
