"""One file adds a component of any kind: a folder with one of each is found, listed and used.

What a new encoder, corpus, stage, loss, mask layout or command does from end to end is tested beside its kind
(`test_encoders_plugins`, `test_alm_corpora`, `test_train_stages`, `test_train_plugins`, `test_alm_cli`).
"""

from importlib import import_module

import pytest
import torch

from alm.cli import main
from alm.commands.listing import KINDS
from alm.common.errors import ConfigError
from alm.common.plugins import Registry

FILES = {
    "encoders": """
from encoders.zoo.logmel import LogMelEncoder

class Mine(LogMelEncoder):
    pass

ENCODER = Mine
""",
    "projectors": """
import dataclasses
from typing import ClassVar
from projectors.linear import LinearConfig, LinearProjector

@dataclasses.dataclass(frozen=True)
class Config(LinearConfig):
    name: ClassVar[str] = "my_projectors"
    scale: float = 2.0

class Mine(LinearProjector):
    config_class = Config

    def forward(self, tokens, mask, grid):
        out, valid = super().forward(tokens, mask, grid)
        return self.config.scale * out, valid

PROJECTOR = Mine
""",
    "benchmarks": """
from alm.data.records import Record
from eval.benchmarks._base import Benchmark

BENCHMARK = Benchmark(
    reader=lambda root, split: [], prompt="{question}", prompt_version="1", metrics=("qa", "my_metrics"), citation=""
)
""",
    "metrics": """
from eval.metrics.record import ANSWERS, MetricRecord

METRIC = MetricRecord(applies_to=(ANSWERS,), proportion=True, build=lambda: None)
""",
    "official_rules": "OFFICIAL_RULE = lambda prediction, answer, choices: prediction == answer\n",
    "models": """
from eval.models import ModelKind

MODEL_KIND = ModelKind("mine:NAME", lambda name: name.startswith("mine:"), lambda name, opening: None)
""",
    "model_families": """
from eval.models.families import Family

FAMILY = Family(equal_lengths=True)
""",
    "corpora": """
import dataclasses
from alm.data.corpora.base import Corpus

@dataclasses.dataclass(frozen=True)
class Mine(Corpus):
    def entries(self, audio, split=None):
        yield from ()

CORPUS = Mine
""",
    "formats": """
from alm.data.readers.base import Reader, Row

class Mine(Reader):
    def recognises(self, path):
        return path.suffix == ".mine"

    def rows(self, source):
        yield Row(f"{source.path}:1", {"id": "a", "audio": "a.wav"}, path.parent)

READER = Mine()
""",
    "stages": """
import dataclasses
from train.stage import Stage, StageSettings

class Mine(Stage[StageSettings]):
    settings = StageSettings
    artifact = "nothing"

STAGE = Mine()
""",
    "losses": """
from train.pretrain.losses.base import ContrastiveLoss

class Mine(ContrastiveLoss):
    def forward(self, z0, z1):
        return (z0 * z1).mean()

LOSS = Mine
""",
    "mask_layouts": "MASK_LAYOUT = lambda noise, grid, ratio, branch: None\n",
    "chat_templates": "CHAT_TEMPLATE = '{{ messages[0].content }}'\n",
    "commands": """
from alm.commands import Command

COMMAND = Command(lambda commands: commands.add_parser("my_commands"))
""",
}


def registry(kind: str) -> Registry:
    module, _, name = KINDS[kind].partition(":")
    found = getattr(import_module(module), name)
    assert isinstance(found, Registry)
    return found


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder with one file of each kind, under names such as `my_encoders`."""
    for kind, text in FILES.items():
        (tmp_path / f"my_{kind}.py").write_text(text)
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path))
    return tmp_path


def test_there_is_a_file_here_for_every_kind():
    assert set(FILES) == set(KINDS)


@pytest.mark.parametrize("kind", FILES)
def test_one_file_adds_a_component(plugins, capsys, kind):
    found = registry(kind)
    assert f"my_{kind}" in found.names() and f"my_{kind}" not in found.shipped()
    assert found.accepts(found.get(f"my_{kind}"))
    assert [name for name in found.names() if name.startswith("my_")] == [f"my_{kind}"]
    assert main(["list", kind]) == 0
    assert f"my_{kind}" in capsys.readouterr().out.split()
    with pytest.raises(ConfigError, match=f"did you mean 'my_{kind}'"):
        found.get(f"my_{kind}s_")


@pytest.mark.parametrize("kind", FILES)
def test_every_shipped_component_loads_and_is_of_its_kind(kind):
    found = registry(kind)
    assert found.shipped()
    for name in found.shipped():
        assert found.accepts(found.get(name)), name


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_assigns_something_else_is_one_line(plugins, kind):
    found = registry(kind)
    (plugins / "wrong.py").write_text(f"{found.attribute} = None\n")
    with pytest.raises(
        ConfigError, match=rf"wrong\.py: declares no {found.kind}; end it with {found.attribute} ="
    ):
        found.get("wrong")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", [None, ["mlp"], 3])
def test_a_name_that_is_no_text_is_one_line(kind, name):
    with pytest.raises(ConfigError, match=rf"^{registry(kind).kind}: got .*, expected a name\. Known: "):
        registry(kind).get(name)


def test_a_projector_of_a_plugin_is_built_saved_and_loaded(plugins):
    from projectors.registry import check_projector, projector_config, projector_from_config

    with pytest.raises(ConfigError, match="scale"):
        check_projector("my_projectors", {"scael": 1})
    ends = {"encoder_dim": 8, "n_freq": 1, "frame_rate_hz": 10.0, "llm_dim": 4}
    config = projector_config({"name": "my_projectors", "stack": 2, **ends})
    projector = projector_from_config(config)
    tokens, mask = torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool)
    doubled, _ = projector(tokens, mask, (6, 1))
    single = projector_from_config(projector_config({**config.to_dict(), "scale": 1.0}))
    single.load_state_dict(projector.state_dict())
    torch.testing.assert_close(doubled, 2 * single(tokens, mask, (6, 1))[0])
