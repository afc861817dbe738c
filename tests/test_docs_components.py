"""The components that the how-to shows, in a folder of plug-ins as the page says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from alm.cli import main
from alm.data.manifest import read_manifest
from encoders.audio import save_wav

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "components.md"
FILES = dict(
    re.findall(r'^```python title="my-components/(\w+)\.py"\n(.*?)^```', PAGE.read_text("utf-8"), re.M | re.S)
)


@pytest.fixture
def components(tmp_path, monkeypatch):
    """The folder `my-components` of the page."""
    folder = tmp_path / "my-components"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("ALM_PLUGINS", str(folder))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def doors(components):
    """The data set that the page's corpus reads."""
    (components / "doors" / "audio").mkdir(parents=True)
    rows = ["file,sound,part"]
    for number in range(4):
        wave = 0.3 * np.sin(np.arange(16000) * (0.05 + 0.02 * number))
        save_wav(components / "doors" / "audio" / f"{number}.wav", wave.astype(np.float32), 16000)
        rows.append(f"{number}.wav,{('creak', 'slam')[number % 2]},{'train' if number < 2 else 'test'}")
    (components / "doors" / "doors.csv").write_text("\n".join(rows) + "\n")
    return components / "doors"


def test_the_projector_is_a_scaled_linear_one(components):
    from projectors.registry import projector_config, projector_from_config

    ends = {"encoder_dim": 8, "n_freq": 1, "frame_rate_hz": 10.0, "llm_dim": 4, "stack": 2}
    gated = projector_from_config(projector_config({"name": "gated", "initial": 0.5, **ends}))
    linear = projector_from_config(projector_config({"name": "linear", **ends}))
    linear.load_state_dict({key: value for key, value in gated.state_dict().items() if key != "gate"})
    given = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool), (6, 1)
    embeddings, valid = gated(*given)
    assert embeddings.shape == (2, 3, 4) and valid.all()
    torch.testing.assert_close(embeddings, linear(*given)[0] * np.exp(0.5))
    embeddings.sum().backward()
    assert gated.gate.grad.abs() > 0


def test_the_loss_picks_the_other_view_of_each_clip(components):
    from train.pretrain.losses import LOSSES

    loss = LOSSES.get("info_nce")(temperature=0.5)
    z0, z1 = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    cosines = functional.cosine_similarity(z0[:, None], z1[None], dim=2) / 0.5
    wanted = -(cosines.diag() * 2 - cosines.logsumexp(1) - cosines.logsumexp(0)).mean() / 2
    torch.testing.assert_close(loss(z0, z1), wanted)
    for mine, right in zip(
        *(torch.autograd.grad(value, (z0, z1)) for value in (loss(z0, z1), wanted)), strict=True
    ):
        torch.testing.assert_close(mine, right)
    aligned = LOSSES.get("info_nce")(temperature=0.01)
    assert aligned(z0, z0) < 1e-3 < aligned(z0, z0.flip(0))


def test_the_corpus_is_converted_and_asked_about(doors, tmp_path, capsys):
    from eval.benchmarks import load_benchmark

    assert main(["data", "convert", "doors", "doors", "--out", "data/doors"]) == 0
    train = read_manifest(tmp_path / "data/doors/train.jsonl", check_files=True)
    assert [(record.question, record.answer) for record in train] == [
        ("What does the door do?", "creak"), ("What does the door do?", "slam"),
    ]  # fmt: skip
    (tmp_path / "mine.py").write_text(
        "def answer(prompts):\n    return ['creak' for prompt in prompts]\n\n\n"
        "answer.sample_rate = 16000\nANSWERER = answer\n"
    )
    assert load_benchmark("which_door").prompt_version == "1"
    assert main(["eval", "which_door", "--model", "mine.py", "--data", "doors", "--out", "out"]) == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["arms"]["none"]["scores"]["qa/overall"]["value"] == 0.5
    lines = map(json.loads, (tmp_path / "out/predictions.jsonl").read_text().splitlines())
    assert any("Answer with one word." in json.dumps(line) for line in lines)
