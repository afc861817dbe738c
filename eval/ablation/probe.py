"""Linear probe of an encoder: `python -m eval.ablation.probe CONFIG.yaml OUT.json`.

Logistic regression per label on the encoder's clip features tells which labels a clip has; mean average precision on
the validation clips is the score. Test clips are never used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alm.common.errors import ConfigError, UserError
from alm.common.files import write_text_atomic
from alm.common.settings import read_yaml
from alm.data.labels import labelled_clips
from alm.data.sources import open_records
from encoders import AudioEncoder, load_encoder
from encoders.audio import load_audio, pad_batch
from encoders.devices import pick_device
from eval.metrics.ranking import class_precisions
from eval.scoring.logistic import fit_logistic

_BATCH = 32


def probe(values: dict[str, Any]) -> dict[str, Any]:
    """Probe an encoder.

    Args:
        values: `encoder`, `encoder_options`, `labels` (`scenes.jsonl` or a label table), manifests `train` and
            `test`, `most_clips`.

    Returns:
        `map` (mean average precision over labels), `n_train`, `n_test`, `n_labels`, `dim`.

    Raises:
        ConfigError: No clip of one of the splits has labels.
    """
    encoder = load_encoder(values["encoder"], **values.get("encoder_options", {})).eval().to(pick_device())
    known = {path.resolve(): {kind for _, _, kind in events}
             for path, events, _ in labelled_clips(Path(values["labels"]))}  # fmt: skip
    splits = [_clips(values[split], known) for split in ("train", "test")]
    for split, clips in zip(("train", "test"), splits, strict=True):
        if not clips:
            raise ConfigError(f"{values['labels']}: has no label of any clip in {', '.join(values[split])}")
    splits[0] = splits[0][: values["most_clips"]]
    names = sorted({kind for clips in splits for path in clips for kind in known[path]})
    features = [clip_features(encoder, clips) for clips in splits]
    targets = [
        np.array([[name in known[path] for name in names] for path in clips], float) for clips in splits
    ]
    model = fit_logistic(features[0], targets[0], [str(path) for path in splits[0]], multi_label=True)
    precisions = class_precisions(model.probabilities(features[1]), targets[1] > 0)
    return {
        "map": float(np.nanmean(precisions)),
        "n_train": len(splits[0]),
        "n_test": len(splits[1]),
        "n_labels": len(names),
        "dim": int(features[0].shape[1]),
        "strength": model.strength,
    }


def _clips(manifests: Sequence[str], known: dict[Path, set[str]]) -> list[Path]:
    """Whole recordings of some manifests that have labels, each once."""
    refs = [ref for record in open_records(manifests, audio_only=True) for ref in record.audio]
    whole = [ref.path.resolve() for ref in refs if ref.start_s is None and ref.end_s is None]
    return [path for path in dict.fromkeys(whole) if path in known]


def clip_features(encoder: AudioEncoder, paths: Sequence[Path]) -> np.ndarray:
    """The encoder's feature of each recording, (clips, D')."""
    rows = []
    device = next((p.device for p in encoder.parameters()), pick_device())
    for start in range(0, len(paths), _BATCH):
        waves = [load_audio(path, encoder.config.sample_rate) for path in paths[start : start + _BATCH]]
        padded, lengths = pad_batch(waves)
        with torch.no_grad():
            out = encoder(padded.to(device), lengths)
        rows.append(out.clip_features().cpu().double().numpy())
    return np.concatenate(rows)


def main(argv: Sequence[str]) -> int:
    """Read the config, write the scores; the exit code is 2 for invalid input."""
    config, out = argv
    try:
        write_text_atomic(Path(out), json.dumps(probe(read_yaml(config))) + "\n")
    except Exception as error:
        if not isinstance(error, UserError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
