"""The tutorials run as they are written, one after the other, in a folder with nothing but recordings."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from alm.cli import main
from alm.common.plugins import PLUGINS
from encoders.audio import save_wav

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's bash blocks, without `alm`."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert lines and all(line.startswith("alm ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.slow
def test_tutorials_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PLUGINS, raising=False)
    for number, name in enumerate(("bell/a", "bell/b", "bell/c", "rain/a", "rain/b", "rain/c")):
        path = tmp_path / "recordings" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_wav(path, (0.3 * np.sin(np.arange(16000) * (0.1 + 0.1 * number))).astype(np.float32), 16000)
    for page in ("recordings", "encoder", "ablation"):
        text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
        for name, code in re.findall(r'^```python title="([^"]+)"\n(.*?)^```', text, re.M | re.S):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(code)
        for words in commands(TUTORIALS / f"{page}.md"):
            assert main(words) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "runs/align/model/eval/manifest/report.html").is_file()
    assert (tmp_path / "runs/bands/model/config.json").is_file()


def test_the_ablation_on_the_page_is_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (TUTORIALS / "ablation.md").read_text(encoding="utf-8")
    (mine,) = re.findall(r"^```yaml\n(# mine\.yaml.*?)^```", page, re.M | re.S)
    (tmp_path / "mine.yaml").write_text(mine)
    assert main(["config", "check", "mine.yaml"]) == 0, capsys.readouterr().err
    assert main(["config", "show", "mine.yaml"]) == 0 and "encoder: bands" in capsys.readouterr().out
