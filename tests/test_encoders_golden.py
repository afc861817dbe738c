"""AudioMosaic computes what the official code computes (numbers made with it, beside the checkout)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from encoders import AudioMosaicEncoder, load_encoder

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Path:
    return shared_dir / "golden"


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "audiomosaic_tiny_expected.safetensors")


@pytest.fixture(scope="module")
def encoder(golden: Path) -> AudioMosaicEncoder:
    return AudioMosaicEncoder.from_pretrained(golden / "audiomosaic_tiny_release")


def close(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max().item() <= TOLERANCE


@torch.no_grad()
def test_tokens_pooled_and_embedding(encoder: AudioMosaicEncoder, expected: dict[str, Tensor]) -> None:
    tokens = encoder.forward_mel(expected["x"][:, 0])
    close(tokens, expected["eval.tokens"])
    close(encoder.pool(tokens), expected["eval.pooled"])
    close(encoder.embed_head(encoder.pool(tokens)), expected["eval.z"])


@torch.no_grad()
def test_classifier(golden: Path, expected: dict[str, Tensor]) -> None:
    classifier = load_encoder(golden / "audiomosaic_tiny_classifier_release")
    pooled = classifier.pool(classifier.forward_mel(expected["x"][:, 0]))
    close(classifier.classify(pooled), expected["classifier.logits"])


@torch.no_grad()
@pytest.mark.parametrize("branch", ["time", "freq"])
def test_pooled_given_official_masks(
    encoder: AudioMosaicEncoder, expected: dict[str, Tensor], branch: str
) -> None:
    keep = expected[f"legacy_mask.{branch}.ids_keep"]
    tokens = encoder.forward_mel(expected["x"][:, 0], keep)
    close(encoder.pool(tokens), expected[f"legacy_mask.{branch}.pooled"])
    shuffled = encoder.forward_mel(expected["x"][:, 0], keep.sort(dim=1).values)
    close(encoder.pool(shuffled), expected[f"legacy_mask.{branch}.pooled"])  # their order does not matter


@torch.no_grad()
def test_official_ltu_feature(encoder: AudioMosaicEncoder, expected: dict[str, Tensor]) -> None:
    """The LTU path as coded: time-major tokens read as (8, 64), which folds time; /50, then LayerNorm."""
    tokens = encoder.fc_norm(encoder.forward_mel(expected["x"][:, 0]))[:, 1:]
    folded = tokens.unflatten(1, (8, 64)).mean(dim=1)  # (B, 64, D)
    pooled = folded.unflatten(1, (32, 2)).mean(dim=2) / 50  # (B, 32, D)
    close(functional.layer_norm(pooled, pooled.shape[-1:]), expected["ltu.official_eval_pooled"])


def test_training_script_weights_load(golden: Path, encoder: AudioMosaicEncoder) -> None:
    weights = golden / "audiomosaic_tiny_model_state_dict.pt"
    loaded = load_encoder(weights, config=golden / "audiomosaic_tiny_release")
    assert not loaded.load_report.missing and not loaded.load_report.unexpected
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])
    rebuilt = load_encoder(weights, config=encoder.config)
    assert rebuilt.config == encoder.config
