"""The tutorials run as they are written, one after the other, in a folder with nothing but recordings."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alm.cli import main
from alm.common.plugins import PLUGINS
from alm.common.processes import child_environment
from encoders.audio import save_wav

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
sys.path.insert(0, str(ROOT / "docs"))
try:
    import tutorial_pages
finally:
    sys.path.pop(0)

SHORT = {"optim.steps": "2", "optim.batch_size": "2", "optim.warmup_steps": "1"}
"""Settings that stand in for those of a page."""


def page_blocks(name):
    return tutorial_pages.blocks((TUTORIALS / f"{name}.md").read_text(encoding="utf-8"))


def tone(path, number, seconds=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(np.arange(16000 * seconds) * (0.05 + 0.02 * number))
    save_wav(path, wave.astype(np.float32), 16000)


def answers(folder):
    """What was answered, by record and control."""
    lines = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return {(line["id"], line["control"]): line["prediction"] for line in lines}


class Reader:
    """Someone who does what the pages say, in one folder.

    Args:
        folder: Where they work.
        capsys: Reads what commands print.
    """

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        self.server = None

    def does(self, name):
        """Follow a page; commands print where it shows an output."""
        found = page_blocks(name)
        for block, *after in zip(found, [*found[1:], None], [*found[2:], None, None], strict=True):
            if block.is_file:
                (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / block.title).write_text(block.text, encoding="utf-8")
            elif block.is_run:
                printed = self.run(block)
                assert printed.strip() or not any(one and one.is_output for one in after[-1:]), block.text

    def run(self, block):
        self.capsys.readouterr()
        if block.kind == "python":
            code = compile(block.text.replace(":8000", f":{self.port}"), "page", "exec")
            exec(code, {"__name__": "__main__"})
            return self.capsys.readouterr().out
        for line in block.commands():
            words = shlex.split(line.replace("8000", self.port))
            assert words[0] == "alm"
            words = [self.short(word) for word in words[1:]]
            if words[-1] == "&":
                self.serve(words[:-1])
            else:
                assert main(words) == 0, (words, self.capsys.readouterr().err)
        return self.capsys.readouterr().out

    def short(self, word):
        key, _, value = word.partition("=")
        return f"{key}={SHORT[key]}" if key in SHORT and value else word

    def serve(self, words):
        self.leave()
        self.server = subprocess.Popen(
            [sys.executable, "-m", "alm", *words],
            cwd=self.folder,
            env=child_environment(),
            stdout=subprocess.DEVNULL,
        )
        tutorial_pages.wait_for_server(f"http://127.0.0.1:{self.port}/health", self.server)

    def leave(self):
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings in folders, spoken digits, and a tiny Whisper in the place of the published one."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    root = tmp_path_factory.mktemp("tutorials")
    for number, name in enumerate(("train/dog/a", "train/dog/b", "test/dog/c", "train/rain/a", "train/rain/b",
                                   "test/rain/c")):  # fmt: skip
        tone(root / "recordings" / f"{name}.wav", number)
    for digit in (0, 7):
        for speaker in ("nicolas", "jackson"):
            tone(root / "free-spoken-digit-dataset" / "recordings" / f"{digit}_{speaker}_0.wav", digit)
    config = WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=80, vocab_size=60, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(root / "whisper-tiny-en")
    WhisperFeatureExtractor().save_pretrained(root / "whisper-tiny-en")
    return root


@pytest.mark.slow
def test_tutorials_run_as_written(folder, llm_dir, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.delenv(PLUGINS, raising=False)
    reader = Reader(folder, capsys)
    try:
        for name in ("recordings", "encoder"):
            reader.does(name)
        assert (folder / "runs/align/model/eval/manifest/report.html").is_file()
        assert (folder / "runs/bands/model/config.json").is_file()
        shutil.copytree(llm_dir, folder / "smollm2")
        reader.does("real-parts")
        held_out = (folder / "runs/digits/model/eval/manifest/predictions.jsonl").read_text().splitlines()
        assert {json.loads(line)["references"][0] for line in held_out} == {"zero", "seven"}
        (folder / "quickstart/instruct").mkdir(parents=True)
        (folder / "quickstart/data").symlink_to(folder / "start/data")
        (folder / "quickstart/instruct/model").symlink_to(folder / "runs/align/model")
        pytest.importorskip("openai", reason="needs alm-toolkit[serve]")
        pytest.importorskip("uvicorn", reason="needs alm-toolkit[serve]")
        reader.does("benchmark")
        mine, theirs = (answers(folder / "out" / who) for who in ("mine", "theirs"))
        assert mine == theirs and mine
        reader.does("serving")
        reader.does("ablation")
    finally:
        reader.leave()


def test_the_pages_are_all_tutorials_in_their_order():
    listed = re.findall(r"tutorials/([\w-]+)\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert tuple(listed) == tutorial_pages.PAGES
    assert {page.stem for page in TUTORIALS.glob("*.md")} == set(tutorial_pages.PAGES)


@pytest.mark.parametrize("name", tutorial_pages.PAGES)
def test_a_notebook_is_what_its_page_says(name):
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    assert "".join(block.page() for block in tutorial_pages.blocks(text)) == text
    made = tutorial_pages.NOTEBOOKS / f"{name}.ipynb"
    assert made.read_text(encoding="utf-8") == tutorial_pages.notebook_text(text), (
        "run: python docs/tutorial_pages.py notebooks"
    )
    cells = json.loads(made.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for block in page_blocks(name):
        if block.is_run or block.is_file:
            assert block.text.strip("\n").replace(" &", "") in code
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    for cell in cells:
        for target in re.findall(r"\]\(([^)#\s]+)", "".join(cell["source"])):
            if cell["cell_type"] == "markdown" and not target.startswith("http"):
                assert (tutorial_pages.NOTEBOOKS / target).exists(), target


def test_new_outputs_replace_old_ones_only():
    text = 'a\n\n```bash\nalm --version\n```\n\n```text title="output"\nold\n```\n\n```text\nkept\n```\n'
    found = tutorial_pages.blocks(text)
    assert tutorial_pages.with_outputs(found, ["new"]) == text.replace("old", "new")
    assert "old" not in tutorial_pages.with_outputs(found, [""])
    (cell,) = [cell for cell in tutorial_pages.notebook(text)["cells"] if cell["cell_type"] == "code"]
    assert cell["outputs"][0]["text"] == ["old"] and cell["source"] == ["%%bash\n", "alm --version"]


def test_a_page_with_outputs_says_where_they_come_from():
    for name in tutorial_pages.PAGES:
        text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        said = re.findall(
            r"^Outputs of 20\d\d-\d\d-\d\d, commit [0-9a-f]{7}, .* cores; .*\.\n\nAs a", text, re.M
        )
        assert len(said) == any(block.is_output for block in page_blocks(name)), name
    page = "a\n\nlast\n"
    older, newer = "Outputs of 2026-01-01, one.", "Outputs of 2027-01-01, two."
    once = tutorial_pages.with_source(page, older)
    assert once == f"a\n\n{older}\n\nlast\n"
    assert tutorial_pages.with_source(once, newer) == once.replace(older, newer)
    assert re.fullmatch(r"Outputs of \S+, commit ([0-9a-f]{7}|unknown).*", tutorial_pages.output_source())


def test_the_ablation_on_the_page_is_valid(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (mine,) = [block for block in page_blocks("ablation") if block.title == "mine.yaml"]
    (tmp_path / "mine.yaml").write_text(mine.text)
    assert main(["config", "check", "mine.yaml"]) == 0, capsys.readouterr().err
    assert main(["config", "show", "mine.yaml"]) == 0 and "encoder: bands" in capsys.readouterr().out
