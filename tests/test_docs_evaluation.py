"""Every command of docs/evaluation.md runs, on the files that the page shows."""

import json
import re
import shlex
from pathlib import Path

import pytest
from chat_server import ChatServer
from foreign_models import build

from alm.cli import main
from encoders.audio import save_wav

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clips):
    """The page's data, its Python file, a tiny model of transformers, and MMAU's layout."""
    root = tmp_path_factory.mktemp("page")
    for name, clip in zip(("bell", "rain"), clips, strict=False):
        save_wav(root / f"{name}.wav", clip, 16000)
    data = re.findall(r'^    (\{"id".*\})$', PAGE, re.M)
    assert len(data) == 2
    (root / "questions.jsonl").write_text("\n".join(data) + "\n")
    (root / "mine.py").write_text(dict(BLOCKS)["python"])
    build("qwen2_audio", root / "qwen2_audio")
    (root / "mmau" / "test-mini-audios").mkdir(parents=True)
    items = []
    for number, clip in enumerate(clips[:2]):
        save_wav(root / "mmau" / "test-mini-audios" / f"{number}.wav", clip, 16000)
        items.append(
            {"id": str(number), "audio_id": f"./test-mini-audios/{number}.wav", "question": "Which?",
             "answer": "a bell", "choices": ["a bell", "rain"], "task": "sound", "difficulty": "easy"}
        )  # fmt: skip
    (root / "mmau" / "mmau-test-mini.json").write_text(json.dumps(items))
    return root


def test_the_page_shows_commands():
    assert len(COMMANDS) == 6 and all(line.startswith("alm ") for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_runs(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = shlex.split(line)[1:]
    if words[0] == "score" and not Path(words[1]).exists():
        assert (
            main(["eval", "manifest", "--model", "mine.py", "--data", "questions.jsonl", "--out", "out/mine"])
            == 0
        )
    with ChatServer() as server:
        words = [word.replace("http://127.0.0.1:8000/v1", server.url) for word in words]
        assert main(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    if "compare-prompts" in words:
        assert "r1_aqa" in shown and "minus ours" in shown
    else:
        assert "qa/overall" in shown and "95 % intervals" in shown
    if words[0] == "eval" and "--out" in words:
        written = {path.name for path in Path(words[words.index("--out") + 1]).iterdir()}
        assert written >= ({"prompts.json"} if "compare-prompts" in words else {"scores.json", "report.html"})
