"""The command line: help, answers about any audio file, and one clear line for every bad input."""

import errno
import io
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_model import save_tiny_model
from tokenizers import Tokenizer, models

import alm
from alm.cli import _explain, build_parser, main
from alm.common.errors import UserError
from alm.common.processes import child_command, child_environment
from alm.common.terminal import progress, safe_streams

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, llm_dir):
    folder = tmp_path_factory.mktemp("cli") / "model"
    return save_tiny_model(llm_dir, folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Files of different container, sample rate, channel count and length."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, rate, channels, seconds in (
        ("a.ogg", 44100, 1, 5),
        ("b.wav", 8000, 1, 0.5),
        ("c.flac", 48000, 2, 1),
        ("d.mp3", 22050, 2, 2),
        ("e.wav", 16000, 1, 30),
    ):
        wave = 0.1 * rng.standard_normal((int(rate * seconds), channels))
        soundfile.write(folder / name, wave, rate)
    return folder


def subcommands(parser, prefix=()):
    """Every command path of a parser."""
    for action in parser._actions:
        for name, sub in (
            (getattr(action, "choices", None) or {}).items() if hasattr(action, "_parser_class") else ()
        ):
            yield (*prefix, name)
            yield from subcommands(sub, (*prefix, name))


def test_every_command_has_help_and_starts_at_once(capsys):
    commands = list(subcommands(build_parser()))
    assert ("quickstart",) in commands and ("data", "compose") in commands
    for command in [(), *commands]:
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "usage: alm" in text and len(text.split()) > 20
    code = "import sys; from alm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_ask_and_caption_take_any_audio(model_dir, sounds, capsys):
    files = sorted(str(path) for path in sounds.iterdir())
    assert main(["ask", str(model_dir), *files, "what is this sound", "--max-new-tokens", "3"]) == 0
    together = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in together] == ["a.ogg", "b.wav", "c.flac", "d.mp3", "e.wav"]
    for file, line in zip(files, together, strict=True):
        assert main(["ask", str(model_dir), file, "what is this sound", "--max-new-tokens", "3"]) == 0
        assert line.partition(": ")[2].strip() == capsys.readouterr().out.strip()
    assert main(["caption", str(model_dir), files[0], "--max-new-tokens", "3"]) == 0


def bad(name, folder):
    path = folder / name
    if name == "empty.wav":
        path.write_bytes(b"")
    elif name == "text.wav":
        path.write_text("this is no sound at all, only text " * 20)
    elif name == "zero-length.wav":
        soundfile.write(path, np.zeros(0), 16000)
    elif name == "nan.wav":
        soundfile.write(path, np.array([0.1, np.nan] * 8000, dtype=np.float32), 16000, subtype="FLOAT")
    elif name == "truncated.wav":
        soundfile.write(path, np.zeros(16000), 16000)
        path.write_bytes(path.read_bytes()[:9000])
    elif name == "corrupt.flac":
        soundfile.write(path, np.random.default_rng(0).standard_normal(16000) * 0.1, 16000)
        data = bytearray(path.read_bytes())
        data[200:] = os.urandom(len(data) - 200)
        path.write_bytes(bytes(data))
    elif name == "folder.wav":
        path.mkdir()
    elif name == "short.wav":
        soundfile.write(path, np.full(100, 0.1), 16000)
    return path


