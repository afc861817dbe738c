"""One wrong value in a config.json is one clear line, never a traceback, a hang or a machine without memory."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from alm.common.errors import AudioError, ConfigError, UserError
from alm.common.fields import check_size
from encoders import encoder_class, list_encoders, load_encoder
from encoders.conformance import ConformanceError
from projectors import list_projectors, projector_config, projector_from_config
from projectors.registry import PROJECTORS

WRONG: list[Any] = [None, "x", -1, 0, 3, 10**12, 10**400, 1e300, [], [10**12] * 2, {"x": [1]}]
# Their configs are those of others in the list, with the same fields.
SAME = ("hubert", "layers", "random", "wavlm")


def corruptions(values: dict[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every key, nested ones too, with every wrong value."""
    for key, value in values.items():
        yield from (((*path, key), wrong) for wrong in WRONG)
        if isinstance(value, dict):
            yield from corruptions(value, (*path, key))


def corrupted(values: dict[str, Any], path: tuple[Any, ...], wrong: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(values))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return copy


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in list_encoders() if name not in SAME])
def test_an_encoders_config(name: str, tmp_path) -> None:
    encoder_class(name).tiny().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    refused = 0
    # The two encoders with the slowest or the most cases take every third; 11 wrong values, so all keys have some.
    for path, wrong in list(corruptions(values))[:: 3 if name in ("ast", "audiomosaic") else 1]:
        file.write_text(json.dumps(corrupted(values, path, wrong)))
        try:
            encoder = load_encoder(tmp_path)
            n_samples = max(8000, encoder.config.sample_rate // 2)
            encoder(torch.full((1, n_samples), 0.1), torch.tensor([n_samples]))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(error).count("\x1b") == 0
        except Exception as error:
            raise AssertionError(
                f"{'.'.join(map(str, path))} = {wrong!r}: {type(error).__name__}: {error}"
            ) from error
    assert refused > len(values)


@pytest.mark.parametrize("name", list_projectors())
def test_a_projectors_config(name: str) -> None:
    ends = {"encoder_dim": 8, "n_freq": 2, "frame_rate_hz": 6.25, "llm_dim": 16}
    values = PROJECTORS.get(name).config_class.from_dict(ends).to_dict()
    refused = 0
    for path, wrong in corruptions(values):
        given = corrupted(values, path, wrong)
        try:
            config = projector_config(given)
            projector = projector_from_config(config)
            tokens = torch.randn(2, 5 * config.n_freq, config.encoder_dim)
            projector(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), (5, config.n_freq))
            assert config.n_tokens_for(5) >= 1
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"{path} = {wrong!r}: {type(error).__name__}: {error}") from error
    assert refused > len(values)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("depth", 10**12, "depth is 1000000000000; expected at most 1,000"),
        ("encoder_layers", 10**400, "encoder_layers is a number above 10^"),
        ("depths", [2, 10**9], "depths is 1000000000; expected at most 1,000"),
        ("embed_dim", 10**6, "embed_dim is 1000000; expected at most 65,536"),
        ("n_frames", 10**7, "n_frames is 10000000; expected at most 65,536"),
        ("conv_dim", [512] * 2000, "conv_dim has 2000 entries; expected at most 1000"),
        ("transformers", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("mlp_ratio", float("nan"), "mlp_ratio is nan; expected a finite number"),
    ],
)
def test_sizes_have_limits(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_size(key, value)
    assert said in str(caught.value)


def test_published_sizes_are_within_the_limits() -> None:
    for name in list_encoders():
        found = encoder_class(name)
        found.config_class.from_dict(found.config_class().to_dict())
    check_size("seed", 10**15)
    check_size("vocab_size", 51866)
    assert issubclass(AudioError, UserError) and not issubclass(ConformanceError, UserError)
