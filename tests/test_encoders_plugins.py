"""An encoder in a user's own file is listed, checked and trained by name, with no edit here."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import encoders
from alm.cli import main
from alm.common import plugins as discovery
from alm.common.errors import ConfigError
from alm.data.manifest import write_manifest
from encoders.audio import save_wav

# Written from the README's section alone.
PLUGIN = '''
"""Learned bands of the waveform, 25 tokens a second."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from encoders.windows import WindowedConfig, WindowedEncoder

STEP = 640  # samples, 40 ms


@dataclass(frozen=True)
class BandsConfig(WindowedConfig):
    model_class: str = "BandsEncoder"
    width: int = 16
    model_classes: ClassVar[tuple[str, ...]] = ("BandsEncoder",)

    dim = property(lambda self: self.width)
    n_freq = property(lambda self: 1)
    window_samples = property(lambda self: 16000)
    hop_samples = property(lambda self: 16000)
    steps_per_window = property(lambda self: 16000 // STEP)

    def steps_in(self, n_samples):
        return n_samples // STEP


class BandsEncoder(WindowedEncoder):
    config_class = BandsConfig
    lora_targets = ("project",)
    licence = "Apache-2.0"

    def __init__(self, config=None):
        super().__init__(config or BandsConfig())
        width = self.config.width
        self.bands = nn.Conv1d(1, width, STEP, stride=STEP)
        self.project = nn.Linear(width, width)

    def encode_windows(self, waveform, lengths):
        bands = torch.relu(self.bands(waveform[:, None])).transpose(1, 2)
        return self.project(bands)[:, :, None], None

    @classmethod
    def tiny(cls, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls().eval()


ENCODER = BandsEncoder
'''

PROJECTOR = '''
"""Four time steps side by side, then tanh and a linear layer."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from projectors.base import Projector, ProjectorConfig, stack_time


@dataclass(frozen=True)
class SquashedConfig(ProjectorConfig):
    name: ClassVar[str] = "squashed"
    stack: int = 4

    def n_tokens_for(self, n_time):
        return math.ceil(n_time / self.stack)

    @property
    def tokens_per_second(self):
        return self.frame_rate_hz / self.stack


class Squashed(Projector):
    config_class = SquashedConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(config.stack * config.n_freq * config.encoder_dim, config.llm_dim)

    def forward(self, tokens, mask, grid):
        self.check(tokens, mask, grid)
        stacked, valid = stack_time(tokens, mask, grid, self.config.stack)
        return self.layer(torch.tanh(stacked)), valid


PROJECTOR = Squashed
'''

YAML = """
stage: align
out: {out}
encoder: bands
encoder_options: {{width: 24}}
projector: squashed
projector_options: {{stack: 5}}
llm: {llm}
data: {{train: [{data}]}}
optim: {{steps: 2, batch_size: 2, warmup_steps: 0}}
"""


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    monkeypatch.delenv(discovery.PLUGINS, raising=False)
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "bands.py").write_text(PLUGIN)
    (folder / "squashed.py").write_text(PROJECTOR)
    (folder / "notes.py").write_text("raise RuntimeError('this is no encoder and is not imported')\n")
    yield folder
    for name in [name for name in sys.modules if name.startswith("alm_plugins.")]:
        del sys.modules[name]


def test_it_is_listed_and_checked(plugins, capsys):
    assert len(PLUGIN.splitlines()) < 80
    assert "bands" not in encoders.list_encoders()
    assert main(["--plugins", str(plugins), "encoders", "list"]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("bands"))
    assert row == ["bands", "16", "25", "16000", "0.01", "M", "Apache-2.0"]
    assert main(["encoders", "check", "bands", "--plugins", str(plugins)]) == 0
    out = capsys.readouterr().out
    assert "bands, tiny and untrained" in out and out.count("passed") == 10
    assert "keeps the contract" in out
    assert main(["encoders", "check", str(plugins / "bands.py")]) == 0  # a file needs no plugin directory


def test_an_encoder_and_a_projector_train_from_one_yaml_and_answer(plugins, llm_dir, tmp_path, capsys):
    wave = 0.1 * np.random.default_rng(0).standard_normal(12000)
    save_wav(tmp_path / "a.wav", wave, 16000)
    rows = [{"id": str(i), "audio": "a.wav", "question": "what is it", "answer": "a bell"} for i in range(2)]
    write_manifest(tmp_path / "train.jsonl", rows)
    config = tmp_path / "bands.yaml"
    config.write_text(YAML.format(out=tmp_path / "run", llm=llm_dir, data=tmp_path / "train.jsonl"))
    train = ["train", str(config), "--plugins", str(plugins)]
    assert main(train) == 0
    values = json.loads((tmp_path / "run/model/config.json").read_text())
    assert values["encoder"]["model_class"] == "BandsEncoder" and values["encoder"]["width"] == 24
    assert values["projector"]["name"] == "squashed" and values["projector"]["stack"] == 5
    ask = ["ask", str(tmp_path / "run/model"), str(tmp_path / "a.wav"), "what is it", "--max-new-tokens", "2"]
    assert main([*ask, "--plugins", str(plugins)]) == 0
    capsys.readouterr()
    assert main(train) == 0 and "already done" in capsys.readouterr().out
    (plugins / "bands.py").write_text(PLUGIN + "\n# changed\n")
    assert main(train) == 0 and "already done" not in capsys.readouterr().out
    assert main(ask) == 2
    assert "unknown encoder 'BandsEncoder'" in (err := capsys.readouterr().err) and "--plugins" in err
    assert "did you mean" not in err  # it shares the ending "Encoder" with all others, no more


def test_a_projector_is_saved_under_its_files_name(plugins, monkeypatch):
    from projectors import build_projector, list_projectors

    monkeypatch.setenv(discovery.PLUGINS, str(plugins))
    assert "squashed" in list_projectors()
    encoder = encoders.encoder_class("logmel").tiny()
    assert build_projector("squashed", encoder, 16).config.n_tokens_for(9) == 3
    (plugins / "squashed.py").rename(plugins / "renamed.py")
    with pytest.raises(ConfigError, match="'renamed': its config class says name = 'squashed'"):
        build_projector("renamed", encoder, 16)


def test_a_broken_one_fails_its_check_with_the_reason(plugins, capsys):
    loud = PLUGIN.replace("waveform[:, None]", "(waveform / waveform.abs().max())[:, None]")
    (plugins / "loud.py").write_text(loud.replace("BandsEncoder", "LoudEncoder"))
    assert main(["encoders", "check", str(plugins / "loud.py")]) == 1
    out = capsys.readouterr().out
    assert "FAILED  padding_invariance" in out and "sees the padding" in out
    assert "FAILED  batch_invariance" in out and "spans the batch" in out
    assert "2 of 10 checks failed" in out


def test_one_that_cannot_be_built_says_where(plugins, capsys):
    file = plugins / "bands.py"
    file.write_text(PLUGIN.replace("self.config.width", "self.config.wdth"))
    assert main(["encoders", "check", str(file)]) == 1
    assert "FAILED  tiny()  raises AttributeError ('BandsConfig' object has no attribute" in (
        out := capsys.readouterr().out
    )
    assert f"{file}:38" in out
    assert main(["--plugins", str(plugins), "encoders", "list"]) == 1
    assert "bands: raises AttributeError" in capsys.readouterr().out


def test_a_directory_is_checked_with_its_weights(tmp_path, capsys):
    encoders.encoder_class("dasheng").tiny().save_pretrained(tmp_path)
    assert main(["encoders", "check", str(tmp_path)]) == 0
    assert f"{tmp_path}, DashengEncoder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("import torch\n", "import torch, nosuchthing\n"),
            "bands.py:7: cannot be imported (ModuleNotFoundError",
        ),
        (("STEP = 640", "STEP = = 640"), "bands.py:12: cannot be imported (SyntaxError"),
        (("ENCODER = BandsEncoder", "ENCODER = BandsConfig"), "declares no encoder"),
    ],
)
def test_a_file_that_is_no_encoder_is_one_line(plugins, capsys, change, said):
    assert change[0] in PLUGIN
    (plugins / "bands.py").write_text(PLUGIN.replace(*change))
    assert main(["encoders", "check", str(plugins / "bands.py")]) == 2
    assert said in capsys.readouterr().err
    assert main(["--plugins", str(plugins), "encoders", "list"]) == 1  # the others are listed all the same
    out = capsys.readouterr().out
    assert "bands: " in out and said in out and "audiomosaic" in out


def test_names_and_places_are_checked(plugins, monkeypatch, capsys):
    (plugins / "whisper.py").write_text(PLUGIN)
    monkeypatch.setenv(discovery.PLUGINS, str(plugins))
    with pytest.raises(ConfigError, match="'whisper' is in .*whisper.py and in encoders.zoo; rename one"):
        encoders.list_encoders()
    monkeypatch.setenv(discovery.PLUGINS, str(plugins / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere is not a directory"):
        encoders.list_encoders()
    assert main(["encoders", "list"]) == 2
    assert "nowhere is not a directory" in capsys.readouterr().err
    monkeypatch.delenv(discovery.PLUGINS)
    assert main(["encoders", "check", str(plugins / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err


def test_two_encoders_that_save_under_one_name_are_refused(plugins, monkeypatch, capsys):
    (plugins / "copied.py").write_text(PLUGIN)
    monkeypatch.setenv(discovery.PLUGINS, str(plugins))
    for name in ("bands", "copied", "BandsEncoder"):
        with pytest.raises(ConfigError, match="both save themselves as model_class BandsEncoder"):
            encoders.load_encoder(name) if name != "BandsEncoder" else encoders.encoder_class(name)
    assert encoders.encoder_class("logmel").tiny().dim == 32  # the others are there all the same
    assert main(["encoders", "list"]) == 1
    del sys.modules["alm_plugins.copied"]
    (plugins / "copied.py").write_text(PLUGIN.replace("BandsEncoder", "WhisperEncoder"))
    with pytest.raises(ConfigError, match="'copied' .* and 'whisper' .* both save themselves as"):
        encoders.load_encoder("copied")
    del sys.modules["alm_plugins.copied"]
    (plugins / "copied.py").write_text("import nosuchthing\nENCODER = 1\n")
    assert encoders.load_encoder("bands").dim == 16


def test_an_installed_package_announces_its_encoder(plugins, tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "bands_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "bands_package.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bands-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[alm.encoders]\nbands-installed = bands_package:ENCODER\n")
    monkeypatch.syspath_prepend(site)
    discovery._entry_points.cache_clear()
    try:
        assert "bands-installed" in encoders.list_encoders()
        assert encoders.encoder_class("bands-installed").tiny().dim == 16
        assert encoders.encoder_class("BandsEncoder").__module__ == "bands_package"
    finally:
        discovery._entry_points.cache_clear()


def test_listing_builds_and_imports_no_model():
    code = (
        "import sys, encoders; names = encoders.list_encoders(); assert 'whisper' in names\n"
        "assert 'transformers' not in sys.modules and 'encoders.zoo.whisper' not in sys.modules\n"
        "from alm.cli import main; assert main(['encoders', 'list']) == 0\n"
        "models = [m for m in sys.modules if m.startswith('transformers.models.') and '.modeling_' in m]\n"
        "assert all(m.startswith('transformers.models.auto.') for m in models), models\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", encoders.list_encoders())
def test_the_parameters_listed_are_those_there_are(name):
    found = encoders.encoder_class(name)
    if name == "layers":
        pytest.skip("it is put around another encoder and has that one's parameters")
    with torch.device("meta"):
        encoder = found(found.config_class())
    assert found.n_parameters == sum(p.numel() for p in encoder.parameters())
    assert found.licence
