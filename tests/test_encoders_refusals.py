"""What encoders refuse, by name: options that do not belong to them, files of other kinds."""

import pytest
import torch

from alm.common.errors import CheckpointError, ConfigError
from encoders import encoder_class, list_encoders, load_encoder
from encoders.checkpoint import read_weights, write_weights
from encoders.hf_speech import SpeechConfig


def test_values_of_transformers_are_merged():
    """One changed value keeps the others."""
    config = encoder_class("whisper").tiny().config
    changed = config.replace(transformers={"dropout": 0.5})
    assert (
        changed.transformers == {**config.transformers, "dropout": 0.5}
        and config.transformers != changed.transformers
    )


SPEECH = [name for name in list_encoders() if issubclass(encoder_class(name).config_class, SpeechConfig)]


@pytest.mark.parametrize("name", SPEECH)
def test_an_adapter_that_changes_the_token_rate_is_refused(name):
    config = encoder_class(name).tiny().config
    with pytest.raises(
        ConfigError, match="add_adapter( is true; expected false|.; HubertConfig has no such value)"
    ):
        config.replace(transformers={"add_adapter": True}).check()


def test_options_of_a_fusion_belong_to_its_parts(tmp_path):
    encoder_class("whisper").tiny().save_pretrained(tmp_path / "whisper")
    parts = [str(tmp_path / "whisper")] * 2
    with pytest.raises(
        ConfigError, match="min_clip_s given for a fusion of encoders; give options to a part"
    ):
        load_encoder({"fusion": "concat", "parts": parts}, min_clip_s=0.5)
    given = [{"encoder": parts[0], "min_clip_s": 0.5}, parts[1]]
    fused = load_encoder({"fusion": "concat", "parts": given})
    assert [part.config.min_clip_s for part in fused.parts] == [0.5, load_encoder(parts[1]).config.min_clip_s]
    values = fused.config.to_dict()
    with pytest.raises(ConfigError, match=r"parts\[1\] is 'whisper'; expected the config of an encoder"):
        type(fused.config).from_dict({**values, "parts": [values["parts"][0], "whisper"]})


def test_another_encoders_directory_is_refused(tmp_path):
    encoder_class("whisper").tiny().save_pretrained(tmp_path / "whisper")
    with pytest.raises(ConfigError, match="model_class is 'WhisperEncoder'; this is not a BeatsEncoder"):
        encoder_class("beats").from_pretrained(tmp_path / "whisper")


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="gone.pt: no such weights file; check the path"):
        read_weights(tmp_path / "gone.pt")
    torch.save({"model": [1, 2]}, tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list.pt: holds no state dict"):
        read_weights(tmp_path / "list.pt")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_weights(tmp_path / "file" / "model.safetensors", {"a": torch.zeros(1)})