BAD_FILES = [
    "missing.wav", "empty.wav", "text.wav", "zero-length.wav", "nan.wav", "truncated.wav", "corrupt.flac",
    "folder.wav", "short.wav",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_audio_is_one_line_naming_the_file_and_the_rest_is_answered(
    model_dir, sounds, tmp_path, capsys, name
):
    path = bad(name, tmp_path)
    assert main(["caption", str(model_dir), str(path), str(sounds / "b.wav"), "--max-new-tokens", "2"]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and name in lines[0] and "Traceback" not in captured.err
    assert "1 of 2 files could not be answered" in captured.err
    assert [line.split(":")[0] for line in captured.out.splitlines()] == ["b.wav"]


def test_missing_audio_is_noticed_before_the_model_is_loaded(model_dir, capsys, monkeypatch):
    monkeypatch.setattr("alm.checkpoint.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    assert main(["ask", str(model_dir), "missing.wav", "What?", "--jsonl"]) == 1
    captured = capsys.readouterr()
    assert "1 of 1 files could not be answered" in captured.err and "missing.wav" in captured.err
    assert "no such file" in json.loads(captured.out)["error"]


def test_long_files_are_refused_beyond_a_budget_and_cut_only_when_asked(model_dir, sounds, capsys):
    command = ["ask", str(model_dir), str(sounds / "b.wav"), "What?", "--max-new-tokens", "2"]
    assert main([*command, "--max-audio-tokens", "1"]) == 1
    assert re.search(r"b\.wav: a clip of .* takes \d+ audio tokens, more than", capsys.readouterr().err)
    assert main([*command, "--max-audio-tokens", "1", "--first-s", "0.05"]) == 0
    with pytest.raises(SystemExit):
        main([*command, "--first-s", "-1"])
    assert "got '-1', expected more than 0 seconds" in capsys.readouterr().err


def test_loading_draws_no_bar(model_dir, sounds, capsys):
    assert main(["ask", str(model_dir), str(sounds / "b.wav"), "What?", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_empty_answers_are_explained(model_dir, sounds, capsys, monkeypatch):
    command = ["ask", str(model_dir), str(sounds / "b.wav"), "What?", "--max-new-tokens", "2"]
    monkeypatch.setattr("alm.generation.generate_answers", lambda *_, **__: [(0, " ")])
    assert main(command) == 0
    done = capsys.readouterr()
    assert done.out == "\n" and done.err.startswith(
        "1 of 1 answers are empty: the model ended its turn at once"
    )


def test_folders_patterns_lists_and_jsonl(model_dir, sounds, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.ogg", "b.wav"):
        (folder / name).write_bytes((sounds / name).read_bytes())
    (folder / "deep/c.WAV").write_bytes((sounds / "b.wav").read_bytes())
    (folder / "notes.txt").write_text("no audio")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder}/b.wav\n{tmp_path}/gone.wav\n"))
    words = [
        "caption",
        str(model_dir),
        "-",
        str(folder),
        str(folder / "*.ogg"),
        "--jsonl",
        "--batch-size",
        "2",
    ]
    assert main([*words, "--max-new-tokens", "2"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = [folder / "b.wav", tmp_path / "gone.wav", folder / "a.ogg", folder / "deep/c.WAV"]
    assert [row["audio"] for row in rows] == [str(path) for path in wanted]
    assert ["answer" in row for row in rows] == [True, False, True, True] and "gone.wav" in rows[1]["error"]
    (tmp_path / "empty").mkdir()
    assert main(["caption", str(model_dir), str(tmp_path / "empty")]) == 2
    assert_one_line(capsys, "empty", "no audio files")


def test_sampling_is_seeded_and_beams_run(model_dir, sounds, capsys):
    answers = []
    for extra in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"]):
        ask = ["ask", str(model_dir), str(sounds / "b.wav"), "what is this", "--temperature", "3"]
        assert main([*ask, "--max-new-tokens", "8", *extra]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]
    assert (
        main(["caption", str(model_dir), str(sounds / "b.wav"), "--beams", "3", "--max-new-tokens", "3"]) == 0
    )


def assert_one_line(capsys, *words):
    """One line on stderr, no traceback, nothing answered on stdout."""
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in captured.err, captured.err
    for word in words:
        assert word in lines[0], lines[0]
    return captured.out


def test_bad_configs_and_directories(model_dir, tmp_path, capsys):
    good = tmp_path / "good.yaml"
    good.write_text("stage: align\nout: x\nencoder: logmel\nllm: y\ndata: {train: [m.jsonl]}\n")
    assert main(["train", str(good), "optim.learning=3"]) == 2
    assert_one_line(capsys, "optim.learning", "valid keys")
    assert main(["train", str(good), "optim.lrr=3"]) == 2
    assert_one_line(capsys, "did you mean 'optim.lr'")
    assert main(["train", str(good), "optim.steps=many"]) == 2
    assert_one_line(capsys, "optim.steps", "int")
    assert main(["train", str(good), "projector=mlpp", f"out={tmp_path / 'o'}"]) == 2
    assert_one_line(capsys, "m.jsonl")
    (tmp_path / "m.jsonl").write_text(
        '{"id": "a", "audio": "a.wav", "question": "q", "answer": "a"}\n{"id": \n'
    )
    assert main(["train", str(good), f"data.train=[{tmp_path / 'm.jsonl'}]", f"out={tmp_path / 'o'}"]) == 2
    assert_one_line(capsys, "m.jsonl:2")
    assert not (tmp_path / "o/finished.json").exists()
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert_one_line(capsys, "none.yaml", "no such config")
    assert main(["caption", str(tmp_path), "a.wav"]) == 2
    assert_one_line(capsys, str(tmp_path))
    assert main(["caption", str(tmp_path / "nothing"), "a.wav"]) == 2
    assert_one_line(capsys, "nothing")
    (tmp_path / "file").write_text("")
    assert (
        main(
            ["data", "compose", "--out", str(tmp_path / "file/x"), "n_train=2", "n_validation=1", "n_test=1"]
        )
        == 2
    )
    assert_one_line(capsys, "file/x")
    assert main(["quickstart", "--out", str(tmp_path / "file/q")]) == 2
    assert_one_line(capsys, "file/q")
    assert main(["quickstart", "--out", str(tmp_path / "q"), "instruct.optim.stepz=3"]) == 2
    assert_one_line(capsys, "steps")
    assert not (tmp_path / "q").exists()


def test_a_quickstart_on_bad_labels_says_where(tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("filename,category,fold\nmissing.wav,dog,1\n")
    assert main(["quickstart", "--out", str(tmp_path / "q"), "--data", str(labels)]) == 2
    assert re.search(r"labels\.csv", assert_one_line(capsys, "labels.csv") + "labels.csv")


def test_a_crash_of_ours_is_not_dressed_up_as_the_users(monkeypatch):
    monkeypatch.setattr("alm.commands.listing._list", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list", "encoders"])


@pytest.mark.parametrize("what", ["encoders", "projectors", "metrics"])
def test_list(capsys, what):
    assert main(["list", what]) == 0
    assert capsys.readouterr().out.split()


def test_a_forgotten_question_is_noticed(tmp_path, capsys):
    (tmp_path / "b.wav").touch()
    assert main(["ask", "model", "a.wav", str(tmp_path / "b.wav")]) == 2
    assert_one_line(capsys, "question", "b.wav")


def alm_process(*words, cwd=None, env=None, **streams):
    """The command in a process of its own; only light commands, each takes a second."""
    streams.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(
        child_command("-m", "alm", *words),
        cwd=cwd,
        env=child_environment(env),
        stderr=subprocess.PIPE,
        **streams,
    )


def test_version_is_said_once(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"alm {alm.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "alm.__version__"}


def test_a_command_in_a_plugin_folder_is_one_file(tmp_path, capsys):
    (tmp_path / "hello.py").write_text(
        "from alm.commands import Command\n"
        "def add(commands):\n"
        "    parser = commands.add_parser('hello', help='greet')\n"
        "    parser.add_argument('name')\n"
        "    parser.set_defaults(run=lambda arguments: print('hello', arguments.name))\n"
        "COMMAND = Command(add)\n"
    )
    assert main(["hello", "you", "--plugins", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "hello you\n"
    with pytest.raises(SystemExit):
        main(["--plugins", str(tmp_path), "--help"])
    listed = re.findall(r"^    (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert listed[:4] == ["quickstart", "data", "init", "train"] and listed[-1] == "hello"
    (tmp_path / "other.py").write_text("COMMAND = 3\n")
    assert main(["hello", "you", "--plugins", str(tmp_path)]) == 2
    assert_one_line(capsys, "other.py", "COMMAND = Command(add)")


ENVIRONMENT_ERRORS = [
    (MemoryError(), "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device", "x/y"), "x/y: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
    (RecursionError("maximum"), "nested too deeply"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "surrogates not allowed"),
]


@pytest.mark.parametrize(("error", "words"), ENVIRONMENT_ERRORS, ids=lambda one: type(one).__name__)
def test_what_the_machine_refuses_is_one_line(monkeypatch, capsys, error, words):
    def fail(arguments):
        raise error

    monkeypatch.setattr("alm.commands.listing._list", fail)
    monkeypatch.delenv("ALM_TRACEBACK", raising=False)
    assert main(["list", "encoders"]) == 2
    assert_one_line(capsys, words, "ALM_TRACEBACK=1")
    monkeypatch.setenv("ALM_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["list", "encoders"])


def test_a_missing_file_of_ours_is_a_bug_and_says_where(monkeypatch):
    monkeypatch.setattr("alm.commands.listing._list", lambda arguments: open("/nonexistent/file"))
    with pytest.raises(FileNotFoundError):
        main(["list", "encoders"])


@pytest.mark.parametrize("words", [["list", "projectors"], ["--help"]])
def test_a_reader_that_has_gone_is_no_success(words):
    read, write = os.pipe()
    os.close(read)
    process = alm_process(*words, stdout=write)
    os.close(write)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 141 and said == b""


def test_a_full_disk_and_a_closed_output():
    with open("/dev/full", "w") as full:
        process = alm_process("list", "projectors", stdout=full)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2 and said.startswith("error: ") and "No space left" in said
    assert len(said.splitlines()) == 1
    command = " ".join(map(shlex.quote, child_command("-m", "alm", "list", "projectors")))
    done = subprocess.run(f"{command} >&-", shell=True, env=child_environment(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


LOCALES = [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]


@pytest.mark.parametrize("locale", LOCALES)
def test_names_that_the_locale_lacks(locale):
    process = alm_process("--plugins", "größe", "list", "encoders", env=locale)
    said = process.communicate(timeout=60)[1]
    assert (
        process.returncode == 2 and said.startswith(b"error: ") and b"gr\\" in said and b"fe is not" in said
    ), said


def test_names_cannot_act_on_the_terminal(model_dir, sounds, tmp_path, capsys, monkeypatch):
    """File names with escape sequences or invalid UTF-8 are shown as escapes, and written exactly into JSON."""
    folder = os.fsencode(tmp_path)
    names = [b"\x1b]52;c;aGk=\x07.wav", b"caf\xe9.wav", b"bad\x1b[2J.wav"]
    for name in names[:2]:
        with open(os.path.join(folder, name), "wb") as file:
            file.write((sounds / "b.wav").read_bytes())
    with open(os.path.join(folder, names[2]), "wb"):
        pass
    command = ["caption", str(model_dir), str(tmp_path), "--max-new-tokens", "2"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err.replace("\x1b[A", "")
    assert r"\x1b]52;c;aGk=\x07.wav: " in said.out and r"\udce9.wav: " in said.out
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert r"bad\x1b[2J.wav" in line
    assert main([*command, "--jsonl"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {os.fsencode(row["audio"]) for row in rows} == {os.path.join(folder, name) for name in names}
    raw = io.TextIOWrapper(io.BytesIO(b"\n".join(os.path.join(folder, name) for name in names[:2])))
    monkeypatch.setattr("sys.stdin", raw)
    assert main(["caption", str(model_dir), "-", "--max-new-tokens", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_words_that_no_file_can_be_named(model_dir, sounds, capsys):
    question = "what is this sound " * 20
    assert main(["ask", str(model_dir), str(sounds / "b.wav"), question, "--max-new-tokens", "2"]) == 0
    capsys.readouterr()
    good = str(sounds / "b.wav")
    assert main(["caption", str(model_dir), "x" * 300, "nul\0", good, "--max-new-tokens", "2"]) == 1
    said = capsys.readouterr()
    assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 2
    for words in (
        [str(model_dir), "caf\udce9*"],
        [str(model_dir), "nul\0*"],
        ["x" * 300, good],
        ["nul\0", good],
    ):
        assert main(["caption", *words]) == 2, words
    assert "Traceback" not in capsys.readouterr().err


def test_a_launch_that_is_half_set_up_is_one_line(tmp_path, capsys, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text("stage: align\nout: x\nencoder: logmel\nllm: y\ndata: {train: [m.jsonl]}\n")
    for variables in (
        {"RANK": "0"},
        {"LOCAL_RANK": "0"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
    ):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            for words in (["train", str(config)], ["eval", "manifest", "--model", "x"]):
                assert main(words) == 2
                assert_one_line(capsys, "MASTER_ADDR", "torchrun")


def test_lines_beside_a_progress_bar_begin_on_a_line_of_their_own(monkeypatch):
    both = io.StringIO()
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setattr(sys, "stdout", both)
    with safe_streams():
        with pytest.raises(ValueError), progress("answer", 3) as advance:
            advance(1)
            sys.stderr.write("\r 50%|###")
            print("warning:", "one", file=sys.stderr)  # in several writes
            sys.stderr.write("\r 60%|###")
            print("answer")
            sys.stderr.write("\r 70%|###")
            raise ValueError
        print("error: two", file=sys.stderr)
    assert "\n\n" not in both.getvalue()
    lines = re.split(r"[\r\n]", both.getvalue())
    assert {"warning: one", "answer", "error: two"} <= set(lines)
    for line in ("warning: one", "answer", "error: two"):
        assert f"\n{line}\n" in both.getvalue()


def test_a_full_disk_in_a_library_is_one_line(tmp_path):
    """`tokenizers` raises a bare Exception; a limit on the size of files stands in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        with pytest.raises(Exception, match="os error") as caught:
            Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert type(caught.value) is Exception
    assert _explain(caught.value) == "writing or reading: File too large (set ALM_TRACEBACK=1 to see where)"
    assert _explain(Exception("a fault of ours")) is None


DROPPED = {
    "a finaliser": "class Last:\n    def __del__(self):\n        send()\nLast()\n",
    "a weak reference": (
        "import weakref\none = type('One', (), {})()\nkept = weakref.ref(one, lambda _: send())\ndel one\n"
    ),
    "a callback of C": "import ctypes\nctypes.CFUNCTYPE(None)(send)()\n",
    "two finalisers in turn": (
        "class Slow:\n    def __del__(self):\n        time.sleep(0.3)\n"
        "class Last:\n    def __del__(self):\n        send()\nLast()\nSlow()\n"
    ),
    "another signal's handler": (
        "from eval.ablation.runner import _interrupt\nsignal.signal(signal.SIGTERM, _interrupt)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "class Last:\n    def __del__(self):\n        send(signal.SIGTERM)\nLast()\n"
    ),
}


@pytest.mark.parametrize("place", DROPPED)
def test_an_interrupt_that_python_drops_ends_the_command(place, tmp_path):
    """Python ignores an exception raised in these places, and the command would sleep for its hour."""
    run = (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"{DROPPED[place]}print('still here', flush=True)\ntime.sleep(3600)\n"
    )
    (tmp_path / "wait.py").write_text(
        "import os, signal, time\nfrom alm.commands import Command\n"
        "def send(number=signal.SIGINT):\n    os.kill(os.getpid(), number)\n    time.sleep(0)\n"
        f"def run(arguments):\n{textwrap.indent(run, '    ')}"
        "COMMAND = Command(lambda commands: commands.add_parser('wait', help='wait').set_defaults(run=run))\n"
    )
    with alm_process("wait", "--plugins", str(tmp_path)) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == b"interrupted; run the same command again to resume\n"
    assert out in (b"", b"still here\n")


def test_an_interrupt_is_the_parents_alone(tmp_path):
    """Ctrl-C goes to every process of a terminal; worker processes that are just starting print nothing."""
    code = (
        "import signal, sys, time\nfrom train.engine import parallel\nparallel.n_cores = lambda: 2\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "if __name__ == '__main__':\n"
        "    print('ready', flush=True)\n"
        "    try:\n        parallel.run_side_by_side([(time.sleep, (60,))] * 2)\n"
        "    except KeyboardInterrupt:\n        sys.exit(130)\n"
    )
    file = tmp_path / "two.py"
    file.write_text(code)
    process = subprocess.Popen(
        child_command(str(file)), env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 90
    while len(open(children).read().split()) < 3:  # two workers beside multiprocessing's resource tracker
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130 and said[1] == b"", said


def test_embed_goes_on_after_a_bad_file(sounds, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    out = tmp_path / "x.npz"
    latin = os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")
    Path(os.fsdecode(latin)).write_bytes((sounds / "b.wav").read_bytes())
    files = [str(sounds / "b.wav"), str(bad), os.fsdecode(latin), "x" * 300]
    assert main(["embed", "logmel", *files, "--out", str(out), "--batch-size", "1"]) == 1
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("error: ")][0].startswith(
        f"error: {bad}"
    )
    assert "2 of 4 files could not be embedded" in said.err
    with np.load(out) as found:
        assert found["files"].tolist() == [files[0], files[2]] and len(found["clip"]) == 2
        np.testing.assert_array_equal(found["clip"][0], found["clip"][1])
    assert main(["embed", "logmel", str(bad), "--out", str(tmp_path / "y.npz")]) == 1
    assert not (tmp_path / "y.npz").exists()
    for place in ("nul\0.npz", "missing/x.npz", "x.txt", "b.npz/x.npz"):
        assert main(["embed", "logmel", files[0], "--out", str(tmp_path / place)]) == 2
    (tmp_path / "folder.npz").mkdir()
    assert main(["embed", "logmel", files[0], "--out", str(tmp_path / "folder.npz")]) == 2


def test_channels_and_peaks_are_treated_as_asked(model_dir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    left, right = 0.3 * rng.standard_normal((2, 16000)).astype(np.float32)
    files = {
        "both": np.stack([left, 0.5 * right], 1),
        "left": left,
        "mean": (left + 0.5 * right) / 2,
        "loud": 40 * left,
    }
    for name, wave in files.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000, subtype="FLOAT")

    def features(name, *options):
        out = tmp_path / "x.npz"
        assert main(["embed", "logmel", str(tmp_path / f"{name}.wav"), "--out", str(out), *options]) == 0
        return np.load(out)["frames"]

    np.testing.assert_allclose(features("both"), features("mean"), atol=1e-4)
    np.testing.assert_allclose(features("both", "--channels", "loudest"), features("left"), atol=1e-4)
    quiet = features("loud", "--peak", "normalise")
    assert np.isfinite(quiet).all()
    capsys.readouterr()
    for command in (["embed", "logmel", str(tmp_path / "loud.wav"), "--out", str(tmp_path / "y.npz")],
                    ["ask", str(model_dir), str(tmp_path / "loud.wav"), "what", "--max-new-tokens", "1"]):  # fmt: skip
        assert main(command) == 1 and "loud.wav" in capsys.readouterr().err
        assert main([*command, "--peak", "normalise"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "values"),
    [("--batch-size", ["3"]), ("--max-new-tokens", ["9"]), ("--engine", ["vllm"]), ("--engine-options", ["--seed 1"]),
     ("--trust-remote-code", [])],
)  # fmt: skip
def test_options_of_a_server_that_runs_already_are_refused(option, values, capsys):
    words = [f"{option}={values[0]}"] if values else [option]
    assert main(["chat", "--url", "http://127.0.0.1:9/v1", *words]) == 2
    assert f"{option}: the server at --url has its own" in capsys.readouterr().err


def test_one_file_that_the_model_refuses_does_not_end_the_others(model_dir, sounds, capsys, monkeypatch):
    import alm.generation as generation

    answer = generation.generate_answers

    def refuse_long(model, processor, conversations, clips, **options):
        if any(len(clip) > 400_000 for (clip,) in clips):
            raise UserError("the prompt has 9000 tokens, the LLM's context 512")
        return answer(model, processor, conversations, clips, **options)

    monkeypatch.setattr(generation, "generate_answers", refuse_long)
    files = [str(sounds / name) for name in ("b.wav", "e.wav", "c.flac")]
    assert main(["caption", str(model_dir), *files, "--max-new-tokens", "2"]) == 1
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["b.wav", "c.flac"]
    assert f"error: {files[1]}: the prompt has 9000 tokens" in said.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "-1"), ("--seed", "4294967296"), ("--seed", "9" * 5000), ("--temperature", "nan"),
        ("--first-s", "inf"), ("--first-s", "x"), ("--batch-size", "0"), ("--beams", "٣" * 20),
    ],
)  # fmt: skip
def test_numbers_out_of_range_on_the_command_line(option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ask", "m", "a.wav", "q", option, value])
    assert stop.value.code == 2
    assert f"argument {option}: got '{value[:40]}', expected" in capsys.readouterr().err


def test_deepspeeds_notice_of_a_missing_gpu_is_not_among_the_results():
    code = (
        "from alm.cli import main; main(['list', 'losses'])\n"
        "from deepspeed.utils import logger\n"
        "logger.warning('Setting accelerator to CPU. If you have GPU'); logger.warning('another')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another" in done.stdout and "Setting accelerator" not in done.stdout + done.stderr
